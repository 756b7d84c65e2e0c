"""A coarse grid first, then the points a model of the measurements is least sure of, until its held-out error is small.

Points that differ in sizes only form a *series* (one family, kernel, format, and the same labels). Per series the log
ratio of time to a local roofline, t0 = flop / F + bytes / B + floor with F, B and floor the best seen in the series, is
modelled by a Gaussian process over log2 sizes. A series is settled when the median leave-one-out error reaches the
target, or the noise of the measurements themselves.
"""

import itertools
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from profiler.planner import Row
from profiler.point import Key, Point, Value, cost_op
from profiler.surrogate import Surrogate, farthest_points

Array = NDArray[np.float64]
_COARSE_BASE: Final = 4
_COARSE_PER_DIM: Final = 3
# A fit is renewed when the series has grown by this factor: fits cost more than the points they choose.
_REFIT_GROWTH: Final = 1.1


class AdaptivePlan:
    """The adaptive plan over a set of candidate points."""

    def __init__(self, points: Sequence[Point], *, target_error: float, seed: int) -> None:
        self._target = target_error
        self._random = random.Random(seed)  # noqa: S311 - an order of measurement, not a secret
        groups: dict[tuple[Value, ...], list[Point]] = {}
        for point in points:
            groups.setdefault(_series_name(point), []).append(point)
        self._series = [_Series(members) for members in groups.values()]
        self._of = {point.identity: series for series in self._series for point in series.points}
        self._total = len(points)

    def next_points(self, limit: int) -> list[Point]:
        """Return the coarse grid first, then shares of the limit to the series in proportion to their error."""
        coarse: dict[tuple[str, str], list[Point]] = {}
        for series in self._series:
            coarse.setdefault((series.points[0].family, series.points[0].op.dtype), []).extend(series.coarse())
        if any(coarse.values()):
            return self._alternating(list(coarse.values()))[:limit]
        open_series = [series for series in self._series if not series.is_settled(self._target)]
        if not open_series:
            return []
        errors = [min(series.error, 1.0) / self._target for series in open_series]
        chosen: list[Point] = []
        for series, error in zip(open_series, errors, strict=True):
            chosen += series.most_uncertain(max(1, math.floor(limit * error / sum(errors))))
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
        settled = sum(series.is_settled(self._target) for series in self._series)
        return (
            f"{self._total - self.remaining}/{self._total} points, {settled}/{len(self._series)} series settled, "
            f"median held-out error {self.error:.1%}"
        )

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
    todo: dict[tuple[str, Key], int] = field(init=False)
    _x: Array = field(init=False)
    _work: Array = field(init=False)
    _latency_s: dict[int, float] = field(default_factory=dict)
    _fitted_at: int = 0
    _surrogate: Surrogate | None = None
    _loo: float = math.inf

    def __post_init__(self) -> None:
        sizes = np.array(
            [
                [float(v) for v in point.op.values if isinstance(v, int) and not isinstance(v, bool)]
                for point in self.points
            ]
        )
        octaves = np.log2(sizes + 1.0)
        varies = np.ptp(octaves, axis=0) > 0
        self._x = octaves[:, varies] if varies.any() else octaves[:, :1]
        self._work = np.array([_work(point) for point in self.points])
        self.todo = {point.identity: index for index, point in enumerate(self.points)}

    @property
    def error(self) -> float:
        """Median leave-one-out error, as a fraction; infinite while there are too few points."""
        self._refit()
        return self._loo

    def learn(self, point: Point, row: Row) -> None:
        index = self.todo.pop(point.identity, None)
        if index is not None and row["status"] == "ok":
            self._latency_s[index] = float(row["latency_s"])

    def coarse(self) -> list[Point]:
        """Return points of the coarse grid that are still to be measured."""
        wanted = _COARSE_BASE + _COARSE_PER_DIM * self._x.shape[1]
        measured = len(self.points) - len(self.todo)
        if not self.todo or measured >= wanted:
            return []
        left = list(self.todo.values())
        done = np.delete(self._x, left, axis=0)
        return [self.points[left[i]] for i in farthest_points(self._x[left], wanted - measured, done)]

    def is_settled(self, target: float) -> bool:
        """Whether nothing is left, or the held-out error is at the target or at the noise of the measurements."""
        if not self.todo:
            return True
        self._refit()
        if self._surrogate is None:
            return False
        return self._loo <= max(target, self._surrogate.noise_sd)

    def most_uncertain(self, count: int) -> list[Point]:
        self._refit()
        left = list(self.todo.values())
        if self._surrogate is None:
            return [self.points[index] for index in left[:count]]
        return [self.points[left[i]] for i in self._surrogate.most_uncertain(self._x[left], count)]

    def _refit(self) -> None:
        known = len(self._latency_s)
        if known < _COARSE_BASE or (self._surrogate is not None and known < self._fitted_at * _REFIT_GROWTH):
            return
        index = np.array(sorted(self._latency_s))
        latency = np.array([self._latency_s[i] for i in index])
        flop, moved = self._work[index].T
        floor_s = latency.min()
        roofline = flop / max((flop / latency).max(), 1.0) + moved / max((moved / latency).max(), 1.0) + floor_s
        self._surrogate = Surrogate(self._x[index], np.log(latency / roofline))
        self._loo = float(np.median(np.abs(self._surrogate.leave_one_out())))
        self._fitted_at = known


def _work(point: Point) -> tuple[float, float]:
    """FLOP and bytes of one call; none where the cost model counts none."""
    op = cost_op(point.op)
    if op is None:
        return 0.0, 0.0
    moved = op.wire_bytes() if point.family == "collective" else op.io_bytes()  # type: ignore[union-attr]
    return float(op.flop()), float(moved)
