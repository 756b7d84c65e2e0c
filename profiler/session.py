"""One profiling run on one rank, from an empty process to a closed run row.

Every rank opens its machine and agrees with the others on software and device; rank 0 locks the folder, recovers what a
dead run left, plans, and writes.
"""

import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Literal, cast

from cluster_specs.errors import UserError
from profiler.bench import NOT_CAPTURED, Bench
from profiler.captures import CaptureRecord
from profiler.instruments.energy import EnergyMeter
from profiler.instruments.provenance import collect_provenance, require_same_software
from profiler.journal import FOLDER, Journal, Leftovers, collect_leftovers, discard_leftovers, only_run_in
from profiler.kernels.available import in_order, kernel_backends
from profiler.ledger import Ledger
from profiler.machine import Machine
from profiler.planning.points_to_measure import PointsToMeasure, place_workload, wanted_shapes
from profiler.point import Point
from profiler.ranks import RankPlace, Ranks
from profiler.request import ProfileRequest
from profiler.run import Outcome, Run, StopSignal
from profiler.sustained_clocks import sustained_clocks
from profiler.sweep import layouts_of, measure_workload

_ENERGY_EVERY: Final = 8
_IDLE_DRIFT: Final = 1.1


def profile(request: ProfileRequest, place: RankPlace, talk: Callable[[str], None]) -> Outcome:
    """Run one rank's part of a profile; raises ``UserError`` (on every rank alike) for what makes it impossible."""
    started_s = time.monotonic()
    silent: Callable[[str], None] = lambda _: None  # noqa: E731 - a name for what the other ranks say
    with ExitStack() as stack:
        stop = StopSignal(place.launcher_pid)
        stack.enter_context(stop.listening())
        machine = stack.enter_context(Machine.open(request.device, request.device_name, place, threads=request.threads))
        ranks = Ranks(place, machine.device)
        stack.callback(ranks.close)
        ranks.require_equal_nodes()
        bench = open_bench(request, machine)
        workload = plan_workload(request, machine, bench, place)
        _check_custom_kernels(bench, ranks, workload, request.seed)
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
        if machine.kind == "cuda":
            _recall_captures(bench.captures, ranks, ledger, workload)
        wants_energy = _energy_choice(request, place.world_size, _energy_stored(request, ranks, ledger, workload))
        measure_workload(run, request, machine, bench, workload, wants_energy=wants_energy)
        provenance["idle_power_w"] = _idle_over_run(
            provenance["idle_power_w"], _idle_power_w(request, machine), outcome
        )
        if request.tells_sustained_clocks:
            provenance["sustained_clocks"] = sustained_clocks(run, bench, workload.compute)
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
    torn = 0
    if ranks.is_first:
        run_id = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}"
        try:
            stack.enter_context(only_run_in(request.db))
            ledger = Ledger(request.db, machine.name)
            recovered, torn = ledger.recover()
            shared = Outcome(device=machine.name, run_id=run_id, recovered=recovered)
        except ValueError as error:  # every mistake a person can make is one, with a hint
            shared = error
    shared = ranks.share(shared)
    if isinstance(shared, ValueError):
        raise shared
    assert shared is not None
    torn += _bring_home(request.db, ranks, ledger, shared)
    if torn:
        shared.notes.append(
            f"{torn} lines or marks of the journal were cut off or unreadable: their points are measured again"
        )
    return ledger, shared


def _bring_home(folder: Path, ranks: Ranks, ledger: Ledger | None, outcome: Outcome) -> int:
    """Store what a dead run left on other nodes, whose ranks may not see rank 0's folder; returns what was torn."""
    is_other_node = ranks.place.local_rank == 0 and not ranks.is_first
    parts = ranks.collect(collect_leftovers(folder) if is_other_node else Leftovers())
    if ledger is not None:
        outcome.recovered += sum(map(ledger.settle, parts))
    ranks.collect(None)  # the rows are safe before anybody forgets one
    if is_other_node:
        discard_leftovers(folder)
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    return sum(part.torn for part in parts)


def _agree_on_provenance(request: ProfileRequest, machine: Machine, ranks: Ranks, run_id: str) -> dict[str, Any]:
    """Return the run's row; raises ``UserError`` where the ranks differ in device or software."""
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
        raise UserError(
            f"the ranks run on different devices: {', '.join(names)}", hint="profile each kind of device by itself"
        )
    require_same_software(rows)
    return mine


def open_bench(request: ProfileRequest, machine: Machine) -> Bench:
    """Return this rank's bench with the instruments its device has."""
    from profiler.kernels.buffers import Buffers, cache_bytes
    from profiler.kernels.custom_backend import CustomBackend

    backends = kernel_backends(machine.device)
    if request.kernels is not None:
        backends = in_order(backends, request.kernels)
    if request.extensions:
        backends = (CustomBackend.load(request.extensions), *backends)
    return Bench(
        machine.device,
        backends,
        Buffers(machine.device, cold_bytes=3 * cache_bytes(machine.device), seed=request.seed),
        policy=request.policy,
        throttle=machine.throttle,
        energy=EnergyMeter(machine.gpu) if request.energy != "none" else None,
        sm_clock_mhz=machine.sm_clock_mhz,
        temperature_c=machine.temperature_c,
        is_first_alone=request.kernels is not None,
    )


def plan_workload(request: ProfileRequest, machine: Machine, bench: Bench, place: RankPlace) -> PointsToMeasure:
    """Return everything this run could measure."""
    layouts = layouts_of(machine, place)
    kind = cast(Literal["cpu", "cuda"], machine.kind)
    shapes = wanted_shapes(request, kind, layouts)
    if request.manifest is not None:
        from profiler.kernels.custom_check import refuse_undeclared

        refuse_undeclared(shapes, bench.custom_backend, str(request.manifest))
    return place_workload(shapes, bench, request, machine.name, layouts)


def _check_custom_kernels(bench: Bench, ranks: Ranks, workload: PointsToMeasure, seed: int) -> None:
    """Hold a person's own kernels against their references; a disagreement on any rank is raised on every rank."""
    if (backend := bench.custom_backend) is None:
        return
    from profiler.kernels.custom_check import check_kernels

    fault: UserError | None = None
    try:
        check_kernels((point.op for point in workload.compute), backend, bench.device, seed=seed)
    except UserError as error:
        fault = error
    for found in ranks.collect(fault):
        if found is not None:
            raise found


def _idle_power_w(request: ProfileRequest, machine: Machine) -> float | None:
    """Power of the idle device, where energy is asked for and can be measured."""
    return EnergyMeter(machine.gpu).idle_power_w() if request.energy != "none" else None


def _idle_over_run(before_w: float | None, after_w: float | None, outcome: Outcome) -> float | None:
    """Return the mean of the idle windows before and after the run, and say where they differ."""
    known = [power for power in (before_w, after_w) if power is not None]
    if len(known) == 2 and max(known) > _IDLE_DRIFT * min(known):
        outcome.notes.append(f"idle power was {before_w:.1f} W before the run and {after_w:.1f} W after it")
    return sum(known) / len(known) if known else None


def _recall_captures(record: CaptureRecord, ranks: Ranks, ledger: Ledger | None, workload: PointsToMeasure) -> None:
    """Tell every rank which points earlier processes could record as a graph, and which they could not."""
    points = {point.identity: point for point in workload.compute}
    found: list[tuple[Point, bool]] = []
    for family in sorted({point.family for point in workload.compute}):
        for identity, row in ledger.stored(family) if ledger is not None else ():
            has_failed = str(row["note"]).startswith(NOT_CAPTURED)
            if identity in points and (has_failed or row["status"] == "ok"):
                found.append((points[identity], not has_failed))
    for point, was_captured in ranks.share(found):
        (record.succeeded if was_captured else record.failed)(point)


def _energy_stored(
    request: ProfileRequest, ranks: Ranks, ledger: Ledger | None, workload: PointsToMeasure
) -> dict[float | None, int]:
    """Count points whose energy earlier runs have measured, by clock, the same on every rank."""
    counts: dict[float | None, int] = {}
    if request.energy == "some" and ledger is not None:
        for family in sorted({point.family for point in workload.compute}):
            for _, row in ledger.stored(family):
                counts[row["clock_mhz"]] = counts.get(row["clock_mhz"], 0) + (row["energy_j"] is not None)
    shared: dict[float | None, int] = ranks.share(counts)
    return shared


def _energy_choice(
    request: ProfileRequest, world_size: int, stored: dict[float | None, int]
) -> Callable[[Point], bool]:
    """Return which points get their energy measured, at seconds each.

    ``some`` takes one in eight, chosen by the shape alone, up to a number per clock that a power model needs; what is
    ``stored`` counts, so that a run in many parts takes no more of them than one that was never cut off.
    """
    taken = {clock_mhz: count // world_size for clock_mhz, count in stored.items()}

    def choose(point: Point) -> bool:
        if request.energy != "some":
            return request.energy == "all"
        count = taken.get(point.clock_mhz, 0)
        if count >= -(-request.energy_points // world_size) or sum(map(ord, str(point.op))) % _ENERGY_EVERY:
            return False
        taken[point.clock_mhz] = count + 1
        return True

    return choose
