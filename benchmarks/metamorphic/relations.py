"""What must hold between two runs: the same run moved, scaled or renamed, and more of something never for the worse.

Each relation takes a case and gives a shortfall: 0 where it holds exactly, else by how much it does not, as a share.
None where the relation says nothing about the case. ``bound`` says what is tolerated, docs/concepts/invariants.md why.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from benchmarks.metamorphic.cases import Case, Hardware
from simulator.engine.result import EngineResult
from simulator.engine.run import run_replicas
from simulator.serving import Refusal
from simulator.simulate import SimulatedPlan
from simulator.steps.step_tables import StepTables
from simulator.workload.scale import scale_workload
from simulator.workload.workload import OpenLoop

Relation = Callable[[Case], float | None]

_SHIFTS_S: Final = (43_200.0, 86_400.0 * 200, 1_700_000_000.0)
_TIMES: Final = 2


def shift_of_time(case: Case) -> float | None:
    """Record the trace later: the same metrics, bit for bit."""
    if not isinstance(case.workload.client, OpenLoop):
        return None
    shift_s = _SHIFTS_S[case.seed % len(_SHIFTS_S)]
    arrival_s = np.round(case.workload.arrival_s * 1024) / 1024  # held exactly after the shift as well
    early, late = (
        replace(case, workload=replace(case.workload, arrival_s=arrival_s + s)).replay() for s in (0, shift_s)
    )
    if isinstance(early, Refusal) or isinstance(late, Refusal):
        return None
    return 0.0 if early.metrics == late.metrics else 1.0


def scale_of_time(case: Case) -> float | None:
    """Ask a machine twice as slow at half the rate: twice the time; by how much the worst request is off."""
    start = case.start()
    if isinstance(start, Refusal):
        return None
    tables = start.compiled.tables()
    frontend_s = np.round(start.limits.frontend_s * 1e12) / 1e12
    gap_s = np.round(start.limits.frontend_gap_s * 1e12) / 1e12
    limits = replace(start.limits, frontend_s=frontend_s, frontend_gap_s=gap_s)
    slow_limits = replace(
        limits,
        frontend_s=_TIMES * frontend_s,
        frontend_gap_s=_TIMES * gap_s,
        draft_step_s=_TIMES * limits.draft_step_s,
    )
    think_s = case.workload.think_s
    slow = replace(
        case.workload,
        arrival_s=case.workload.arrival_s * _TIMES,
        think_s=None if think_s is None else think_s * _TIMES,
    )
    dp = start.plan.dp
    one = run_replicas(tables, limits, case.workload, dp=dp)
    two = run_replicas(_slower(tables), slow_limits, slow, dp=dp)
    if (one.status != two.status).any():
        return 1.0
    done = one.is_finished
    if not done.any():
        return None
    off = np.abs(two.finish_ps[done] - _TIMES * one.finish_ps[done])
    return float(off.max()) / float(max(1, one.finish_ps[done].max()))


def permutation_of_replicas(case: Case) -> float | None:
    """Let replicas change places: the same requests at the same times."""
    dp = case.plan.dp
    if dp == 1 or not isinstance(case.workload.client, OpenLoop):
        return None
    rng = np.random.default_rng(case.seed)
    places, order = rng.integers(0, dp, len(case.workload)), rng.permutation(dp)
    one, two = (
        replace(case, workload=replace(case.workload, replica=replica)).replay() for replica in (places, order[places])
    )
    if isinstance(one, Refusal) or isinstance(two, Refusal):
        return None
    runs = [_run(one), _run(two)]
    for name in ("arrival_ps", "scheduled_ps", "first_token_ps", "finish_ps", "status", "preemptions", "hit_tokens"):
        if (getattr(runs[0], name) != getattr(runs[1], name)).any():
            return 1.0
    if (runs[0].replicas.busy_ps != runs[1].replicas.busy_ps[order]).any():
        return 1.0
    # Energies of replicas are added up in another order.
    return _largest_difference(one.metrics, two.metrics)


def faster_device(case: Case) -> float | None:
    """Speed arithmetic and memory up by a quarter: mean end-to-end latency never longer."""
    return latency_growth(case, replace(case, hardware=Hardware(device=1.25)))


def faster_link(case: Case) -> float | None:
    """Double the links: mean end-to-end latency never longer."""
    if case.plan.tp * case.plan.pp == 1:
        return None
    return latency_growth(case, replace(case, hardware=Hardware(link=2.0)))


def faster_clock(case: Case) -> float | None:
    """Lock the clock a quarter higher: mean end-to-end latency never longer."""
    low, high = (replace(case, plan=replace(case.plan, clock_mhz=mhz)) for mhz in (1000.0, 1250.0))
    return latency_growth(low, high)


def alone(relation: Relation) -> Relation:
    """Return the relation asked of the first request alone: no queue, no batch, no luck."""

    def on_one(case: Case) -> float | None:
        return relation(replace(case, workload=replace(case.workload.head(1), client=OpenLoop())))

    return on_one


def more_memory(case: Case) -> float | None:
    """Add a third of the memory: the limits on sequences never fall, nor KV where the batch limits are stated."""
    less, more = (replace(case, hardware=Hardware(memory=factor)).start() for factor in (1.0, 4 / 3))
    if isinstance(less, Refusal):
        return None
    if isinstance(more, Refusal):
        return 1.0
    pairs = [(less.server.max_num_seqs, more.server.max_num_seqs)]
    stated = case.overrides
    if stated.max_num_seqs is not None and stated.max_num_batched_tokens is not None:
        pairs.append((less.limits.num_gpu_blocks, more.limits.num_gpu_blocks))
    return max(0.0, *(1 - after / before for before, after in pairs))


def more_blocks(case: Case) -> float | None:
    """Add half of the KV blocks: the most requests running at once never fewer."""
    blocks = case.overrides.num_gpu_blocks
    if blocks is None:
        return None
    counts = (blocks, blocks * 3 // 2)
    less, more = (
        replace(case, overrides=replace(case.overrides, num_gpu_blocks=count)).run(log=True) for count in counts
    )
    if isinstance(less, Refusal):
        return None
    if isinstance(more, Refusal):
        return 1.0
    before, after = _most_running(less), _most_running(more)
    return max(0.0, 1 - after / before) if before else None


def _most_running(run: EngineResult) -> int:
    assert run.log is not None
    return int(run.log["running"].max(initial=0))


def more_load(case: Case) -> float | None:
    """Send requests twice as fast: mean end-to-end latency never shorter."""
    workload = case.workload
    if not isinstance(workload.client, OpenLoop) or workload.after is not None or len(workload) == 1:
        return None
    return latency_growth(replace(case, workload=scale_workload(workload, 2.0)), case)


EXACT: Final[Mapping[str, Relation]] = {
    "shift of time": shift_of_time,
    "scale of time": scale_of_time,
    "permutation of replicas": permutation_of_replicas,
    "faster device, one request": alone(faster_device),
    "faster link, one request": alone(faster_link),
    "faster clock, one request": alone(faster_clock),
    "more memory": more_memory,
}
BOUNDED: Final[Mapping[str, Relation]] = {
    "faster device": faster_device,
    "faster link": faster_link,
    "faster clock": faster_clock,
    "more blocks": more_blocks,
    "more load": more_load,
}
RELATIONS: Final[Mapping[str, Relation]] = {**EXACT, **BOUNDED}
_ROUNDING: Final = 1e-9
_BATCHING: Final = 0.1
_OVERLAP: Final = 0.25
_PIPELINES: Final = 1.0


def bound(name: str, case: Case) -> float:
    """How far the relation may fall short: rounding where it is exact, else what batching and pipelines may cost."""
    if name in EXACT:
        return _ROUNDING
    if case.plan.pp > 1:
        return _PIPELINES
    return _OVERLAP if name == "more blocks" else _BATCHING


def _run(result: SimulatedPlan) -> EngineResult:
    assert result.run is not None
    return result.run


def latency_growth(before: Case, after: Case) -> float | None:
    """By which share the mean latency of ``after`` exceeds that of ``before``, over requests that both answer."""
    one = before.run()
    if isinstance(one, Refusal):
        return None
    two = after.run()
    if isinstance(two, Refusal):
        return 1.0
    both = one.is_finished & two.is_finished
    if not both.any():
        return None
    slow, fast = (float((run.finish_ps[both] - run.arrival_ps[both]).mean()) for run in (one, two))
    return max(0.0, fast / slow - 1)


def _largest_difference(one: Any, two: Any) -> float:
    """Largest relative difference between the numbers of two trees."""
    if isinstance(one, Mapping):
        if set(one) != set(two):
            return 1.0
        return max((_largest_difference(one[key], two[key]) for key in one), default=0.0)
    if isinstance(one, float) and isinstance(two, float) and not (math.isnan(one) and math.isnan(two)):
        return abs(one - two) / max(abs(one), abs(two), 1e-300)
    return 0.0 if one == two or one is two else 1.0


def _slower(tables: StepTables) -> StepTables:
    """Return the tables with every time multiplied."""
    costs = {name: getattr(tables, name) * _TIMES for name in StepTables.__slots__ if name.endswith("_ps")}
    return replace(tables, **costs)
