"""One profiling run on one rank, from an empty process to a closed run row.

Every rank opens its machine and agrees with the others on software and device; rank 0 locks the folder, recovers what a
dead run left, plans, and writes. Collectives come first and may take a third of the budget, compute points follow clock
by clock, and a share of them is measured again at the end.
"""

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Literal, cast

from profiler.bench import Bench
from profiler.collectives.bench import CollectiveBench
from profiler.collectives.groups import GroupLayout, default_levels, group_layouts
from profiler.collectives.rounds import measure_collectives
from profiler.compute_rounds import ComputeRounds
from profiler.drift import drift_frac, measure_drift
from profiler.errors import ProfilerError
from profiler.instruments.clocks import ClockControl
from profiler.instruments.energy import EnergyMeter
from profiler.instruments.provenance import collect_provenance, require_same_software
from profiler.journal import FolderLock, Journal, collect_leftovers, discard_leftovers
from profiler.kernels.available import kernel_backends
from profiler.ledger import Ledger
from profiler.machine import Machine
from profiler.planning.adaptive import AdaptivePlan
from profiler.planning.planner import FixedPlan, Planner
from profiler.planning.workload import Workload, place_collectives, place_workload, wanted_shapes
from profiler.point import Point
from profiler.ranks import Place, Ranks
from profiler.request import ProfileRequest
from profiler.run import Outcome, Run, StopSignal

_COLLECTIVES_SHARE: Final = 0.35
_COMPUTE_SHARE: Final = 0.95
_ENERGY_EVERY: Final = 8
# Points per clock whose energy `some` measures.
ENERGY_POINTS: Final = 48
_CLOCK_TOLERANCE_MHZ: Final = 20.0  # one step of 15 MHz and what reading back rounds away


def profile(request: ProfileRequest, place: Place, talk: Callable[[str], None]) -> Outcome:
    """Run one rank's part of a profile; raises ``ProfilerError`` (on every rank alike) for what makes it impossible."""
    started_s = time.monotonic()
    silent: Callable[[str], None] = lambda _: None  # noqa: E731 - a name for what the other ranks say
    with ExitStack() as stack:
        stop = StopSignal()
        stack.enter_context(stop.listening())
        machine = stack.enter_context(Machine.open(request.device, request.device_name, place, threads=request.threads))
        ranks = Ranks(place, machine.device)
        stack.callback(ranks.close)
        bench = open_bench(request, machine)
        workload = plan_workload(request, machine, bench, place)
        ledger, outcome = _open_books(request, machine, ranks, stack)
        run = Run(
            ranks=ranks,
            journal=Journal(request.db, place.rank),
            ledger=ledger,
            outcome=outcome,
            stop=stop,
            started_s=started_s,
            budget_s=request.budget_s,
            talk=talk if ranks.is_first else silent,
        )
        provenance = _agree_on_provenance(request, machine, ranks, outcome.run_id)
        if outcome.recovered:
            run.talk(f"recovered {outcome.recovered} rows of a run that was cut off")
        if ledger is not None:
            ledger.record_run(provenance, ended=False)
        _measure(run, request, machine, bench, workload)
        provenance["idle_power_w"] = _mean(provenance["idle_power_w"], _idle_power_w(request, machine))
        if ledger is not None:
            ledger.record_run(provenance, ended=True)
        outcome.wall_s = run.spent_s
        outcome.stopped_by = stop.name
        return outcome


def _open_books(
    request: ProfileRequest, machine: Machine, ranks: Ranks, stack: ExitStack
) -> tuple[Ledger | None, Outcome]:
    """Lock the folder on rank 0 and recover what dead runs left; a failure there is raised on every rank."""
    ledger: Ledger | None = None
    shared: Outcome | ValueError | None = None
    if ranks.is_first:
        run_id = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}"
        try:
            stack.enter_context(FolderLock(request.db))
            ledger = Ledger(request.db, machine.name)
            recovered, torn = ledger.recover()
            shared = Outcome(device=machine.name, run_id=run_id, recovered=recovered)
            if torn:
                shared.notes.append(f"{torn} journal lines were cut off by the death of an earlier run")
        except ValueError as error:  # every mistake a person can make is one, with a hint
            shared = error
    shared = ranks.share(shared)
    if isinstance(shared, ValueError):
        raise shared
    assert shared is not None
    _bring_home(request.db, ranks, ledger, shared)
    return ledger, shared


def _bring_home(folder: Path, ranks: Ranks, ledger: Ledger | None, outcome: Outcome) -> None:
    """Store what a dead run left on other nodes, whose ranks may not see rank 0's folder."""
    is_other_node = ranks.place.local_rank == 0 and not ranks.is_first
    left = collect_leftovers(folder).entries if is_other_node else ()
    parts = ranks.collect(left)
    if ledger is not None:
        outcome.recovered += ledger.add(entry for part in parts for entry in part)
    ranks.collect(None)  # the rows are safe before anybody forgets one
    if is_other_node:
        discard_leftovers(folder)
    (folder / ".profile").mkdir(parents=True, exist_ok=True)


def _agree_on_provenance(request: ProfileRequest, machine: Machine, ranks: Ranks, run_id: str) -> dict[str, Any]:
    """Return the run's row; raises ``ProfilerError`` where the ranks differ in device or software."""
    mine = collect_provenance(
        run_id=run_id,
        device=machine.name,
        world_size=ranks.place.world_size,
        nvml=machine.nvml,
        gpu=machine.gpu,
        idle_power_w=_idle_power_w(request, machine),
        command=request.command or None,
    )
    rows = ranks.collect(mine)
    names = sorted({row["device"] for row in rows})
    if len(names) > 1:
        raise ProfilerError(
            f"the ranks run on different devices: {', '.join(names)}", hint="profile each kind of device by itself"
        )
    require_same_software(rows)
    return mine


def open_bench(request: ProfileRequest, machine: Machine) -> Bench:
    """Return this rank's bench with the instruments its device has."""
    from profiler.kernels.buffers import Buffers, cache_bytes

    return Bench(
        machine.device,
        kernel_backends(machine.device),
        Buffers(machine.device, cold_bytes=3 * cache_bytes(machine.device), seed=request.seed),
        policy=request.policy,
        throttle=machine.throttle,
        energy=EnergyMeter(machine.gpu) if request.energy != "none" else None,
        sm_clock_mhz=machine.sm_clock_mhz,
        temperature_c=machine.temperature_c,
    )


def layouts_of(machine: Machine, place: Place) -> list[GroupLayout]:
    """Return the groups collectives are measured over: none for a single rank."""
    if place.world_size == 1:
        return []
    levels = default_levels(
        place.world_size, place.ranks_per_node, device_kind=machine.kind, has_nvlink=machine.has_nvlink
    )
    return group_layouts(place.world_size, place.ranks_per_node, levels)


def plan_workload(request: ProfileRequest, machine: Machine, bench: Bench, place: Place) -> Workload:
    """Return everything this run could measure."""
    layouts = layouts_of(machine, place)
    kind = cast(Literal["cpu", "cuda"], machine.kind)
    return place_workload(wanted_shapes(request, kind, layouts), bench, request, machine.name, layouts)


def _measure(run: Run, request: ProfileRequest, machine: Machine, bench: Bench, workload: Workload) -> None:
    for note in workload.notes:
        run.talk(note)
    run.outcome.notes += workload.notes
    if workload.collectives:
        _measure_collectives(run, request, machine, workload)
    rounds = ComputeRounds(
        run,
        bench,
        budget_share=_COMPUTE_SHARE,
        hang_s=3 * request.policy.point_timeout_s,
        wants_energy=_energy_choice(request, run.ranks.place.world_size),
    )
    with machine.clocks() as control:
        for clock_mhz in request.clocks_mhz or (None,):
            in_force = None if clock_mhz is None else _lock(run, control, clock_mhz)
            planner = _planner(request, [point.at(in_force) for point in workload.compute], run)
            rounds.fulfil(planner)
            run.outcome.is_fulfilled &= not run.is_over(_COMPUTE_SHARE)
            if planner is not None:
                run.outcome.left_out += planner.left_out()
            if clock_mhz is not None and in_force is None:
                break  # the rest of the sweep would measure the same unlocked clock again
    ratios = measure_drift(run, bench, rounds.timed, seed=request.seed)
    run.outcome.drift_frac, run.outcome.drift_points = drift_frac(ratios), len(ratios)


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
        run.talk(note)
    run.outcome.notes += notes
    return agreed


def _idle_power_w(request: ProfileRequest, machine: Machine) -> float | None:
    """Power of the idle device, where energy is asked for and can be measured."""
    return EnergyMeter(machine.gpu).idle_power_w() if request.energy != "none" else None


def _mean(before: float | None, after: float | None) -> float | None:
    known = [value for value in (before, after) if value is not None]
    return sum(known) / len(known) if known else None


def _measure_collectives(run: Run, request: ProfileRequest, machine: Machine, workload: Workload) -> None:
    layouts = layouts_of(machine, run.ranks.place)
    bench = CollectiveBench(machine.device, layouts, timeout_s=request.collective_timeout_s)
    kernels = {op.shape["kind"]: bench.kernels_for(op.shape["kind"]) for op in workload.collectives}
    points = place_collectives(workload.collectives, kernels, bench.launches(), machine.name, seed=request.seed)
    planner = _planner(request, points, run)
    measure_collectives(
        run,
        bench,
        planner,
        request.policy,
        budget_share=_COLLECTIVES_SHARE,
        hang_s=5 * request.collective_timeout_s + 60,
    )
    if planner is not None:
        run.outcome.is_fulfilled &= not run.is_over(_COLLECTIVES_SHARE)
        run.outcome.left_out += planner.left_out()
    bench.close()


def _planner(request: ProfileRequest, points: list[Point], run: Run) -> Planner | None:
    """Return rank 0's plan over what is not yet stored; None on the other ranks."""
    if run.ledger is None:
        return None
    todo = [point for point in points if point not in run.ledger]
    run.outcome.already += len(points) - len(todo)
    if request.exhaustive or not todo:
        return FixedPlan(todo, seed=request.seed)
    plan = AdaptivePlan(points, target_error=request.target_error, seed=request.seed)
    known = {point.identity: point for point in points}
    plan.learn(
        (known[identity], row)
        for family in sorted({point.family for point in points})
        for identity, row in run.ledger.stored(family)
        if identity in known
    )
    return plan


def _energy_choice(request: ProfileRequest, world_size: int) -> Callable[[Point], bool]:
    """Return which points get their energy measured, at seconds each.

    ``some`` takes one in eight, chosen by the shape alone, up to a number per clock that a power model needs.
    """
    taken: dict[float | None, int] = {}

    def choose(point: Point) -> bool:
        if request.energy != "some":
            return request.energy == "all"
        count = taken.get(point.clock_mhz, 0)
        if count >= -(-ENERGY_POINTS // world_size) or sum(map(ord, str(point.op))) % _ENERGY_EVERY:
            return False
        taken[point.clock_mhz] = count + 1
        return True

    return choose
