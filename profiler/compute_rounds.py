"""Compute points, round by round.

Rank 0 announces the next points, ranks take them from a shared counter until none is left, and the rows are stored
before the next round is planned.
"""

from collections.abc import Callable, Sequence

from profiler.bench import Bench
from profiler.device_health import device_lost
from profiler.journal import Entry
from profiler.planning.planner import Planner
from profiler.point import Point, answers
from profiler.progress import Progress
from profiler.run import Run

_ROUND_POINTS_PER_RANK = 24


class ComputeRounds:
    """Measures what planners ask for; ``timed`` holds this rank's own points of the last plan, for the drift check."""

    def __init__(
        self, run: Run, bench: Bench, *, budget_share: float, hang_s: float, wants_energy: Callable[[Point], bool]
    ) -> None:
        self._run = run
        self._bench = bench
        self._share = budget_share
        self._hang_s = hang_s
        self._wants_energy = wants_energy
        self._rounds = 0
        self.timed: list[tuple[Point, float]] = []

    def fulfil(self, planner: Planner | None) -> None:
        """Measure until the plan (rank 0's; None elsewhere) is fulfilled or time is up; all ranks call it together."""
        run = self._run
        self.timed.clear()
        with Progress(run, planner) as progress:
            while True:
                wanted: Sequence[Point] = []
                if planner is not None and not run.is_over(self._share):
                    ranks = run.ranks.place.world_size
                    wanted = planner.next_points(_ROUND_POINTS_PER_RANK * ranks, run.spendable_s(self._share, ranks))
                wanted = run.ranks.share(wanted)
                if not wanted:
                    return
                parts = run.ranks.collect((self._measure(wanted, progress), run.stop.name))
                run.stop.name = run.stop.name or next((name for _, name in parts if name), None)
                entries = [entry for part, _ in parts for entry in part]
                run.store(entries)
                if planner is not None:
                    answered = answers(wanted, ((entry.family, entry.row) for entry in entries))
                    planner.learn(answered)
                    progress.reach(len(answered))
                    progress.end_round()

    def _measure(self, wanted: Sequence[Point], progress: Progress) -> list[Entry]:
        """Take points from the shared counter until the round is empty or time is up."""
        run = self._run
        self._rounds += 1
        queue = f"round-{self._rounds}"
        entries: list[Entry] = []
        while not run.is_over(self._share) and (index := run.ranks.take(queue)) < len(wanted):
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
