"""Collective points: all ranks together, one at a time, in the order rank 0 announced; rank 0 keeps the rows."""

from collections.abc import Sequence

from profiler.bench import columns_of
from profiler.collectives.bench import CollectiveBench, CollectiveTiming
from profiler.device_health import device_lost, is_usable
from profiler.journal import Entry
from profiler.point import Point
from profiler.progress import Progress
from profiler.run import Row, Run
from profiler.timing import Measurement, TimingPolicy


class CollectiveRounds:
    """Measures collectives, each by all ranks together."""

    def __init__(self, run: Run, bench: CollectiveBench, policy: TimingPolicy, *, hang_s: float) -> None:
        self._run = run
        self._bench = bench
        self._policy = policy
        self._hang_s = hang_s

    def measure(self, wanted: Sequence[Point], budget_share: float, progress: Progress) -> list[Entry]:
        """Return the rows on rank 0, none on the others; ends early when time is up for any rank."""
        run = self._run
        entries: list[Entry] = []
        for index, point in enumerate(wanted):
            if any(run.ranks.collect(run.is_over(budget_share))):
                break
            with run.in_flight(point, self._hang_s):
                row = row_of(point, self._bench.measure(point, self._policy.rule()))
            if run.ranks.is_first:
                run.journal.commit(point.family, run.outcome.run_id, [row])
                entries += run.entries(point, [row])
                progress.reach(index + 1)
            else:
                run.journal.abandon()
            if row["status"] == "error" and not all(run.ranks.collect(is_usable(self._bench.device))):
                raise device_lost(point)
        return entries


def row_of(point: Point, timing: CollectiveTiming) -> Row:
    """Return the row of one collective measurement."""
    row: Row = {**point.columns, "origin": "measured"}
    if timing.status != "ok":
        return row | {"status": timing.status, "note": timing.note or None}
    measured = Measurement(samples_s=timing.samples_s, launch=point.launch, stopped=timing.stopped_by)
    return row | columns_of(measured)
