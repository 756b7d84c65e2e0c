"""Compute points: ranks take them from a shared counter until none is left, each measures what it took."""

from collections.abc import Callable, Sequence

from profiler.bench import Bench
from profiler.device_health import device_lost
from profiler.journal import Entry
from profiler.point import Point
from profiler.progress import Progress
from profiler.run import Run


class ComputeRounds:
    """Measures compute points; ``timed`` holds this rank's own since it was cleared, for the drift check."""

    def __init__(self, run: Run, bench: Bench, *, hang_s: float, wants_energy: Callable[[Point], bool]) -> None:
        self._run = run
        self._bench = bench
        self._hang_s = hang_s
        self._wants_energy = wants_energy
        self._rounds = 0
        self.timed: list[tuple[Point, float]] = []

    def measure(self, wanted: Sequence[Point], budget_share: float, progress: Progress) -> list[Entry]:
        """Return this rank's rows of points that all ranks share, until none is left or time is up."""
        run = self._run
        self._rounds += 1
        queue = f"round-{self._rounds}"
        entries: list[Entry] = []
        while not run.is_over(budget_share) and (index := run.ranks.take(queue)) < len(wanted):
            point = wanted[index]
            # What was taken before is measured, but for what the other ranks are at.
            progress.reach(max(index + 1 - run.ranks.place.world_size, 0))
            with run.in_flight(point, self._hang_s):
                rows = self._bench.measure(point, with_energy=self._wants_energy(point))
            run.journal.commit(point.family, run.outcome.run_id, rows)
            if not self._bench.is_usable:
                raise device_lost(point)
            entries += run.entries(point, rows)
            if rows[-1]["status"] == "ok":
                self.timed.append((point, rows[-1]["latency_s"]))
        return entries
