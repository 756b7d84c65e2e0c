"""Simulate the replicas of a plan serving a workload, step by step, on integer time."""

from typing import Final

import numpy as np

from simulator.engine import layout
from simulator.engine.arena import cost_arena, rules_header, state_arena
from simulator.engine.checks import check_input
from simulator.engine.conservation import Ledger
from simulator.engine.interrupt import check_stop
from simulator.engine.layout import CLOCK_END, I64, NEVER
from simulator.engine.loop import PAUSED
from simulator.engine.policies import STUCK, Engine, engine_for
from simulator.engine.result import EngineResult, is_under_way, result_from_state
from simulator.errors import EngineDefectError, EngineLimitError
from simulator.limits import EngineLimits, RouterName
from simulator.step_tables import StepTables
from simulator.workload.span import shown_span
from simulator.workload.workload import Workload

_LOG_ROWS: Final = 4096
_SLICE_TURNS: Final = 1 << 15  # turns of the event loop: some 10 ms, a few hundred where every step walks a long list
_FULL: Final = {
    layout.STAGE_TIME: f"the stages of a replica work for more than {shown_span(CLOCK_END * 1e-12)} taken together",
    layout.EPOCHS: f"a replica takes more than {layout.LAST_EPOCH:,} decode steps",
    layout.ADMISSIONS: f"a replica admits more than {layout.LAST_ADMISSION:,} requests",
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

    ``leap`` runs stretches of decode-only steps at once; the result is the same, bit for bit. ``log`` keeps one row per
    iteration. A recorded ``workload.replica`` overrides ``router``. Raises ``UserError`` for input the engine cannot
    model; a request that can never run is reported by its status, not by an error. Requests and tokens that come out
    are checked against those that went in (``conservation``).
    """
    check_input(tables, limits, workload, dp, attention_dp)
    header = rules_header(tables, limits, workload, router=router, leap=leap)
    header[layout.RANKS] = attention_dp
    costs = cost_arena(tables, limits)
    engine = engine_for(tables, limits, attention_dp)
    rows = _LOG_ROWS if log else 0
    while True:
        state = state_arena(header, workload, dp=dp * attention_dp, log_rows=rows)
        run_engine(engine, state, costs, workload.name)
        needed = int(state[layout.LOG_SIZE])
        if needed <= rows or not log:
            _give_up_late_answers(state)
            result = result_from_state(state)
            ledger = Ledger()
            ledger.add(result)
            ledger.check(workload.name, len(workload), result.replicas)
            return result
        rows = needed


def _give_up_late_answers(state: I64) -> None:
    """Count as timed out what was answered after its deadline: the last token was under way when the client left."""
    if state[layout.TIMEOUT]:
        rows = state[state[layout.REQUESTS] :].reshape(-1, layout.REQUEST_COLUMNS)
        is_late = rows[:, layout.FINISH] - rows[:, layout.ARRIVAL] > state[layout.TIMEOUT]
        rows[is_late & (rows[:, layout.STATUS] == layout.FINISHED), layout.STATUS] = layout.TIMED_OUT


def run_engine(engine: Engine, state: I64, costs: I64, name: str) -> None:
    """Run the workload ``name`` up to the horizon of ``state``, in slices between which it can be interrupted.

    Raises ``EngineLimitError`` where it goes on longer than the engine counts, ``EngineDefectError`` where it is stuck.
    """
    code = PAUSED
    while code == PAUSED:
        check_stop()
        state[layout.BUDGET] = _SLICE_TURNS
        code = engine(state, costs)
    rows = state[state[layout.REQUESTS] :].reshape(-1, layout.REQUEST_COLUMNS)
    if code == STUCK:
        raise EngineDefectError(f"workload {name!r} leaves a request that can never be admitted")
    if state[layout.FULL]:
        raise EngineLimitError(f"workload {name!r}: {_FULL[int(state[layout.FULL])]}", hint=_LONG_HINT)
    is_over = state[layout.HORIZON] < CLOCK_END or state[layout.NEXT_TIME] == NEVER
    left = 0 if is_over else int(np.count_nonzero(is_under_way(rows)))
    if left:
        raise EngineLimitError(
            f"workload {name!r}: {left} of {len(rows)} requests are not answered after "
            f"{shown_span(CLOCK_END * 1e-12)}, as far as the engine's clock counts",
            hint=_LONG_HINT,
        )
