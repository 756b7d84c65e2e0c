"""What a fit needs of every series, what a step asks for, a coarse grid, then the points that teach a model most.

A series (`profiler.planning.series`) is what differs in sizes only. The first points are the smallest of every series,
which is quick and tells how fast its kernel is; then one series after the other, that of the largest share of a step
first, gets the points without which ``apex fit`` leaves it out, so that a budget that ends early has bought whole fits.
Next come the very points of the steps, by their shares. Until every series has its coarse grid, no point is begun that
would take far more than its part of the time left. The plan ends when its model errs little.
"""

import itertools
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from profiler.planning.latency_model import prior_of
from profiler.planning.planner import Row, collectives_first
from profiler.planning.series import Series, in_series
from profiler.point import OpShape, Point

if TYPE_CHECKING:
    from costmodel.fitting.prior import Prior

_T = TypeVar("_T")
# Where points are not all to be measured, one may take this part of the time that is left.
_LARGEST_PART: Final = 0.1


class AdaptivePlan:
    """The adaptive plan over a set of candidate points, to be measured by so many ``ranks``.

    A series whose error falls to more than ``stall_ratio`` of what it was at half the points has stalled; infinity
    never gives up. ``prior`` is an earlier fit whose prices the measurements may resemble, ``shares`` says which part
    of a step of the user's model an op takes.
    """

    def __init__(
        self,
        points: Sequence[Point],
        *,
        target_error: float,
        seed: int,
        prior: "Prior | None" = None,
        shares: Mapping[OpShape, float] | None = None,
        ranks: int = 1,
        stall_ratio: float = 0.85,
    ) -> None:
        self._target = target_error
        self._stall_ratio = stall_ratio
        self._random = random.Random(seed)  # noqa: S311 - an order of measurement, not a secret
        share_of = shares or {}
        found = [
            Series(
                points=members,
                prior_s=None if members[0].is_collective else prior_of(members, prior),  # no two share a network
                shares=np.array([share_of.get(point.op, 0.0) for point in members]),
                ranks=ranks if members[0].is_collective else 1,
            )
            for members in in_series(points)
        ]
        self._series = sorted(_alternating(found), key=lambda series: -series.shares.sum())
        self._of = {point.identity: series for series in self._series for point in series.points}
        self._total = len(points)

    def next_points(self, limit: int, spendable_s: float | None = None) -> list[Point]:
        """Return points of the first of these that has any: a fit's needs, the steps, the coarse grid, the rest.

        ``spendable_s`` is the time left for measuring, over all ranks, all of which a collective takes. The rest is
        shared by a series' error times its points, over the ranks that each takes.
        """
        return (
            self._needed(limit, spendable_s)
            or collectives_first(self._of_steps(limit, spendable_s))
            or collectives_first(self._coarse(limit, spendable_s))
            or collectives_first(self._rest(limit, spendable_s))
        )

    def _needed(self, limit: int, spendable_s: float | None) -> list[Point]:
        """Return the smallest point of every series, then series by series the points without which there is no fit."""
        short = [series for series in self._series if series.lacking]
        untouched = [series.smallest() for series in short if not series.is_begun]
        if untouched:
            return untouched[:limit]
        most_s = _part(spendable_s, sum(series.lacking * series.ranks for series in short))
        chosen = itertools.chain.from_iterable(series.needed(most_s) for series in short)
        return list(itertools.islice(chosen, limit))

    def _of_steps(self, limit: int, spendable_s: float | None) -> list[Point]:
        most_s = None if spendable_s is None else _LARGEST_PART * spendable_s
        found = [of_step for series in self._series for of_step in series.of_a_step(most_s)]
        return [point for _, point in sorted(found, key=lambda of_step: -of_step[0])][:limit]

    def _coarse(self, limit: int, spendable_s: float | None) -> list[Point]:
        most_s = _part(spendable_s, sum(series.coarse_lacking * series.ranks for series in self._series))
        queues: dict[tuple[str, str], list[Point]] = {}
        for series in self._series:
            queues.setdefault(series.kind, []).extend(series.coarse(most_s))
        for queue in queues.values():
            self._random.shuffle(queue)
        return _in_turns(list(queues.values()))[:limit]

    def _rest(self, limit: int, spendable_s: float | None) -> list[Point]:
        open_series = [series for series in self._series if not series.is_settled(self._target, self._stall_ratio)]
        if not open_series:
            return []
        most_s = None if spendable_s is None else _LARGEST_PART * spendable_s
        ignorance = [min(series.error, 1.0) * len(series.todo) / series.ranks for series in open_series]
        chosen: list[Point] = []
        for series, share in zip(open_series, ignorance, strict=True):
            chosen += series.most_informative(max(1, math.floor(limit * share / sum(ignorance))), most_s)
        self._random.shuffle(chosen)
        return chosen[:limit]

    def learn(self, rows: Iterable[tuple[Point, Row]]) -> None:
        """Take what was measured; a row without a time only strikes its point off."""
        for point, row in rows:
            if point.identity in self._of:
                self._of[point.identity].learn(point, row)

    def progress(self) -> str:
        """Points measured, series settled, and the error over all series."""
        settled = sum(series.is_settled(self._target, self._stall_ratio) for series in self._series)
        text = f"{self._total - self.remaining}/{self._total} points, {settled}/{len(self._series)} series settled"
        return f"{text}, median held-out error {self.error:.1%}" if math.isfinite(self.error) else text

    @property
    def error(self) -> float:
        """Median over series of the median leave-one-out error; infinite until every series can be judged."""
        return float(np.median([series.error for series in self._series])) if self._series else 0.0

    @property
    def remaining(self) -> int:
        """Points not yet measured."""
        return sum(len(series.todo) for series in self._series)

    def left_out(self) -> list[str]:
        """One sentence per family and format that has points left."""
        grouped: dict[tuple[str, str, str], list[Series]] = {}
        for series in self._series:
            sample = series.points[0]
            grouped.setdefault((sample.family, sample.op.dtype, sample.backend), []).append(series)
        sentences = []
        for (family, dtype, backend), members in grouped.items():
            left = sum(len(series.todo) for series in members)
            if left:
                total = sum(len(series.points) for series in members)
                error = float(np.median([series.error for series in members]))
                state = f"held-out error {error:.1%}" if math.isfinite(error) else "too few points for a held-out error"
                sentences.append(f"{family} {dtype} ({backend}): {left} of {total} points not measured, {state}")
        return sentences


def _part(spendable_s: float | None, points: int) -> float | None:
    """Time of one rank for one of so many points that are all to be measured."""
    return None if spendable_s is None else spendable_s / max(points, 1)


def _alternating(found: Sequence[Series]) -> list[Series]:
    """Order series so that a short budget reaches every family and format."""
    queues: dict[tuple[str, str], list[Series]] = {}
    for series in found:
        queues.setdefault(series.kind, []).append(series)
    return _in_turns(list(queues.values()))


def _in_turns(queues: Sequence[Sequence[_T]]) -> list[_T]:
    """Merge queues, one of each in turn."""
    return [item for turn in itertools.zip_longest(*queues) for item in turn if item is not None]
