"""What measurements so far say about the rest of a series: time over a local roofline, smooth in the sizes.

t0 = flop / F + bytes / B + floor, with F, B and floor the best seen in the series; ln(t / t0) is a Gaussian process
over log2 sizes (`profiler.planning.surrogate`). It serves to choose points and to judge them; prices come from
`costmodel`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from profiler.planning.surrogate import Surrogate
from profiler.point import Point, cost_op

Array = NDArray[np.float64]


class LatencyModel:
    """Fitted to sizes ``x`` [points, dims] in octaves, ``work`` [points, 2] in FLOP and bytes, and times in seconds."""

    def __init__(self, x: Array, work: Array, latency_s: Array) -> None:
        flop, moved = work.T
        self._flop_per_s = max(float((flop / latency_s).max()), 1.0)
        self._bytes_per_s = max(float((moved / latency_s).max()), 1.0)
        self._floor_s = float(latency_s.min())
        self.surrogate = Surrogate(x, np.log(latency_s / self._roofline_s(work)))

    def predict_s(self, x: Array, work: Array) -> Array:
        """Return the expected time of points that were not measured."""
        return np.asarray(self._roofline_s(work) * np.exp(self.surrogate.predict(x)))

    def held_out_error(self) -> float:
        """Median leave-one-out error, as a fraction."""
        return float(np.median(np.abs(self.surrogate.leave_one_out())))

    def _roofline_s(self, work: Array) -> Array:
        flop, moved = work.T
        return np.asarray(flop / self._flop_per_s + moved / self._bytes_per_s + self._floor_s)


def octaves_of(points: Sequence[Point]) -> Array:
    """Return log2 of the sizes that vary over ``points`` [points, dims], at least one column."""
    sizes = [
        [float(value) for value in point.op.values if isinstance(value, int) and not isinstance(value, bool)]
        for point in points
    ]
    octaves = np.log2(np.array(sizes) + 1.0)
    varies = np.ptp(octaves, axis=0) > 0
    return octaves[:, varies] if varies.any() else octaves[:, :1]


def work_of(points: Sequence[Point]) -> Array:
    """Return FLOP and bytes of one call each [points, 2]; zero where the cost model counts none."""
    return np.array([_work(point) for point in points])


def _work(point: Point) -> tuple[float, float]:
    op = cost_op(point.op)
    if op is None:
        return 0.0, 0.0
    moved = op.wire_bytes() if point.family == "collective" else op.io_bytes()  # type: ignore[union-attr]
    return float(op.flop()), float(moved)
