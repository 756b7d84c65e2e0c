"""Which points come next: the seam between a fixed list and an adaptive plan."""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from profiler.point import Point

Row = Mapping[str, Any]


class Planner(Protocol):
    """Rank 0's plan over the points of one clock."""

    def next_points(self, limit: int, spendable_s: float | None = None) -> list[Point]:
        """Return up to ``limit`` points to measure next, in that order, none when the plan is fulfilled.

        ``spendable_s`` is the time left for measuring, over all ranks; None without a budget.
        """

    def learn(self, rows: Iterable[tuple[Point, Row]]) -> None:
        """Take what was measured."""

    def progress(self) -> str:
        """One clause for the progress line."""

    @property
    def remaining(self) -> int:
        """Points that may still be measured."""

    def left_out(self) -> list[str]:
        """Sentences on what was not measured and why, for the end of the run."""


def collectives_first(points: Iterable[Point]) -> list[Point]:
    """Return points so that ranks change once between measuring together and each by itself, in order otherwise."""
    return sorted(points, key=lambda point: not point.is_collective)


class FixedPlan:
    """Every point once, in a random order that depends on the seed alone, collectives of a round first."""

    def __init__(self, points: Sequence[Point], *, seed: int) -> None:
        self._todo = {point.identity: point for point in points}
        order = list(self._todo)
        random.Random(seed).shuffle(order)  # noqa: S311 - an order of measurement, not a secret
        self._order = order
        self._total = len(order)

    def next_points(self, limit: int, spendable_s: float | None = None) -> list[Point]:  # noqa: ARG002 - fixed order
        """Return the next points of the order that nobody has measured yet."""
        self._order = [identity for identity in self._order if identity in self._todo]
        return collectives_first(self._todo[identity] for identity in self._order[:limit])

    def learn(self, rows: Iterable[tuple[Point, Row]]) -> None:
        """Strike measured points off."""
        for point, _ in rows:
            self._todo.pop(point.identity, None)

    def progress(self) -> str:
        """Points done of all."""
        return f"{self._total - len(self._todo)}/{self._total} points"

    @property
    def remaining(self) -> int:
        """Points not yet measured."""
        return len(self._todo)

    def left_out(self) -> list[str]:
        """Name the number of points the budget did not reach."""
        return [f"{len(self._todo)} points not reached"] if self._todo else []
