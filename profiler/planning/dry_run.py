"""What a run would measure and cost, and what its budget reaches, before anything is measured."""

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Final

from cluster_specs.lazy_dataclass import dataclass
from costmodel.compare.step_errors import error_text
from costmodel.families.family import FEWEST_POINTS
from profiler.duration import format_duration
from profiler.ledger import Ledger
from profiler.machine import Machine
from profiler.planning.expected_errors import expected_errors
from profiler.planning.points_to_measure import PointsToMeasure, place_collectives, step_shares
from profiler.planning.series import in_labels
from profiler.point import OpShape, Point, counted
from profiler.ranks import RankPlace
from profiler.request import ProfileRequest
from profiler.session import open_bench, plan_workload
from profiler.sweep import BUDGET_SHARE, collectives_share
from profiles_db.manifest import load_manifest

if TYPE_CHECKING:
    from costmodel.cost_model import CostModel

# Operands, compilation and graph capture of a point, beside warm-up and sampling.
_SETUP_S: Final = 0.05
_ENERGY_S: Final = 7.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Labels that get the points a fit needs and points measured, each of how many; all clocks together."""

    labels: int = 0
    of_labels: int = 0
    points: int = 0
    of_points: int = 0

    def __add__(self, other: "Reach") -> "Reach":
        """Both together."""
        return Reach(
            labels=self.labels + other.labels,
            of_labels=self.of_labels + other.of_labels,
            points=self.points + other.points,
            of_points=self.of_points + other.of_points,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepErrors:
    """Errors of a prefill and a decode step, in natural log, that nine of ten stay below: now, and after a budget."""

    now_log: tuple[float, float]
    then_log: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Points per (family, dtype, backend), those not yet measured, the most they can take, what a budget reaches."""

    device: str
    ranks: int
    groups: tuple[tuple[str, str, str, int, int], ...]
    collectives: int
    clocks: int
    most_s: float
    budget_s: float | None
    reach: Reach | None  # without a budget all there is
    step_errors: StepErrors | None  # without a budget, or where the manifest says no shares
    notes: tuple[str, ...]


def survey(request: ProfileRequest, place: RankPlace) -> Survey:
    """Plan the run of the ranks of ``place`` without measuring; raises what planning raises."""
    started_s = time.monotonic()
    with Machine.open(request.device, request.device_name, RankPlace(), threads=request.threads) as machine:
        workload = plan_workload(request, machine, open_bench(request, machine), place)
        ledger = Ledger(request.db, machine.name)
        total = counted(workload.compute)
        todo = counted(point for point in workload.compute if point not in ledger)
        collectives = _collective_points(request, machine, workload)
        clocks = max(1, len(request.clocks_mhz))
        per_point_s = _SETUP_S + request.policy.longest_s
        points = sum(todo.values())
        spender = _Spender(request, place.world_size, ledger)
        reach = _reach(request, spender, (workload.compute, collectives), time.monotonic() - started_s)
        energy_points = {"none": 0, "some": min(request.energy_points, points), "all": points}[request.energy]
        compute_s = clocks * (points * per_point_s + energy_points * _ENERGY_S) / place.world_size
        return Survey(
            device=machine.name,
            ranks=place.world_size,
            groups=tuple((*group, count, todo.get(group, 0)) for group, count in total.items()),
            collectives=len(workload.collectives),
            clocks=clocks,
            most_s=compute_s + len(collectives) * per_point_s,
            budget_s=request.budget_s,
            reach=reach,
            step_errors=None if reach is None else spender.step_errors(machine.name),
            notes=workload.notes,
        )


def _collective_points(request: ProfileRequest, machine: Machine, workload: PointsToMeasure) -> list[Point]:
    """Return the collectives on the path that every machine of this kind has."""
    path, launches = ("gloo", ["eager"]) if machine.kind == "cpu" else ("nccl", ["graph", "eager"])
    kernels: dict[str, tuple[str, ...]] = {op.shape["kind"]: (path,) for op in workload.collectives}
    return place_collectives(workload.collectives, kernels, launches, machine.name, seed=request.seed)


def _reach(
    request: ProfileRequest, spender: "_Spender", wanted: tuple[Sequence[Point], Sequence[Point]], opening_s: float
) -> Reach | None:
    """Spend the budget plan by plan as the run does, every point sampled to its cap."""
    compute, collectives = wanted
    if request.budget_s is None:
        return None
    ranks = spender.ranks
    left_s = max(BUDGET_SHARE * request.budget_s - opening_s, 0.0) * ranks
    reach, beside = Reach(), collectives
    if request.clocks_mhz and collectives:
        share = collectives_share(len(in_labels(collectives)), len(in_labels(compute)), ranks)
        reach, spent_s = spender.spend(collectives, max(share * request.budget_s - opening_s, 0.0) * ranks)
        left_s, beside = left_s - spent_s, ()
    if request.energy == "some":
        left_s = max(left_s - max(1, len(request.clocks_mhz)) * request.energy_points * _ENERGY_S, 0.0)
    for clock in request.clocks_mhz or (None,):
        bought, spent_s = spender.spend([*beside, *(point.at(clock) for point in compute)], left_s)
        left_s -= spent_s
        reach += bought
    return reach


class _Spender:
    """Spends seconds of one rank as the adaptive plan does: a point for each label, a fit's points, then the rest.

    ``ranks`` measure. It remembers which shapes are measured and which lie in labels that a fit will hold.
    """

    def __init__(self, request: ProfileRequest, ranks: int, ledger: Ledger) -> None:
        self.ranks = ranks
        self._request = request
        self._point_s = _SETUP_S + request.policy.longest_s
        self._energy_s = _ENERGY_S if request.energy == "all" else 0.0
        self._ledger = ledger
        self._shares = step_shares(request)
        self._known = _Known(), _Known()  # before the budget, and with it

    def spend(self, points: Sequence[Point], spendable_s: float) -> tuple[Reach, float]:
        """Return what so many seconds of all ranks together buy of one plan's points, and what of them it takes."""
        labels = [
            sorted(label, key=self._lightness)
            for label in sorted(in_labels(points), key=lambda label: sum(map(self._lightness, label)))
        ]
        left = [[point for point in label if point not in self._ledger] for label in labels]
        for label, todo in zip(labels, left, strict=True):
            for known in self._known:
                known.take(label, set(label) - set(todo))
        first = [int(len(todo) == len(label)) for label, todo in zip(labels, left, strict=True)]
        spent_s, bought, fitted = 0.0, 0, 0
        for label, count in zip(labels, first, strict=True):
            taken, cost_s = self._afforded(label, count, spendable_s - spent_s)
            spent_s, bought = spent_s + cost_s, bought + taken
        for label, todo, count in zip(labels, left, first, strict=True):
            lacking = min(max(FEWEST_POINTS - (len(label) - len(todo)), 0), len(todo)) - count
            taken, cost_s = self._afforded(label, lacking, spendable_s - spent_s)
            spent_s, bought = spent_s + cost_s, bought + taken
            if taken < lacking:
                break
            fitted += len(label) >= FEWEST_POINTS
            # Half of a label's fewest are its heaviest.
            self._known[1].take(label, todo[: (lacking + count) // 2], fewest=len(label) >= FEWEST_POINTS)
        else:
            rest, rest_s = self._rest(left, bought, spent_s, spendable_s)
            spent_s, bought = spent_s + rest_s, bought + rest
            heaviest = sorted((point for todo in left for point in todo), key=self._lightness)
            self._known[1].measured |= {point.op for point in heaviest[:rest]}
        return Reach(labels=fitted, of_labels=len(labels), points=bought, of_points=sum(map(len, left))), spent_s

    def step_errors(self, device: str) -> StepErrors | None:
        """Return how wrong the manifest's steps are before and after what was spent, None where it says no shares."""
        if not self._shares or self._request.manifest is None:
            return None
        manifest, costs = load_manifest(self._request.manifest), _present_costs(self._request.prior, device)
        now, then = (
            expected_errors(manifest, fitted=known.fitted, measured=known.measured, costs=costs)
            for known in self._known
        )
        return StepErrors(now_log=now, then_log=then)

    def _lightness(self, point: Point) -> float:
        return -self._shares.get(point.op, 0.0)

    def _rest(
        self, left: Sequence[Sequence[Point]], bought: int, spent_s: float, spendable_s: float
    ) -> tuple[int, float]:
        """Return how many points after those that fits need are bought, each at the mean cost, and what they take."""
        count = sum(map(len, left)) - bought
        rest_s = sum(self._cost_s(point) for todo in left for point in todo) - spent_s
        part = min((spendable_s - spent_s) / rest_s, 1.0) if count else 0.0
        return int(part * count), part * rest_s

    def _afforded(self, label: Sequence[Point], count: int, spendable_s: float) -> tuple[int, float]:
        """Return how many of ``count`` points of a label so many seconds buy, and what they take."""
        cost_s = self._cost_s(label[0])
        taken = min(count, int(spendable_s / cost_s))
        return taken, taken * cost_s

    def _cost_s(self, point: Point) -> float:
        return self._point_s * self.ranks if point.is_collective else self._point_s + self._energy_s


@dataclass(slots=True)
class _Known:
    """Shapes that are measured, and those of labels that have what a fit needs."""

    measured: set[OpShape] = field(default_factory=set)
    fitted: set[OpShape] = field(default_factory=set)

    def take(self, label: Iterable[Point], measured: Collection[Point], *, fewest: bool | None = None) -> None:
        """Add rows of one label; ``fewest`` says whether it has what a fit needs, by default their number does."""
        self.measured |= {point.op for point in measured}
        if len(measured) >= FEWEST_POINTS if fewest is None else fewest:
            self.fitted |= {point.op for point in label}


def _present_costs(prior: str, device: str) -> "CostModel | None":
    """Return the earlier fit that prices start from, None where the analytic model prices."""
    from costmodel.fitted_costs import FittedCosts
    from costmodel.fitting.prior import Prior

    chosen = Prior.choose(prior, device)
    return None if chosen is None else FittedCosts(chosen.artefact, chosen.cluster)


def describe(survey: Survey) -> str:
    """Lines for a person."""
    lines = [f"device {survey.device}, {survey.ranks} ranks; at most this would be measured:"]
    for family, dtype, backend, count, todo in survey.groups:
        lines.append(f"  {family:<12}{dtype:<10}{backend:<28}{todo:>6} of {count} points to do")
    lines.append(f"  collectives of every group and path: {survey.collectives} shapes")
    if survey.clocks > 1:
        lines.append(f"  at {survey.clocks} clocks")
    lines.append(
        f"time: at most {format_duration(survey.most_s)} if every point ran to its cap; the adaptive plan stops early"
    )
    if survey.budget_s is not None and (reach := survey.reach) is not None:
        lines.append(
            f"budget: {format_duration(survey.budget_s)} reaches about {reach.points} of {reach.of_points} points, and"
            f" the {FEWEST_POINTS} that a fit needs of {reach.labels} of {reach.of_labels} labels"
        )
    if (errors := survey.step_errors) is not None:
        steps = zip(("prefill", "decode"), errors.then_log, errors.now_log, strict=True)
        said = (f"a {step} step to {error_text(then)} (now {error_text(now)})" for step, then, now in steps)
        lines.append(f"expected then, in nine of ten cases: {' and '.join(said)}")
    lines += [f"note: {note}" for note in survey.notes]
    return "\n".join(lines)
