"""A coarse grid first, then the points that teach a model of the measurements most, until its held-out error is small.

Points that differ in sizes only form a *series* (one family, kernel, format, and the same labels), with one model each
(`profiler.planning.latency_model`), which may start from an earlier fit. A series is settled when the median
leave-one-out error reaches the target, or hardly falls any more although the points doubled: what is left is noise, or
steps that only measuring every size would show.
"""

import itertools
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from costmodel.ops.arrays import Array
from profiler.planning.coarse_grid import farthest_points
from profiler.planning.latency_model import LatencyModel, octaves_of, prior_of, work_of
from profiler.planning.planner import Row
from profiler.point import Key, Point, Value

if TYPE_CHECKING:
    from costmodel.fitting.prior import Prior

_COARSE_BASE: Final = 4
_COARSE_PER_DIM: Final = 3
# A fit is renewed when the series has grown by this factor: fits cost more than the points they choose.
_REFIT_GROWTH: Final = 1.25
# Whether an error still falls is told over a doubling of the points, from this many coarse grids on.
_STALL_GROWTH: Final = 2.0
_STALL_COARSE: Final = 3.0


class AdaptivePlan:
    """The adaptive plan over a set of candidate points.

    A series whose error falls to more than ``stall_ratio`` of what it was at half the points has stalled; infinity
    never gives up. ``prior`` is an earlier fit whose prices the measurements may resemble.
    """

    def __init__(
        self,
        points: Sequence[Point],
        *,
        target_error: float,
        seed: int,
        prior: "Prior | None" = None,
        stall_ratio: float = 0.85,
    ) -> None:
        self._target = target_error
        self._stall_ratio = stall_ratio
        self._random = random.Random(seed)  # noqa: S311 - an order of measurement, not a secret
        groups: dict[tuple[Value, ...], list[Point]] = {}
        for point in points:
            groups.setdefault(_series_name(point), []).append(point)
        self._series = [_Series(members, prior_of(members, prior)) for members in groups.values()]
        self._of = {point.identity: series for series in self._series for point in series.points}
        self._total = len(points)

    def next_points(self, limit: int) -> list[Point]:
        """Return the coarse grid first, then shares of the limit: a series' error times its points not measured."""
        coarse: dict[tuple[str, str], list[Point]] = {}
        for series in self._series:
            coarse.setdefault((series.points[0].family, series.points[0].op.dtype), []).extend(series.coarse())
        if any(coarse.values()):
            return self._alternating(list(coarse.values()))[:limit]
        open_series = [series for series in self._series if not series.is_settled(self._target, self._stall_ratio)]
        if not open_series:
            return []
        ignorance = [min(series.error, 1.0) * len(series.todo) for series in open_series]
        chosen: list[Point] = []
        for series, share in zip(open_series, ignorance, strict=True):
            chosen += series.most_informative(max(1, math.floor(limit * share / sum(ignorance))))
        self._random.shuffle(chosen)
        return chosen[:limit]

    def _alternating(self, queues: list[list[Point]]) -> list[Point]:
        """Merge shuffled queues in turns, so that a short budget reaches every family and format."""
        for queue in queues:
            self._random.shuffle(queue)
        turns = itertools.zip_longest(*queues)
        return [point for turn in turns for point in turn if point is not None]

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
        grouped: dict[tuple[str, str, str], list[_Series]] = {}
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


def _series_name(point: Point) -> tuple[Value, ...]:
    labels = (value for value in point.op.values if isinstance(value, str | bool))
    return (point.family, point.backend, point.op.dtype, point.launch, point.cache, point.clock_mhz, *labels)


@dataclass(slots=True)
class _Series:
    """Candidates that differ in sizes only, and what is known of them."""

    points: list[Point]
    prior_s: Array | None
    todo: dict[tuple[str, Key], int] = field(init=False)
    _x: Array = field(init=False)
    _work: Array = field(init=False)
    _latency_s: dict[int, float] = field(default_factory=dict)
    _model: LatencyModel | None = None
    _fitted_at: int = 0
    _error: float = math.inf
    _errors: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._x = octaves_of(self.points)
        self._work = work_of(self.points)
        self.todo = {point.identity: index for index, point in enumerate(self.points)}

    @property
    def _coarse_count(self) -> int:
        return _COARSE_BASE + _COARSE_PER_DIM * int(self._x.shape[1])

    @property
    def error(self) -> float:
        """Median leave-one-out error, as a fraction; infinite while there are too few points."""
        self._refit()
        return self._error

    def learn(self, point: Point, row: Row) -> None:
        index = self.todo.pop(point.identity, None)
        if index is not None and row["status"] == "ok":
            self._latency_s[index] = float(row["latency_s"])

    def coarse(self) -> list[Point]:
        """Return points of the coarse grid that are still to be measured."""
        wanted = self._coarse_count
        measured = len(self.points) - len(self.todo)
        if not self.todo or measured >= wanted:
            return []
        left = list(self.todo.values())
        done = np.delete(self._x, left, axis=0)
        return [self.points[left[i]] for i in farthest_points(self._x[left], wanted - measured, done)]

    def is_settled(self, target: float, stall_ratio: float) -> bool:
        """Whether nothing is left, or the held-out error is at the target or has stalled."""
        if not self.todo:
            return True
        self._refit()
        if self._error <= target:
            return True
        fewest = _STALL_COARSE * self._coarse_count
        earlier = [e for points, e in self._errors if points >= fewest and self._fitted_at >= _STALL_GROWTH * points]
        return bool(earlier) and self._error > stall_ratio * earlier[-1]

    def most_informative(self, count: int) -> list[Point]:
        self._refit()
        left = list(self.todo.values())
        if self._model is None:
            return [self.points[index] for index in left[:count]]
        return [self.points[left[i]] for i in self._model.most_informative(self._x[left], count)]

    def _refit(self) -> None:
        known = len(self._latency_s)
        if known < _COARSE_BASE or (self._model is not None and known < self._fitted_at * _REFIT_GROWTH):
            return
        index = np.array(sorted(self._latency_s))
        latency_s = np.array([self._latency_s[i] for i in index])
        prior_s = None if self.prior_s is None else self.prior_s[index]
        self._model = LatencyModel(self._x[index], self._work[index], latency_s, prior_s)
        self._error = self._model.held_out_error()
        self._fitted_at = known
        self._errors.append((known, self._error))
