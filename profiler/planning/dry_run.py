"""What a run would measure and cost, and what its budget reaches, before anything is measured."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from costmodel.families.family import FEWEST_POINTS
from profiler.duration import format_duration
from profiler.ledger import Ledger
from profiler.machine import Machine
from profiler.planning.points_to_measure import PointsToMeasure, place_collectives
from profiler.planning.series import in_labels
from profiler.point import Point, counted
from profiler.ranks import RankPlace
from profiler.request import ProfileRequest
from profiler.session import open_bench, plan_workload
from profiler.sweep import COMPUTE_SHARE, collectives_share

# Operands, compilation and graph capture of a point, beside warm-up and sampling.
_SETUP_S: Final = 0.05
_ENERGY_S: Final = 7.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Labels that get the points a fit needs and points measured, each of how many; all clocks together."""

    labels: int
    of_labels: int
    points: int
    of_points: int

    def __add__(self, other: "Reach") -> "Reach":
        """Both together."""
        return Reach(
            labels=self.labels + other.labels,
            of_labels=self.of_labels + other.of_labels,
            points=self.points + other.points,
            of_points=self.of_points + other.of_points,
        )


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
            reach=_reach(
                request, place.world_size, (workload.compute, collectives), ledger, time.monotonic() - started_s
            ),
            notes=workload.notes,
        )


def _collective_points(request: ProfileRequest, machine: Machine, workload: PointsToMeasure) -> list[Point]:
    """Return the collectives on the path that every machine of this kind has."""
    path, launches = ("gloo", ["eager"]) if machine.kind == "cpu" else ("nccl", ["graph", "eager"])
    kernels: dict[str, tuple[str, ...]] = {op.shape["kind"]: (path,) for op in workload.collectives}
    return place_collectives(workload.collectives, kernels, launches, machine.name, seed=request.seed)


def _reach(
    request: ProfileRequest,
    ranks: int,
    wanted: tuple[Sequence[Point], Sequence[Point]],
    ledger: Ledger,
    opening_s: float,
) -> Reach | None:
    """Share the budget over compute points and collectives as the run does, every point sampled to its cap."""
    compute, collectives = wanted
    if request.budget_s is None:
        return None
    clocks = max(1, len(request.clocks_mhz))
    point_s = _SETUP_S + request.policy.longest_s
    share = collectives_share(len(in_labels(collectives)), len(in_labels(compute)), ranks)
    together_s = max(share * request.budget_s - opening_s, 0.0) if collectives else 0.0
    first = _bought(collectives, ledger, int(together_s / point_s))
    left_s = max(COMPUTE_SHARE * request.budget_s - opening_s - first.points * point_s, 0.0)
    energy_s = {"none": 0.0, "some": clocks * request.energy_points * _ENERGY_S / ranks, "all": 0.0}[request.energy]
    point_s += _ENERGY_S if request.energy == "all" else 0.0
    affordable = int(max(left_s - energy_s, 0.0) * ranks / point_s)
    for clock in request.clocks_mhz or (None,):
        bought = _bought([point.at(clock) for point in compute], ledger, affordable)
        affordable -= bought.points
        first += bought
    return first


def _bought(points: Sequence[Point], ledger: Ledger, affordable: int) -> Reach:
    """Spend so many points as the adaptive plan does: one for each label, then label by label what a fit needs."""
    labels = in_labels(points)
    left = [sum(point not in ledger for point in members) for members in labels]
    fresh = [len(members) == todo for members, todo in zip(labels, left, strict=True)]
    spent, fitted = sum(fresh), 0
    for members, todo, is_fresh in zip(labels, left, fresh, strict=True):
        spent += min(max(FEWEST_POINTS - (len(members) - todo), 0), todo) - is_fresh
        if spent > affordable:
            break
        fitted += len(members) >= FEWEST_POINTS
    return Reach(labels=fitted, of_labels=len(labels), points=min(affordable, sum(left)), of_points=sum(left))


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
    lines += [f"note: {note}" for note in survey.notes]
    return "\n".join(lines)
