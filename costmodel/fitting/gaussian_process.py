"""A small Gaussian process over sizes: mean, what every point looks like from the others, where to measure next.

y(x) = mean + f(x) + noise, f with an anisotropic Matern-3/2 kernel over log2 sizes, amplitude profiled out, length
scales and noise chosen by the marginal likelihood on a coarse grid. Leave-one-out residuals come in closed form:
r_i = [K^-1 (y - mean)]_i / [K^-1]_ii, and of points left out together r_G = ([K^-1]_GG)^-1 [K^-1 (y - mean)]_G.
Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, sections 4.2 and 5.4.2.
"""

import math
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from costmodel.ops.arrays import Array

_LENGTH_SCALES: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # octaves
_NOISE_RATIOS: Final = (1e-4, 1e-3, 1e-2, 1e-1)  # noise variance over signal variance
_SWEEPS: Final = 2
_FIT_POINTS: Final = 256
# Rows of one kernel block: 2048 x 2048 points in five sizes are 170 MB.
_BLOCK: Final = 2048
# Weights of an earlier fit's prices that are tried.
_TRUSTS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
_OFFERED: Final = 256
_JUDGED: Final = 256


class GaussianProcess:
    """Fitted to points ``x`` [points, dims] in octaves and values ``y`` [points]; needs at least three points.

    A dimension in which the points do not differ says nothing and is ignored. The search for the scales starts from
    those of ``near``, a process over the same points.
    """

    def __init__(self, x: Array, y: Array, near: "GaussianProcess | None" = None) -> None:
        self._varies = np.ptp(x, axis=0) > 0
        x = x[:, self._varies]
        self._x = x
        self._mean = float(np.mean(y))
        self._residual = y - self._mean
        # The likelihood of a share of the points says as much about the scales, at a fraction of the cubic cost.
        share = slice(None, None, -(-len(x) // _FIT_POINTS))
        start = None if near is None else (near.length_scales, near.noise_ratio)
        self.length_scales: Array
        self.noise_ratio: float
        self.length_scales, self.noise_ratio = _fit(x[share], self._residual[share], start)
        self._lower, whitened = _factored(x, self.length_scales, self.noise_ratio, self._residual)
        # Comparable between processes over the same points whose values differ by what was subtracted from them.
        self.log_likelihood = _log_likelihood(self._lower, whitened)

    # Made when first asked for: of processes that are only compared by their likelihood the factor is enough.
    @cached_property
    def _factor(self) -> Array:
        """Inverse of the kernel matrix = factor factor^T."""
        return np.asarray(np.linalg.inv(self._lower).T)

    @cached_property
    def _inverse(self) -> Array:
        kernel = self._kernel(self._x, self._x)
        return np.asarray(np.linalg.inv(kernel + self.noise_ratio * np.eye(len(kernel))))

    @cached_property
    def _weights(self) -> Array:
        return np.asarray(self._inverse @ self._residual)

    def predict(self, x: Array) -> Array:
        """Posterior mean at ``x``."""
        x = x[:, self._varies]
        parts = [self._kernel(x[i : i + _BLOCK], self._x) @ self._weights for i in range(0, len(x), _BLOCK)]
        return np.asarray(self._mean + np.concatenate(parts)) if parts else np.zeros(0)

    def leave_one_out(self) -> Array:
        """Residual of every point predicted from all others."""
        return np.asarray(self._weights / np.diag(self._inverse))

    def leave_out(self, members: NDArray[np.int64]) -> Array:
        """Residuals of the points at ``members``, left out together and predicted from the rest."""
        return np.asarray(np.linalg.solve(self._inverse[np.ix_(members, members)], self._weights[members]))

    def most_informative(self, candidates: Array, count: int) -> list[int]:
        """Return indices of the candidates to measure next: each lowers the mean variance over all of them the most.

        Measuring j lowers the variance at i by cov(i, j)^2 / (var(j) + noise); each choice counts as known for the
        next. (The point of largest variance alone would sit on the boundary, where it teaches little about the rest.)
        Large sets are judged on a random sample of them.
        """
        candidates = candidates[:, self._varies]
        draw = np.random.default_rng(len(self._x))
        offered = _sample(len(candidates), _OFFERED, draw)
        judged = _sample(len(candidates), _JUDGED, draw)
        covariance = self._posterior(candidates[judged], candidates[offered])
        variance = 1.0 - np.sum((self._kernel(candidates[offered], self._x) @ self._factor) ** 2, axis=1)
        chosen: list[int] = []
        between = self._posterior(candidates[offered], candidates[offered])
        for _ in range(min(count, len(offered))):
            scale = np.maximum(variance, 0.0) + self.noise_ratio
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


def _fit(x: Array, residual: Array, start: tuple[Array, float] | None) -> tuple[Array, float]:
    """Coordinate search over length scales and noise for the highest marginal likelihood."""
    scales, noise = start or (np.full(x.shape[1], 4.0), 1e-2)

    def likelihood(scales: Array, noise: float) -> float:
        return _log_likelihood(*_factored(x, scales, noise, residual))

    best = likelihood(scales, noise)
    for _ in range(_SWEEPS if start is None else 1):
        for dim in range(len(scales)):
            for scale in _LENGTH_SCALES:
                trial = scales.copy()
                trial[dim] = scale
                if (value := likelihood(trial, noise)) > best:
                    best, scales = value, trial
        for ratio in _NOISE_RATIOS:
            if (value := likelihood(scales, ratio)) > best:
                best, noise = value, ratio
    return scales, noise


def _factored(x: Array, scales: Array, noise: float, residual: Array) -> tuple[Array, Array]:
    """Return the Cholesky factor L of the kernel matrix, and L^-1 residual.

    The latter is the last row of the factor of the matrix bordered by the residual: NumPy has no triangular solver, and
    a general one costs twice the factor.
    """
    count = len(x)
    bordered = np.empty((count + 1, count + 1))
    bordered[:count, :count] = _matern(x, x, scales)
    bordered[range(count), range(count)] += noise
    bordered[count, :count] = bordered[:count, count] = residual
    # Any corner that keeps the matrix positive definite: residual^T K^-1 residual is at most this.
    bordered[count, count] = 1.0 + float(residual @ residual) / noise
    factor = np.asarray(np.linalg.cholesky(bordered), dtype=np.float64)
    return factor[:count, :count], factor[count, :count]


def _log_likelihood(lower: Array, whitened: Array) -> float:
    """Marginal likelihood with the signal variance at its optimum, up to a constant."""
    count = len(whitened)
    variance = max(float(whitened @ whitened) / count, 1e-12)
    return -0.5 * count * math.log(variance) - float(np.sum(np.log(np.diag(lower))))


def _matern(a: Array, b: Array, scales: Array) -> Array:
    """Matern-3/2 correlation of every row of ``a`` with every row of ``b``."""
    square = np.zeros((len(a), len(b)))
    for column, scale in enumerate(scales):
        square += ((a[:, column, None] - b[None, :, column]) / scale) ** 2
    distance = np.sqrt(3.0 * square)
    return np.asarray((1.0 + distance) * np.exp(-distance))


class BlendedProcess:
    """Times of ops between what physics expects and what an earlier fit says, with a Gaussian process for the rest.

        ln t(x) = (1 - trust) ln reference(x) + trust ln prior(x) + g(x)

    ``trust`` is the one under which the measurements are likeliest. Two measurements of one device, or two devices of
    one generation, share most of their steps from tile to tile (trust near 1); devices of different generations share
    some. Fitted to ``x`` [points, dims] in octaves and the logarithms of measured, reference and (if any) prior times.
    """

    def __init__(self, x: Array, log_s: Array, reference_log_s: Array, prior_log_s: Array | None = None) -> None:
        self.trust = 0.0
        self.rest = GaussianProcess(x, log_s - reference_log_s)
        for trust in _TRUSTS[1:] if prior_log_s is not None else ():
            rest = GaussianProcess(x, log_s - _blend(trust, reference_log_s, prior_log_s), near=self.rest)
            if rest.log_likelihood > self.rest.log_likelihood:
                self.trust, self.rest = trust, rest

    def predict(self, x: Array, reference_log_s: Array, prior_log_s: Array | None = None) -> Array:
        """Return the expected ln t; ``prior_log_s`` must be there unless ``trust`` is 0."""
        return _blend(self.trust, reference_log_s, prior_log_s) + self.rest.predict(x)


def _blend(trust: float, reference_log_s: Array, prior_log_s: Array | None) -> Array:
    if not trust:
        return reference_log_s
    assert prior_log_s is not None
    return (1.0 - trust) * reference_log_s + trust * prior_log_s
