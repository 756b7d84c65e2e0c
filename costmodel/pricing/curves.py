"""Latency as a function of one size, ready to be asked millions of times: piecewise linear in log-log.

A curve holds every point where its slope changes. At a point the stored latency is returned as it is; between two
points the logarithm of time is linear in the logarithm of the size, which is exact for power laws.
"""

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.cost_model import Prediction
from costmodel.ops.arrays import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoints:
    """Values at ascending sizes ``x``; ``source`` and the interval of a point hold at it, ``between`` up to the next.

    ``log_half_width`` and ``log_half_width_between`` are the interval's half-widths in natural log. ``position`` is
    what is searched for, the sizes themselves unless a curve has several branches laid one behind the other.
    """

    position: Array

    x: Array
    latency_s: Array
    power_w: Array
    source: NDArray[np.int8]
    log_half_width: Array
    source_between: NDArray[np.int8]
    log_half_width_between: Array


class Curve:
    """A prepared curve; ``predict`` takes sizes of any shape."""

    __slots__ = ("_high", "_latency", "_log_power", "_low", "_offset", "_position", "_power_slope", "_slope", "_source")

    def __init__(self, points: CurvePoints) -> None:
        log_x, log_t, log_p = np.log(points.x), np.log(points.latency_s), np.log(points.power_w)
        self._position = points.position
        self._latency = points.latency_s
        self._slope, self._offset = _segments(log_x, log_t)
        self._power_slope, self._log_power = _segments(log_x, log_p)
        # Even entries hold between points, odd ones at a point.
        half = np.stack([points.log_half_width_between, points.log_half_width], axis=1).ravel()
        self._low, self._high = np.exp(-half), np.exp(half)
        self._source = np.stack([points.source_between, points.source], axis=1).ravel()

    def predict(self, x: Array, position: Array | None = None) -> Prediction:
        """Price sizes ``x``; sizes below the first point count as the first."""
        if position is None:
            x = np.maximum(x, self._position[0])
            position = x
        segment = np.searchsorted(self._position, position, side="right") - 1
        log_x = np.log(x)
        at_point = self._position[segment] == position
        latency_s = np.exp(self._offset[segment] + self._slope[segment] * log_x)
        latency_s = np.where(at_point, self._latency[segment], latency_s)
        power_w = np.exp(self._log_power[segment] + self._power_slope[segment] * log_x)
        label = 2 * segment + at_point
        return Prediction(
            latency_s=latency_s,
            low_s=latency_s * self._low[label],
            high_s=latency_s * self._high[label],
            energy_j=latency_s * power_w,
            source=self._source[label],
        )


def _segments(log_x: Array, y: Array) -> tuple[Array, Array]:
    """Slope and offset of each segment; the last of each branch goes on beyond its last point."""
    if len(y) == 1:
        return np.zeros(1), y
    step = np.diff(log_x)
    rising = step > 0
    slope = np.divide(np.diff(y), step, out=np.zeros_like(step), where=rising)
    last = np.flatnonzero(~rising)
    slope[last] = slope[last - 1]
    slope = np.append(slope, slope[-1])
    return slope, y - slope * log_x
