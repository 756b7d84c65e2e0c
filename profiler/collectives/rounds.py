"""Collective points: all ranks together, one at a time, in the order rank 0 announces; rank 0 keeps the rows."""

from collections.abc import Sequence
from typing import Final

from profiler.bench import columns_of
from profiler.collectives.bench import CollectiveBench, CollectiveTiming
from profiler.device_health import device_lost, is_usable
from profiler.planning.planner import Planner
from profiler.point import Point
from profiler.progress import Progress
from profiler.run import Row, Run
from profiler.timing import Measurement, TimingPolicy

_ROUND_POINTS: Final = 32


def measure_collectives(
    run: Run,
    bench: CollectiveBench,
    planner: Planner | None,
    policy: TimingPolicy,
    *,
    budget_share: float,
    hang_s: float,
) -> None:
    """Measure what rank 0's planner (None elsewhere) asks for, until that or this share of the budget is exhausted."""
    with Progress(run, planner, name="collectives: ") as progress:
        while True:
            is_over = any(run.ranks.collect(run.is_over(budget_share)))
            wanted: Sequence[Point] = []
            if planner is not None and not is_over:
                wanted = planner.next_points(_ROUND_POINTS, run.spendable_s(budget_share, 1))
            wanted = run.ranks.share(wanted)
            if not wanted:
                return
            rows: list[tuple[Point, Row]] = []
            for index, point in enumerate(wanted):
                if any(run.ranks.collect(run.is_over(budget_share))):
                    break
                with run.in_flight(point, hang_s):
                    row = row_of(point, bench.measure(point, policy.rule()))
                if run.ranks.is_first:
                    run.journal.commit(point.family, run.outcome.run_id, [row])
                    rows.append((point, row))
                    progress.reach(index + 1)
                else:
                    run.journal.abandon()
                if row["status"] == "error" and not all(run.ranks.collect(is_usable(bench.device))):
                    raise device_lost(point)
            run.store([entry for point, row in rows for entry in run.entries(point, [row])])
            if planner is not None:
                planner.learn(rows)
                progress.end_round()


def row_of(point: Point, timing: CollectiveTiming) -> Row:
    """Return the row of one collective measurement."""
    row: Row = {**point.columns, "origin": "measured"}
    if timing.status != "ok":
        return row | {"status": timing.status, "note": timing.note or None}
    measured = Measurement(samples_s=timing.samples_s, launch=point.launch, stopped=timing.stopped_by)
    return row | columns_of(measured)
