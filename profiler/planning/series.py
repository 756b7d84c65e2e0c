"""Points that differ in sizes only, and what is known of them.

A series is one family, kernel, format, launch, cache state and clock, and the same labels in its shape. It has a model
of its own (`profiler.planning.latency_model`), which may start from an earlier fit, and is settled when the median
leave-one-out error reaches the target, or hardly falls any more although the points doubled: what is left is noise, or
steps that only measuring every size would show.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.families.family import FEWEST_POINTS
from costmodel.families.gemm import is_aligned
from costmodel.ops.arrays import Array
from profiler.planning.coarse_grid import farthest_points
from profiler.planning.latency_model import LatencyModel, Roofline, octaves_of, work_of
from profiler.planning.planner import Row
from profiler.point import Key, Point, Value

Indices = NDArray[np.int64]

_COARSE_BASE: Final = 4
_COARSE_PER_DIM: Final = 3
# A fit is renewed when the series has grown by this factor: fits cost more than the points they choose.
_REFIT_GROWTH: Final = 1.25
# Whether an error still falls is told over a doubling of the points, from this many coarse grids on.
_STALL_GROWTH: Final = 2.0
_STALL_COARSE: Final = 3.0
# A point whose calls are long takes so many of every rank: a warm-up, two samples, as much again for its operands.
_CALLS: Final = 4.0
# A series whose kernel refuses points is tried this often for each one that a fit needs.
_TRIES: Final = 2


def in_series(points: Iterable[Point]) -> list[list[Point]]:
    """Group points that differ in sizes only, in order of first appearance."""
    groups: dict[tuple[Value, ...], list[Point]] = {}
    for point in points:
        labels = (value for value in point.op.values if isinstance(value, str | bool))
        name = (point.family, point.backend, point.op.dtype, point.launch, point.cache, point.clock_mhz, *labels)
        groups.setdefault(name, []).append(point)
    return list(groups.values())


def in_labels(points: Iterable[Point]) -> list[list[Point]]:
    """Group points by what ``apex fit`` takes as one label, each of a kernel by itself."""
    return [[members[i] for i in label] for members in in_series(points) for label in _labels_in(members)]


def _labels_in(members: Sequence[Point]) -> list[Indices]:
    """Return the indices of each label in a series: a GEMM's sizes that fill their tiles are one, the rest another."""
    if members[0].family != "gemm":
        return [np.arange(len(members))]
    aligned = np.asarray(is_aligned(np.array([float(point.op.shape["m"]) for point in members])))
    return [label for label in (np.flatnonzero(aligned), np.flatnonzero(~aligned)) if len(label)]


@dataclass(slots=True, kw_only=True)
class Series:
    """Candidates of one series, and what is known of them.

    ``prior_s`` [points] is what an earlier fit expects of them in seconds, ``shares`` [points] their shares of a step;
    each keeps ``ranks`` ranks busy.
    """

    points: list[Point]
    prior_s: Array | None
    shares: Array
    ranks: int = 1
    todo: dict[tuple[str, Key], int] = field(init=False)
    _labels: list[Indices] = field(init=False)
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
        self._labels = _labels_in(self.points)
        self.todo = {point.identity: index for index, point in enumerate(self.points)}

    @property
    def kind(self) -> tuple[str, str]:
        """Family and format."""
        return self.points[0].family, self.points[0].op.dtype

    @property
    def _coarse_count(self) -> int:
        return _COARSE_BASE + _COARSE_PER_DIM * int(self._x.shape[1])

    @property
    def _tried(self) -> int:
        return len(self.points) - len(self.todo)

    @property
    def is_begun(self) -> bool:
        """Whether a point of it has been tried."""
        return self._tried > 0

    @property
    def lacking(self) -> int:
        """Points that a fit of its labels still needs."""
        return sum(self._lacks(label) for label in self._labels)

    def _lacks(self, label: Indices) -> int:
        """Points that a fit of ``label`` still needs; none where its kernel has refused too many."""
        left = len(self._left(label))
        tries = _TRIES * FEWEST_POINTS - (len(label) - left)
        known = sum(index in self._latency_s for index in label.tolist())
        return max(min(FEWEST_POINTS - known, tries, left), 0)

    def _left(self, label: Indices) -> Indices:
        """Return the indices of ``label`` that were not tried."""
        return label[np.isin(label, list(self.todo.values()))]

    @property
    def coarse_lacking(self) -> int:
        """Points of the coarse grid that are still to be measured; those of a step lie at few sizes and are none."""
        of_steps = int(np.count_nonzero(self.shares)) - int(np.count_nonzero(self.shares[list(self.todo.values())]))
        return min(max(self._coarse_count - (self._tried - of_steps), 0), len(self.todo))

    def smallest(self) -> Point:
        """Return the point of least work that was not tried."""
        return self.points[min(self.todo.values(), key=lambda index: (*self._work[index, ::-1], self._x[index].sum()))]

    @property
    def error(self) -> float:
        """Median leave-one-out error, as a fraction; infinite while there are too few points.

        Points of a step say little of the sizes between them: others are asked where there are any.
        """
        self._refit()
        return self._error

    def learn(self, point: Point, row: Row) -> None:
        """Strike the point off and keep its time, where it has one."""
        index = self.todo.pop(point.identity, None)
        if index is not None and row["status"] == "ok":
            self._latency_s[index] = float(row["latency_s"])

    def needed(self, most_s: float | None) -> list[Point]:
        """Return what a fit still lacks, spread over points of ``most_s`` of a rank at most, else the quickest."""
        chosen: list[Point] = []
        for label in self._labels:
            count, left = self._lacks(label), self._left(label)
            expected_s = self._expected_s(left)
            quick = left if most_s is None else left[_CALLS * self.ranks * expected_s <= most_s]
            if not np.isin(self._heavy(left, count), quick).all():
                count = math.ceil(count / 2)  # the others when more is known of the rates: those of small calls mislead
            if len(quick) < count:
                quick = left[np.argsort(expected_s, kind="stable")][:count]
            chosen += self._heavy_and_spread(quick, count)
        return chosen

    def _heavy_and_spread(self, left: Indices, count: int) -> list[Point]:
        """Choose those of the largest shares of a step for half of ``count``, and the others far from all chosen."""
        heavy = self._heavy(left, count)
        others = left[~np.isin(left, heavy)]
        return [*(self.points[i] for i in heavy), *self._spread(others, count - len(heavy), heavy)]

    def _heavy(self, left: Indices, count: int) -> Indices:
        """Return those of the largest shares of a step for half of ``count``."""
        heavy = left[np.argsort(-self.shares[left], kind="stable")][: math.ceil(count / 2)]
        return heavy[self.shares[heavy] > 0.0]

    def of_a_step(self, most_s: float | None) -> list[tuple[float, Point]]:
        """Return share and point of what a step asks for, was not tried and takes ``most_s`` at most."""
        return [(float(self.shares[i]), self.points[i]) for i in self._within(most_s) if self.shares[i] > 0.0]

    def coarse(self, most_s: float | None) -> list[Point]:
        """Return points of the coarse grid that are still to be measured, of those that take ``most_s`` at most."""
        return self._spread(self._within(most_s), self.coarse_lacking)

    def _spread(self, left: Indices, count: int, beside: Sequence[int] | Indices = ()) -> list[Point]:
        """Choose ``count`` of ``left`` that lie far from each other, from what was tried and from those ``beside``."""
        if not count or not len(left):
            return []
        open_points = list(set(self.todo.values()) - set(beside))
        taken = np.delete(self._x, open_points, axis=0)
        return [self.points[left[i]] for i in farthest_points(self._x[left], count, taken)]

    def _within(self, most_s: float | None) -> Indices:
        """Return the indices of points not tried that are expected to take ``most_s`` at most."""
        left = np.fromiter(self.todo.values(), dtype=np.int64)
        return left if most_s is None else left[_CALLS * self.ranks * self._expected_s(left) <= most_s]

    def _expected_s(self, index: Indices) -> Array:
        """Expect the prior's time of a call, else that of the best rates seen; zero where nothing is known."""
        if self.prior_s is not None:
            return np.asarray(self.prior_s[index])
        if not self._latency_s:
            return np.zeros(len(index))
        roofline = Roofline.seen(self._work[list(self._latency_s)], np.array(list(self._latency_s.values())))
        return roofline.latency_s(self._work[index])

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

    def most_informative(self, count: int, most_s: float | None) -> list[Point]:
        """Return the points that lower the model's variance most, of those that take ``most_s`` at most, if any do."""
        self._refit()
        left = self._within(most_s)
        if not len(left):
            left = self._within(None)
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
        self._error = self._model.held_out_error(self.shares[index] == 0.0)
        self._fitted_at = known
        self._errors.append((known, self._error))
