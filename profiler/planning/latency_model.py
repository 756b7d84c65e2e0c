"""What measurements so far say about the rest of a series: time over what was expected, smooth in the sizes.

Expected are a local roofline, flop / F + bytes / B + floor with F, B and floor the best seen in the series, and the
price of an earlier fit, blended (`costmodel.fitting.gaussian_process`). It serves to choose points and to judge them;
prices come from `costmodel`.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.families.gemm import is_aligned
from costmodel.fitting.gaussian_process import BlendedProcess
from costmodel.ops.arrays import Array
from profiler.point import Point, cost_op

if TYPE_CHECKING:
    from costmodel.fitting.prior import Prior


@dataclass(frozen=True, slots=True)
class Roofline:
    """Local roofline of a series, seconds = flop / F + bytes / B + floor."""

    flop_per_s: float
    bytes_per_s: float
    floor_s: float

    @classmethod
    def seen(cls, work: Array, latency_s: Array) -> Self:
        """Take the best rates and the least time among ``work`` [points, 2] and ``latency_s`` [points]."""
        flop, moved = work.T
        rates = max(float((flop / latency_s).max()), 1.0), max(float((moved / latency_s).max()), 1.0)
        return cls(*rates, float(latency_s.min()))

    def latency_s(self, work: Array) -> Array:
        """Return seconds of calls of ``work`` [points, 2] in FLOP and bytes."""
        flop, moved = work.T
        return np.asarray(flop / self.flop_per_s + moved / self.bytes_per_s + self.floor_s)


class LatencyModel:
    """Fitted to sizes ``x`` [points, dims] in octaves, ``work`` [points, 2] in FLOP and bytes, and times in seconds.

    ``prior_s`` [points] is what an earlier fit expects, None where there is none.
    """

    def __init__(self, x: Array, work: Array, latency_s: Array, prior_s: Array | None = None) -> None:
        self._roofline = Roofline.seen(work, latency_s)
        expected_s = self._roofline.latency_s(work)
        self._blend = BlendedProcess(x, np.log(latency_s), np.log(expected_s), _log(prior_s))

    def predict_s(self, x: Array, work: Array, prior_s: Array | None = None) -> Array:
        """Return the expected time of points that were not measured."""
        return np.exp(self._blend.predict(x, np.log(self._roofline.latency_s(work)), _log(prior_s)))

    def held_out_error(self, asked: NDArray[np.bool_]) -> float:
        """Median leave-one-out error of the points ``asked``, as a fraction; of all points where none is."""
        errors = np.abs(self._blend.rest.leave_one_out())
        return math.expm1(float(np.median(errors[asked] if asked.any() else errors)))

    def most_informative(self, x: Array, count: int) -> list[int]:
        """Return indices of the candidates ``x`` to measure next."""
        return self._blend.rest.most_informative(x, count)


def _log(seconds: Array | None) -> Array | None:
    return None if seconds is None else np.log(seconds)


def octaves_of(points: Sequence[Point]) -> Array:
    """Return log2 of the sizes that vary over ``points`` [points, dims], at least one column."""
    sizes = [
        [float(value) for value in point.op.values if isinstance(value, int) and not isinstance(value, bool)]
        for point in points
    ]
    octaves = np.log2(np.array(sizes) + 1.0)
    if points[0].family == "gemm":
        # Sizes that do not fill their tiles are slower than their neighbours: an octave apart, as it were.
        rows = np.array([float(point.op.shape["m"]) for point in points])
        octaves = np.column_stack([octaves, ~is_aligned(rows)])
    varies = np.ptp(octaves, axis=0) > 0
    return octaves[:, varies] if varies.any() else octaves[:, :1]


def prior_of(points: Sequence[Point], prior: "Prior | None") -> Array | None:
    """Return the prior's times of ``points`` [points] in seconds, None unless it prices every one."""
    prices = []
    for point in points if prior is not None else ():
        op = cost_op(point.op)
        price_s = prior.latency_s(op, point.clock_mhz) if prior is not None and op is not None else None
        if price_s is None:
            return None
        prices.append(float(price_s))
    return np.array(prices) if prices else None


def work_of(points: Sequence[Point]) -> Array:
    """Return FLOP and bytes of one call each [points, 2]; zero where the cost model counts none."""
    return np.array([_work(point) for point in points])


def _work(point: Point) -> tuple[float, float]:
    op = cost_op(point.op)
    if op is None:
        return 0.0, 0.0
    moved = op.wire_bytes() if point.family == "collective" else op.io_bytes()  # type: ignore[union-attr]
    return float(op.flop()), float(moved)
