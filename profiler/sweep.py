"""What a run measures, in order: one plan over collectives and compute points, a share of these twice.

With clocks to lock there is a plan for each, and one for collectives before, whose clocks nobody locks; they get the
part of the budget that buys both as many points to a label, a third at most. Points are repeated while their own clock
is still in force: at another clock the repeat would tell of the clock.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from profiler.bench import Bench
from profiler.collectives.bench import CollectiveBench
from profiler.collectives.groups import GroupLayout, default_levels, group_layouts
from profiler.collectives.rounds import CollectiveRounds
from profiler.compute_rounds import ComputeRounds
from profiler.drift import drift_frac, measure_drift
from profiler.instruments.clocks import ClockControl
from profiler.machine import Machine
from profiler.planning.adaptive import AdaptivePlan
from profiler.planning.planner import FixedPlan, Planner
from profiler.planning.points_to_measure import PointsToMeasure, place_collectives, step_shares
from profiler.planning.series import in_labels
from profiler.point import Point, answers
from profiler.ranks import RankPlace
from profiler.request import ProfileRequest
from profiler.rounds import Rounds
from profiler.run import Run

if TYPE_CHECKING:
    from costmodel.fitting.prior import Prior

_COLLECTIVES_SHARE: Final = 0.35  # at most
BUDGET_SHARE: Final = 0.95
_CLOCK_TOLERANCE_MHZ: Final = 20.0  # one step of 15 MHz and what reading back rounds away


def layouts_of(machine: Machine, place: RankPlace) -> list[GroupLayout]:
    """Return the groups collectives are measured over: none for a single rank."""
    if place.world_size == 1:
        return []
    levels = default_levels(
        place.world_size, place.ranks_per_node, device_kind=machine.kind, has_nvlink=machine.has_nvlink
    )
    return group_layouts(place.world_size, place.ranks_per_node, levels)


def collectives_share(collective_labels: int, compute_labels: int, ranks: int) -> float:
    """Return the share of the budget after which collectives make room; all ranks measure a collective together."""
    if not compute_labels:
        return BUDGET_SHARE
    together = collective_labels * ranks
    return min(_COLLECTIVES_SHARE, BUDGET_SHARE * together / (together + compute_labels))


def measure_workload(
    run: Run,
    request: ProfileRequest,
    machine: Machine,
    bench: Bench,
    workload: PointsToMeasure,
    *,
    wants_energy: Callable[[Point], bool],
) -> None:
    """Measure until the plans are fulfilled or time is up; all ranks call it together."""
    for note in (*machine.notes, *workload.notes):
        _say(run, note)
    alone = ComputeRounds(run, bench, hang_s=request.policy.hang_s, wants_energy=wants_energy)
    prior = _prior(run, request, machine)
    ratios: list[float] = []
    clocks: tuple[int | None, ...] = request.clocks_mhz or (None,)
    with _collectives(run, request, machine, workload) as (together, collectives), machine.clocks() as control:
        rounds = Rounds(run, alone, together)
        if request.clocks_mhz and collectives:
            labels = len(in_labels(collectives)), len(in_labels(workload.compute))
            share = collectives_share(*labels, run.ranks.place.world_size)
            _fulfil(rounds, _planner(request, collectives, run, prior), share, run)
        for index, clock_mhz in enumerate(clocks):
            in_force = None if clock_mhz is None else _lock(run, control, clock_mhz)
            beside = () if request.clocks_mhz else collectives
            points = [*beside, *(point.at(in_force) for point in workload.compute)]
            alone.timed.clear()
            _fulfil(rounds, _planner(request, points, run, prior), BUDGET_SHARE, run)
            ratios += measure_drift(run, bench, alone.timed, seed=request.seed)
            if clock_mhz is not None and in_force is None:
                if rest := ", ".join(map(str, clocks[index + 1 :])):
                    _say(run, f"left out: {rest} MHz, which would be the same unlocked clock again")
                break
    run.outcome.drift_frac, run.outcome.drift_points = drift_frac(ratios), len(ratios)


def _say(run: Run, note: str) -> None:
    """Tell it now and in the summary."""
    run.talk(note)
    run.outcome.notes.append(note)


def _prior(run: Run, request: ProfileRequest, machine: Machine) -> "Prior | None":
    """Return the earlier fit that rank 0, which plans for all, starts from."""
    if run.ledger is None or request.exhaustive or request.prior == "none":
        return None
    try:
        from costmodel.fitting.prior import Prior
    except ImportError as error:  # GPU images often lack what specs are read with
        _say(run, f"compute plans start from no earlier fit: {error}")
        return None
    prior = Prior.choose(request.prior, machine.name)
    if prior is not None:
        _say(run, f"compute plans start from {prior.described}")
    return prior


def _lock(run: Run, control: ClockControl, clock_mhz: int) -> float | None:
    """Lock every rank's clock; returns the one in force, None (and unlocked) where the ranks do not agree on one."""
    lock = control.lock(clock_mhz)
    locks = run.ranks.collect(lock.clock_mhz)
    notes = [lock.note] if lock.note else []
    agreed: float | None = locks[0]
    if None in locks or max(locks) - min(locks) > _CLOCK_TOLERANCE_MHZ:
        agreed = None
        control.restore()
        if len(locks) > 1:
            notes.append(f"{clock_mhz} MHz asked, the ranks have {locks}: measured unlocked")
    for note in notes:
        _say(run, note)
    return agreed


@contextmanager
def _collectives(
    run: Run, request: ProfileRequest, machine: Machine, workload: PointsToMeasure
) -> Iterator[tuple[CollectiveRounds | None, list[Point]]]:
    """Open the groups of ranks that collectives are measured over; gives the points on the paths that are there."""
    if not workload.collectives:
        yield None, []
        return
    place = run.ranks.place
    bench = CollectiveBench(
        machine.device,
        layouts_of(machine, place),
        timeout_s=request.collective_timeout_s,
        launcher_pid=place.launcher_pid,
    )
    kernels = {op.shape["kind"]: bench.kernels_for(op.shape["kind"]) for op in workload.collectives}
    points = place_collectives(workload.collectives, kernels, bench.launches(), machine.name, seed=request.seed)
    yield CollectiveRounds(run, bench, request.policy, hang_s=5 * request.collective_timeout_s + 60), points
    bench.close()  # not after an error: the groups may hang


def _fulfil(rounds: Rounds, planner: Planner | None, budget_share: float, run: Run) -> None:
    """Measure what a plan asks for, and keep for the summary whether it got there."""
    rounds.fulfil(planner, budget_share)
    run.outcome.is_fulfilled &= not run.is_over(budget_share)
    if planner is not None:
        run.outcome.left_out += planner.left_out()


def _planner(request: ProfileRequest, points: list[Point], run: Run, prior: "Prior | None") -> Planner | None:
    """Return rank 0's plan over what is not yet stored; None on the other ranks."""
    if run.ledger is None:
        return None
    todo = [point for point in points if point not in run.ledger]
    run.outcome.already += len(points) - len(todo)
    if request.exhaustive or not todo:
        return FixedPlan(todo, seed=request.seed)
    shares = step_shares(request)
    plan = AdaptivePlan(
        points,
        target_error=request.target_error,
        seed=request.seed,
        prior=prior,
        shares=shares,
        ranks=run.ranks.place.world_size,
    )
    families = sorted({point.family for point in points})
    plan.learn(answers(points, ((family, row) for family in families for _, row in run.ledger.stored(family))))
    return plan
