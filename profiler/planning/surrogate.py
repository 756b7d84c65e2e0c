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
_OFFERED: Final = 600
_JUDGED: Final = 600


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
        # inverse = factor factor^T
        self._factor = np.linalg.inv(np.linalg.cholesky(kernel)).T
        self._inverse = self._factor @ self._factor.T
        self._weights = self._inverse @ self._residual

    def predict(self, x: Array) -> Array:
        """Posterior mean at ``x``."""
        return np.asarray(self._mean + self._kernel(x, self._x) @ self._weights)

    def leave_one_out(self) -> Array:
        """Residual of every point predicted from all others."""
        return np.asarray(self._weights / np.diag(self._inverse))

    def most_informative(self, candidates: Array, count: int) -> list[int]:
        """Return indices of the candidates to measure next: each lowers the mean variance over all of them the most.

        Measuring j lowers the variance at i by cov(i, j)^2 / (var(j) + noise); each choice counts as known for the
        next. (The point of largest variance alone would sit on the boundary, where it teaches little about the rest.)
        Large sets are judged on a random sample of them.
        """
        draw = np.random.default_rng(len(self._x))
        offered = _sample(len(candidates), _OFFERED, draw)
        judged = _sample(len(candidates), _JUDGED, draw)
        covariance = self._posterior(candidates[judged], candidates[offered])
        variance = 1.0 - np.sum((self._kernel(candidates[offered], self._x) @ self._factor) ** 2, axis=1)
        chosen: list[int] = []
        between = self._posterior(candidates[offered], candidates[offered])
        for _ in range(min(count, len(offered))):
            scale = np.maximum(variance, 0.0) + self._noise_ratio
            gain = np.sum(covariance**2, axis=0) / scale
            gain[chosen] = -1.0
            best = int(np.argmax(gain))
            chosen.append(best)
            row = between[best] / scale[best]
            covariance = covariance - np.outer(covariance[:, best], row)
            variance = variance - between[best] * row
            between = between - np.outer(between[:, best], row)
        return [int(offered[index]) for index in chosen]

    def _posterior(self, a: Array, b: Array) -> Array:
        """Posterior covariance of every row of ``a`` with every row of ``b``, in units of the signal variance."""
        left, right = self._kernel(a, self._x) @ self._factor, self._kernel(b, self._x) @ self._factor
        return np.asarray(self._kernel(a, b) - left @ right.T)

    def _kernel(self, a: Array, b: Array) -> Array:
        return _matern(a, b, self.length_scales)


def _sample(count: int, most: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """Return all of ``count`` indices, or a random ``most`` of them."""
    return np.arange(count) if count <= most else draw.choice(count, most, replace=False)


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
