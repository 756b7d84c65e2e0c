"""A workload served in parts gives the times of the same workload served whole."""

from dataclasses import replace

import numpy as np
import pytest

from cluster_specs.errors import UserError
from simulator.engine.run import run_replicas
from simulator.engine.stream import run_stream
from simulator.engine_profiles.engine_limits import EngineLimits, RouterName
from simulator.steps.step_tables import linear_tables
from simulator.workload.workload import ClosedLoop, Workload

LIMITS = EngineLimits(
    policy="vllm-v1",
    max_num_seqs=20,
    max_num_batched_tokens=300,
    max_model_len=400,
    block_size=16,
    num_gpu_blocks=150,
    frontend_s=3e-9,
)
TABLES = linear_tables(
    max_num_seqs=20,
    max_num_batched_tokens=300,
    step_ps=2_000,
    token_ps=20,
    decode_kv_ps=3,
    windowed_kv_ps=2,
    window_tokens=64,
    stages=1,
)


def arrivals(n: int) -> Workload:
    """Draw requests that now and then outgrow the blocks."""
    rng = np.random.default_rng(3)
    return Workload(
        name="long",
        arrival_s=np.cumsum(rng.exponential(12e-9, n)),
        prompt_tokens=rng.integers(1, 250, n),
        output_tokens=rng.integers(0, 100, n),
    )


def split(workload: Workload, size: int) -> list[Workload]:
    """Cut a workload into parts of ``size`` requests."""
    return [
        replace(
            workload,
            arrival_s=workload.arrival_s[at : at + size],
            prompt_tokens=workload.prompt_tokens[at : at + size],
            output_tokens=workload.output_tokens[at : at + size],
        )
        for at in range(0, len(workload), size)
    ]


@pytest.mark.parametrize("router", ["round_robin", "vllm", "least_outstanding"])
@pytest.mark.parametrize("size", [1, 7, 400])
def test_parts_give_the_times_of_the_whole(router: RouterName, size: int) -> None:
    """Every request keeps its place, times, preemptions and replica, and the replicas end with the same sums."""
    whole = run_replicas(TABLES, LIMITS, arrivals(1500), dp=3, router=router)
    parts = list(run_stream(TABLES, LIMITS, split(arrivals(1500), size), dp=3, router=router))
    names = ("arrival_ps", "scheduled_ps", "first_token_ps", "finish_ps", "preemptions", "replica", "output_tokens")
    streamed = np.column_stack([np.concatenate([getattr(part, name) for part in parts]) for name in names])
    expected = np.column_stack([getattr(whole, name) for name in names])
    assert whole.preemptions.sum() > 0
    index = np.concatenate([np.zeros(0, np.int64) if part.index is None else part.index for part in parts])
    assert sorted(index) == list(range(1500))
    assert streamed[np.argsort(index)].tolist() == expected.tolist()
    assert parts[-1].replicas.busy_ps.tolist() == whole.replicas.busy_ps.tolist()
    assert parts[-1].replicas.peak_blocks.tolist() == whole.replicas.peak_blocks.tolist()


@pytest.mark.parametrize("size", [7, 100, 333])
def test_parts_that_end_between_two_snapshots_change_no_routing(size: int) -> None:
    """A router that judges by snapshots sees those of the whole run, taken every 100 ms, wherever parts are cut."""
    tables = linear_tables(
        max_num_seqs=20, max_num_batched_tokens=300, step_ps=4_000_000_000, token_ps=40_000_000, decode_kv_ps=6_000_000
    )
    slow = replace(arrivals(1500), arrival_s=arrivals(1500).arrival_s * 2e6)
    whole = run_replicas(tables, LIMITS, slow, dp=3, router="vllm")
    parts = list(run_stream(tables, LIMITS, split(slow, size), dp=3, router="vllm"))
    index = np.concatenate([np.zeros(0, np.int64) if part.index is None else part.index for part in parts])
    assert np.concatenate([part.replica for part in parts])[np.argsort(index)].tolist() == whole.replica.tolist()
    assert np.concatenate([part.finish_ps for part in parts])[np.argsort(index)].tolist() == whole.finish_ps.tolist()


def test_parts_out_of_order_and_closed_loops_are_refused() -> None:
    """A part that starts before the last one ended, or a client that waits for answers, is an error by name."""
    parts = split(arrivals(20), 10)
    with pytest.raises(UserError, match="before the end of the part before it"):
        list(run_stream(TABLES, LIMITS, parts[::-1]))
    with pytest.raises(UserError, match="only open loops"):
        list(run_stream(TABLES, LIMITS, [replace(parts[0], client=ClosedLoop(concurrency=2))]))
