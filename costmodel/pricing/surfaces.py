"""Latency as a function of two sizes, ready to be asked millions of times: bilinear in log-log-log on a grid."""

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.cost_model import Prediction
from costmodel.ops.arrays import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class SurfaceGrid:
    """Values on the grid of ascending ``x`` [nx] and ``y`` [ny]; all others are [nx, ny].

    ``*_between`` hold in the cell whose lower corner is the grid point, the others at the point itself.
    """

    x: Array
    y: Array
    latency_s: Array
    power_w: Array
    source: NDArray[np.int8]
    log_half_width: Array
    source_between: NDArray[np.int8]
    log_half_width_between: Array


class Surface:
    """A prepared surface; ``predict`` takes sizes of any common shape."""

    __slots__ = ("_high", "_latency", "_log_t", "_log_x", "_log_y", "_low", "_ny", "_power", "_source", "_x", "_y")

    def __init__(self, grid: SurfaceGrid) -> None:
        self._x, self._y = grid.x, grid.y
        self._log_x, self._log_y = np.log(grid.x), np.log(grid.y)
        self._ny = len(grid.y)
        self._latency = grid.latency_s.ravel()
        self._log_t = np.log(self._latency)
        self._power = grid.power_w.ravel()
        half = np.stack([grid.log_half_width_between.ravel(), grid.log_half_width.ravel()], axis=1).ravel()
        self._low, self._high = np.exp(-half), np.exp(half)
        self._source = np.stack([grid.source_between.ravel(), grid.source.ravel()], axis=1).ravel()

    def predict(self, x: Array, y: Array) -> Prediction:
        """Price sizes (``x``, ``y``); beyond the grid the last slope goes on, below it the first point counts."""
        column, across, on_x = _locate(self._x, self._log_x, x)
        row, along, on_y = _locate(self._y, self._log_y, y)
        cell = column * self._ny + row
        low, high = self._log_t[cell], self._log_t[cell + self._ny]
        low = low + along * (self._log_t[cell + 1] - low)
        high = high + along * (self._log_t[cell + self._ny + 1] - high)
        latency_s = np.exp(low + across * (high - low))
        point = (column + (across == 1.0)) * self._ny + row + (along == 1.0)
        at_point = on_x & on_y
        latency_s = np.where(at_point, self._latency[point], latency_s)
        label = 2 * np.where(at_point, point, cell) + at_point
        return Prediction(
            latency_s=latency_s,
            low_s=latency_s * self._low[label],
            high_s=latency_s * self._high[label],
            energy_j=latency_s * self._power[point],
            source=self._source[label],
        )


def _locate(knots: Array, log_knots: Array, x: Array) -> tuple[NDArray[np.int64], Array, NDArray[np.bool_]]:
    """Return the cell's lower knot, how far across it x lies in log, and whether x is a knot."""
    x = np.maximum(x, knots[0])
    cell = np.minimum(np.searchsorted(knots, x, side="right") - 1, len(knots) - 2)
    low = log_knots[cell]
    across = (np.log(x) - low) / (log_knots[cell + 1] - low)
    at_low, at_high = knots[cell] == x, knots[cell + 1] == x
    # Rounding must not turn a knot into a neighbour of itself.
    across = np.where(at_low, 0.0, np.where(at_high, 1.0, across))
    return cell, across, at_low | at_high
