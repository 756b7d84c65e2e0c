"""Simulate the replicas of a plan serving a workload, step by step, on integer time."""

from typing import Final

from simulator.engine import layout
from simulator.engine.arena import cost_arena, rules_header, state_arena
from simulator.engine.checks import check_input
from simulator.engine.layout import I64
from simulator.engine.policies import STUCK, Engine, engine_for
from simulator.engine.result import EngineResult, result_from_state
from simulator.limits import EngineLimits, RouterName
from simulator.step_tables import StepTables
from simulator.workload.workload import Workload

_LOG_ROWS: Final = 4096


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
    model; a request that can never run is reported by its status, not by an error.
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
            return result_from_state(state)
        rows = needed


def run_engine(engine: Engine, state: I64, costs: I64, name: str) -> None:
    """Run the workload ``name`` up to the horizon of ``state``."""
    if engine(state, costs) == STUCK:
        raise RuntimeError(f"engine defect: workload {name!r} leaves a request that can never be admitted")
