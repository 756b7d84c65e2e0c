"""The engine's state as rows of named fields in one array that can be moved."""

import numpy as np
import pytest

from simulator.engine.arena import state_arena
from simulator.engine.bounds import DONE, PAUSED
from simulator.engine.cost_arrays import cost_arrays
from simulator.engine.policies import engine_for
from simulator.engine.records import PLACE_BYTES, Record, Small
from simulator.engine.replica import Replica
from simulator.engine.request import Request
from simulator.engine.result import result_from_state
from simulator.engine.rules import rules_of
from simulator.engine.state import State
from simulator.engine.state_arrays import LINE_BYTES, StateArrays, aligned_zeros
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.steps.step_tables import linear_tables
from simulator.workload.workload import ClosedLoop, Workload

LIMITS = EngineLimits(
    policy="vllm-v1",
    max_num_seqs=8,
    max_num_batched_tokens=64,
    max_model_len=400,
    block_size=16,
    num_gpu_blocks=40,
)
TABLES = linear_tables(max_num_seqs=8, max_num_batched_tokens=64, step_ps=2_000, token_ps=20, decode_kv_ps=3)


class Nested(Record):
    """One field in each width, and a row inside."""

    flag: bool
    narrow: Small
    wide: int


class Outer(Record):
    """A row that holds another one."""

    first: int
    inner: Nested


def test_a_record_is_laid_out_as_c_lays_out_a_struct() -> None:
    """Fields keep their order, each at a multiple of its width, and rows are a whole number of int64 long."""
    assert [Nested.dtype.fields[name][1] for name in ("flag", "narrow", "wide")] == [0, 4, 8]  # type: ignore[index]
    assert Outer.dtype["inner"] == Nested.dtype
    for record in (Outer, State, Replica, Request):
        assert record.dtype.itemsize % PLACE_BYTES == 0


def test_a_request_fills_whole_lines_of_cache() -> None:
    """No two requests share a line: a row is four lines long, and the table begins at one."""
    state = state_arena(rules(), workload(), dp=3, log_rows=5)
    assert Request.dtype.itemsize == 4 * LINE_BYTES
    assert state.requests.ctypes.data % LINE_BYTES == 0


def rules() -> State:
    """Return the rules of the runs below."""
    return rules_of(TABLES, LIMITS, workload(), router="least_outstanding", leap=True)


def workload() -> Workload:
    """Draw requests that now and then outgrow the blocks, sent by slots."""
    rng = np.random.default_rng(5)
    return Workload(
        name="moved",
        arrival_s=np.zeros(200),
        prompt_tokens=rng.integers(1, 250, 200),
        output_tokens=rng.integers(0, 100, 200),
        client=ClosedLoop(concurrency=30, warmup=7),
    )


@pytest.mark.parametrize("turns", [1, 50])
def test_a_state_can_be_moved_between_any_two_turns(turns: int) -> None:
    """A run copied into another array after every few turns, its old array overwritten, ends as one left in place."""
    engine = engine_for(TABLES, LIMITS)
    costs = cost_arrays(TABLES, LIMITS)
    whole = state_arena(rules(), workload(), dp=2, log_rows=0)
    whole.header.budget = 1 << 40
    assert engine(whole.compiled, costs) == DONE
    state = state_arena(rules(), workload(), dp=2, log_rows=0)
    moves = 0
    code = PAUSED
    while code == PAUSED:
        moved = StateArrays(aligned_zeros(len(state.cells)))
        moved.cells[:] = state.cells
        state.cells[:] = -9
        state = moved
        state.header.budget = turns
        code = engine(state.compiled, costs)
        moves += 1
    assert code == DONE
    assert moves > 5
    expected, result = result_from_state(whole), result_from_state(state)
    assert result.finish_ps.tolist() == expected.finish_ps.tolist()
    assert result.preemptions.tolist() == expected.preemptions.tolist()
    assert result.preemptions.any()
