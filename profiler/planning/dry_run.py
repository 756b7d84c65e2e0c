"""What a run would measure and cost, before anything is measured."""

from dataclasses import dataclass
from typing import Final

from profiler.duration import format_duration
from profiler.ledger import Ledger
from profiler.machine import Machine
from profiler.point import counted
from profiler.ranks import RankPlace
from profiler.request import ProfileRequest
from profiler.session import ENERGY_POINTS, open_bench, plan_workload

# Operands, compilation and graph capture of a point, beside warm-up and sampling.
_SETUP_S: Final = 0.05
_ENERGY_S: Final = 7.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Points per (family, dtype, backend), those already measured, and the most they can take."""

    device: str
    groups: tuple[tuple[str, str, str, int, int], ...]
    collectives: int
    clocks: int
    most_s: float
    budget_s: float | None
    notes: tuple[str, ...]


def survey(request: ProfileRequest, world_size: int) -> Survey:
    """Plan the run of ``world_size`` ranks without measuring; raises what planning raises."""
    place = RankPlace(world_size=world_size, ranks_per_node=world_size)
    with Machine.open(request.device, request.device_name, RankPlace(), threads=request.threads) as machine:
        workload = plan_workload(request, machine, open_bench(request, machine), place)
        ledger = Ledger(request.db, machine.name)
        total = counted(workload.compute)
        todo = counted(point for point in workload.compute if point not in ledger)
        clocks = max(1, len(request.clocks_mhz))
        per_point_s = _SETUP_S + request.policy.warmup_s + request.policy.max_s
        points = sum(todo.values())
        energy_points = {"none": 0, "some": min(ENERGY_POINTS, points), "all": points}[request.energy]
        compute_s = clocks * (points * per_point_s + energy_points * _ENERGY_S) / world_size
        collectives_s = len(workload.collectives) * (1 if machine.kind == "cpu" else 2) * per_point_s
        return Survey(
            device=machine.name,
            groups=tuple((*group, count, todo.get(group, 0)) for group, count in total.items()),
            collectives=len(workload.collectives),
            clocks=clocks,
            most_s=compute_s + collectives_s,
            budget_s=request.budget_s,
            notes=workload.notes,
        )


def describe(survey: Survey) -> str:
    """Lines for a person."""
    lines = [f"device {survey.device}; at most this would be measured:"]
    for family, dtype, backend, count, todo in survey.groups:
        lines.append(f"  {family:<12}{dtype:<10}{backend:<28}{todo:>6} of {count} points to do")
    lines.append(f"  collectives of every group and path: {survey.collectives} shapes")
    if survey.clocks > 1:
        lines.append(f"  at {survey.clocks} clocks")
    lines.append(
        f"time: at most {format_duration(survey.most_s)} if every point ran to its cap; the adaptive plan stops early"
    )
    if survey.budget_s is not None:
        lines.append(f"budget: {format_duration(survey.budget_s)}")
    lines += [f"note: {note}" for note in survey.notes]
    return "\n".join(lines)
