"""A small Gaussian process that says where a measurement would teach most: mean, uncertainty and leave-one-out error.

y(x) = mean + f(x) + noise, f with an anisotropic Matern-3/2 kernel over log2 sizes, amplitude profiled out, length
scales and noise chosen by the marginal likelihood on a coarse grid. Leave-one-out residuals come in closed form:
r_i = [K^-1 (y - mean)]_i / [K^-1]_ii. Source: Rasmussen and Williams, Gaussian Processes for Machine Learning,
sections 4.2 and 5.4.2.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_LENGTH_SCALES: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # octaves
_NOISE_RATIOS: Final = (1e-4, 1e-3, 1e-2, 1e-1)  # noise variance over signal variance
_SWEEPS: Final = 2
_FIT_POINTS: Final = 256


class Surrogate:
    """Fitted to points ``x`` [points, dims] in octaves and values ``y`` [points]; needs at least three points."""

    def __init__(self, x: Array, y: Array) -> None:
        self._x = x
        self._mean = float(np.mean(y))
        self._residual = y - self._mean
        # The likelihood of a share of the points says as much about the scales, at a fraction of the cubic cost.
        share = slice(None, None, -(-len(x) // _FIT_POINTS))
        self.length_scales, self._noise_ratio = _fit(x[share], self._residual[share])
        kernel = self._kernel(x, x) + self._noise_ratio * np.eye(len(x))
        self._inverse = np.linalg.inv(kernel)
        self._weights = self._inverse @ self._residual
        self.signal_variance = max(float(self._residual @ self._weights) / len(y), 1e-12)

    @property
    def noise_sd(self) -> float:
        """Standard deviation of the noise."""
        return math.sqrt(self._noise_ratio * self.signal_variance)

    def predict(self, x: Array) -> Array:
        """Posterior mean at ``x``."""
        return np.asarray(self._mean + self._kernel(x, self._x) @ self._weights)

    def leave_one_out(self) -> Array:
        """Residual of every point predicted from all others."""
        return np.asarray(self._weights / np.diag(self._inverse))

    def most_uncertain(self, candidates: Array, count: int) -> list[int]:
        """Return indices of the candidates to measure next, each chosen as if the earlier ones were already known."""
        cross = self._kernel(candidates, self._x)
        explained = cross @ self._inverse
        variance = np.maximum(1.0 - np.sum(explained * cross, axis=1), 0.0)
        chosen: list[int] = []
        directions: list[Array] = []
        for _ in range(min(count, len(candidates))):
            best = int(np.argmax(variance))
            if variance[best] <= 0:
                break
            chosen.append(best)
            # Posterior covariance with the chosen point, less what earlier choices already explain (a Cholesky row).
            column = self._kernel(candidates, candidates[best : best + 1])[:, 0] - explained @ cross[best]
            for row in directions:
                column = column - row * row[best]
            row = column / math.sqrt(variance[best] + self._noise_ratio)
            directions.append(row)
            variance = np.maximum(variance - row**2, 0.0)
            variance[chosen] = 0.0
        return chosen

    def _kernel(self, a: Array, b: Array) -> Array:
        return _matern(a, b, self.length_scales)


def _fit(x: Array, residual: Array) -> tuple[Array, float]:
    """Coordinate search over length scales and noise for the highest marginal likelihood."""
    scales = np.full(x.shape[1], 4.0)
    noise = 1e-2
    best = _log_likelihood(x, residual, scales, noise)
    for _ in range(_SWEEPS):
        for dim in range(len(scales)):
            for scale in _LENGTH_SCALES:
                trial = scales.copy()
                trial[dim] = scale
                if (value := _log_likelihood(x, residual, trial, noise)) > best:
                    best, scales = value, trial
        for ratio in _NOISE_RATIOS:
            if (value := _log_likelihood(x, residual, scales, ratio)) > best:
                best, noise = value, ratio
    return scales, noise


def _log_likelihood(x: Array, residual: Array, scales: Array, noise: float) -> float:
    """Marginal likelihood with the signal variance at its optimum, up to a constant."""
    count = len(x)
    factor = np.linalg.cholesky(_matern(x, x, scales) + noise * np.eye(count))
    whitened = np.linalg.solve(factor, residual)
    variance = max(float(whitened @ whitened) / count, 1e-12)
    return -0.5 * count * math.log(variance) - float(np.sum(np.log(np.diag(factor))))


def _matern(a: Array, b: Array, scales: Array) -> Array:
    """Matern-3/2 correlation of every row of ``a`` with every row of ``b``."""
    gaps = (a[:, None, :] - b[None, :, :]) / scales
    distance = math.sqrt(3.0) * np.sqrt(np.sum(gaps**2, axis=2))
    return np.asarray((1.0 + distance) * np.exp(-distance))


def farthest_points(x: Array, count: int, taken: Array | None = None) -> list[int]:
    """Return indices of up to ``count`` rows that spread over ``x``: corners first, then the widest gap each time."""
    span = np.ptp(x, axis=0)
    scaled = (x - x.min(axis=0)) / np.where(span > 0, span, 1.0)
    if taken is not None and len(taken):
        known = (taken - x.min(axis=0)) / np.where(span > 0, span, 1.0)
        distance = np.min(np.linalg.norm(scaled[:, None, :] - known[None, :, :], axis=2), axis=1)
        chosen: list[int] = []
    else:
        first = int(np.argmin(scaled.sum(axis=1)))
        chosen = [first]
        distance = np.linalg.norm(scaled - scaled[first], axis=1)
    while len(chosen) < min(count, len(x)):
        best = int(np.argmax(distance))
        if distance[best] <= 0:
            break
        chosen.append(best)
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[best], axis=1))
    return chosen[:count]
