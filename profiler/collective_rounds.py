"""Collective points: all ranks together, one at a time, in an order every rank knows; rank 0 keeps the rows."""

from collections.abc import Sequence
from typing import Final

from profiler.bench import columns_of
from profiler.collective_bench import CollectiveBench, CollectiveTiming
from profiler.duration import format_duration
from profiler.journal import Entry
from profiler.point import Point
from profiler.run import Row, Run
from profiler.timing import Measurement, TimingPolicy

_STORE_EVERY: Final = 32


def measure_collectives(
    run: Run,
    bench: CollectiveBench,
    points: Sequence[Point],
    policy: TimingPolicy,
    *,
    budget_share: float,
    hang_s: float,
) -> int:
    """Measure ``points`` until done or ``budget_share`` of the budget is spent; returns how many were not reached."""
    done = 0
    for start in range(0, len(points), _STORE_EVERY):
        entries: list[Entry] = []
        for point in points[start : start + _STORE_EVERY]:
            if any(run.ranks.collect(run.is_over(budget_share))):
                break
            with run.in_flight(point, hang_s):
                rows = [row_of(point, bench.measure(point, policy.rule()))]
            if run.ranks.is_first:
                run.journal.commit(point.family, run.outcome.run_id, rows)
                entries += run.entries(point, rows)
            else:
                run.journal.abandon()
            done += 1
        run.store(entries)
        run.talk(f"[{format_duration(run.spent_s)}] collectives {done}/{len(points)} points")
        if any(run.ranks.collect(run.is_over(budget_share))):
            break
    return len(points) - done


def row_of(point: Point, timing: CollectiveTiming) -> Row:
    """Return the row of one collective measurement."""
    row: Row = {**point.columns, "origin": "measured"}
    if timing.status != "ok":
        return row | {"status": timing.status, "note": timing.note or None}
    measured = Measurement(samples_s=timing.samples_s, launch=point.launch, stopped=timing.stopped_by)
    return row | columns_of(measured)
