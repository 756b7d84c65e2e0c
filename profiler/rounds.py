"""Measures what a plan asks for, round by round.

Rank 0 announces the next points. Those that every rank takes part in and those that each rank measures by itself
alternate in the order of the plan. Rows are stored before the next round is planned.
"""

import itertools
from collections.abc import Sequence
from typing import Final, Protocol

from profiler.journal import Entry
from profiler.planning.planner import Planner
from profiler.point import Point, answers
from profiler.progress import Progress
from profiler.run import Run

_POINTS_PER_RANK: Final = 24


class Measures(Protocol):
    """One way of measuring points, called by all ranks together."""

    def measure(self, wanted: Sequence[Point], budget_share: float, progress: Progress) -> list[Entry]:
        """Return the rows that this rank keeps, of those points that time allowed."""


class Rounds:
    """Measures collectives in one way and all other points in another; ``collectives`` is None where there are none."""

    def __init__(self, run: Run, alone: Measures, collectives: Measures | None) -> None:
        self._run = run
        self._alone = alone
        self._collectives = collectives

    def fulfil(self, planner: Planner | None, budget_share: float) -> None:
        """Measure until the plan (rank 0's; None elsewhere) is fulfilled or time is up; all ranks call it together."""
        run = self._run
        with Progress(run, planner) as progress:
            while wanted := self._next(planner, budget_share):
                for is_collective, group in itertools.groupby(wanted, key=lambda point: point.is_collective):
                    points = list(group)
                    way = self._collectives if is_collective else self._alone
                    assert way is not None  # no plan holds collectives of a run without ranks to exchange
                    parts = run.ranks.collect(way.measure(points, budget_share, progress))
                    entries = [entry for part in parts for entry in part]
                    run.store(entries)
                    if planner is not None:
                        answered = answers(points, ((entry.family, entry.row) for entry in entries))
                        planner.learn(answered)
                        progress.reach(len(answered))
                        progress.end_round()

    def _next(self, planner: Planner | None, budget_share: float) -> Sequence[Point]:
        """Return the points of the next round on every rank, none where any rank was asked to end."""
        run = self._run
        run.stop.follow(run.ranks.collect(run.stop.name))
        wanted: Sequence[Point] = []
        if planner is not None and not run.is_over(budget_share):
            ranks = run.ranks.place.world_size
            wanted = planner.next_points(_POINTS_PER_RANK * ranks, run.spendable_s(budget_share, ranks))
        found: Sequence[Point] = run.ranks.share(wanted)
        return found
