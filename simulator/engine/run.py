"""Simulate the replicas of a plan serving a workload, step by step, on integer time."""

from typing import Final

import numpy as np

from simulator.engine.arena import state_arena
from simulator.engine.bounds import (
    ADMISSIONS_FULL,
    CLOCK_END,
    EPOCHS_FULL,
    LAST_ADMISSION,
    LAST_EPOCH,
    NEVER,
    NODES_FULL,
    PAUSED,
    STAGE_TIME_FULL,
    STUCK,
)
from simulator.engine.checks import check_input
from simulator.engine.conservation import RunSums
from simulator.engine.cost_arrays import cost_arrays
from simulator.engine.costs import Costs
from simulator.engine.interrupt import check_stop
from simulator.engine.policies import Engine, engine_for
from simulator.engine.request import FINISHED, TIMED_OUT
from simulator.engine.result import EngineResult, is_under_way, result_from_state
from simulator.engine.rules import rules_of
from simulator.engine.state_arrays import StateArrays
from simulator.engine_profiles.engine_limits import EngineLimits, RouterName
from simulator.errors import EngineDefectError, EngineLimitError
from simulator.steps.step_tables import StepTables
from simulator.workload.span import shown_span
from simulator.workload.workload import Workload

_LOG_ROWS: Final = 4096
SLICE_TURNS: Final = 1 << 15  # turns of the event loop: some 10 ms, a few hundred where every step walks a long list
_FULL: Final = {
    STAGE_TIME_FULL: f"the stages of a replica work for more than {shown_span(CLOCK_END * 1e-12)} taken together",
    EPOCHS_FULL: f"a replica takes more than {LAST_EPOCH:,} decode steps",
    ADMISSIONS_FULL: f"a replica admits more than {LAST_ADMISSION:,} requests",
    NODES_FULL: "the radix cache of a replica is cut into more pieces than were foreseen",
}
_LONG_HINT: Final = "cut the trace into parts, or press it into less time with --rate-scale"


def run_replicas(
    tables: StepTables,
    limits: EngineLimits,
    workload: Workload,
    *,
    dp: int = 1,
    attention_dp: int = 1,
    router: RouterName = "round_robin",
    leap: bool = True,
    log: bool = False,
) -> EngineResult:
    """Serve ``workload`` on ``dp`` replicas, each with the costs ``tables`` and the limits ``limits``.

    With ``attention_dp`` above 1 every replica is that many schedulers, each with ``limits`` of its own, which step
    together (``lockstep``); replica numbers then count schedulers, those of one replica in a row.

    ``leap`` runs many decode-only steps at once; the result is the same, bit for bit. ``log`` keeps one row per
    iteration. A recorded ``workload.replica`` overrides ``router``. Raises ``UserError`` for input the engine cannot
    model; a request that can never run is reported by its status, not by an error. Requests and tokens that come out
    are checked against those that went in (``conservation``).
    """
    check_input(tables, limits, workload, dp, attention_dp)
    rules = rules_of(tables, limits, workload, router=router, leap=leap, ranks=attention_dp)
    costs = cost_arrays(tables, limits)
    engine = engine_for(tables, limits, attention_dp)
    rows = _LOG_ROWS if log else 0
    while True:
        state = state_arena(rules, workload, dp=dp * attention_dp, log_rows=rows)
        run_engine(engine, state, costs, workload.name)
        needed = int(state.header.log_size)
        if needed <= rows or not log:
            _give_up_late_answers(state)
            result = result_from_state(state)
            ledger = RunSums()
            ledger.add(result)
            items = 0 if workload.items is None else workload.items.of_answered(result.is_finished)
            ledger.check(workload.name, len(workload), result.replicas, items=items)
            return result
        rows = needed


def _give_up_late_answers(state: StateArrays) -> None:
    """Count as timed out what was answered after its deadline: the last token was under way when the client left."""
    if state.header.timeout_ps:
        requests = state.requests
        is_late = requests["finish_ps"] - requests["arrival_ps"] > state.header.timeout_ps
        requests["status"][is_late & (requests["status"] == FINISHED)] = TIMED_OUT


def run_engine(engine: Engine, state: StateArrays, costs: Costs, name: str) -> None:
    """Run the workload ``name`` up to the horizon of ``state``, in slices between which it can be interrupted.

    Raises ``EngineLimitError`` where it goes on longer than the engine counts, ``EngineDefectError`` where it is stuck.
    """
    header = state.header
    code = PAUSED
    while code == PAUSED:
        check_stop()
        header.budget = SLICE_TURNS
        code = engine(state.compiled, costs)
    raise_for(code, state, name)
    is_over = header.horizon_ps < CLOCK_END or header.next_time_ps == NEVER
    left = 0 if is_over else int(np.count_nonzero(is_under_way(state.requests)))
    if left:
        raise EngineLimitError(
            f"workload {name!r}: {left} of {header.num_requests} requests are not answered after "
            f"{shown_span(CLOCK_END * 1e-12)}, as far as the engine's clock counts",
            hint=_LONG_HINT,
        )


def raise_for(code: int, state: StateArrays, name: str) -> None:
    """Raise ``EngineDefectError`` where a run got stuck, ``EngineLimitError`` where one of its counters is full."""
    if code == STUCK:
        raise EngineDefectError(f"workload {name!r} leaves a request that can never be admitted")
    if state.header.full:
        raise EngineLimitError(f"workload {name!r}: {_FULL[int(state.header.full)]}", hint=_LONG_HINT)
