"""Constants drawn to what is known of them, and moved by evidence: a robust least-squares problem and its errors.

Moves are in standard deviations of what is known beforehand, so that the prior is the identity. Residuals are whitened
by their covariance; beyond 1.5 of their deviations they count linearly (Huber), so that one odd run does not decide.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_HUBER: Final = 1.5
_ROUNDS: Final = 50


def whitened(residuals: Array, slopes: Array, covariance: Array) -> tuple[Array, Array]:
    """Return residuals [n] and slopes [n, k] in units of their independent deviations."""
    root = np.linalg.cholesky(covariance)
    return np.linalg.solve(root, residuals), np.linalg.solve(root, slopes)


def most_likely(residuals: Array, slopes: Array, least: Array, most: Array) -> Array:
    """Return the moves within ``least`` and ``most`` that fit whitened residuals best, where these are linear."""
    moves = np.zeros(slopes.shape[1])
    for _ in range(_ROUNDS):
        weights = _huber_weights(residuals + slopes @ moves)
        matrix = (slopes * weights[:, None]).T @ slopes + np.eye(len(moves))
        found = _within(matrix, -(slopes * weights[:, None]).T @ residuals, least, most)
        is_settled = bool(np.abs(found - moves).max(initial=0.0) < 1e-6)
        moves = found
        if is_settled:
            break
    return moves


def loss(residuals: Array, moves: Array) -> float:
    """Return what `most_likely` makes small: Huber's loss of whitened residuals, and the square of the moves."""
    size = np.abs(residuals)
    huber = np.where(size <= _HUBER, 0.5 * size**2, _HUBER * (size - 0.5 * _HUBER))
    return float(huber.sum() + 0.5 * (moves**2).sum())


def moves_covariance(slopes: Array) -> Array:
    """Return the covariance of the moves behind whitened evidence; without any it is the identity."""
    return np.asarray(np.linalg.inv(np.eye(slopes.shape[1]) + slopes.T @ slopes))


def _huber_weights(residuals: Array) -> Array:
    return np.minimum(1.0, _HUBER / np.maximum(np.abs(residuals), 1e-12))


def _within(matrix: Array, target: Array, least: Array, most: Array) -> Array:
    """Solve ``matrix`` x = ``target`` within bounds: what would cross one is held at it, and the others solved anew."""
    held = np.zeros(len(target), dtype=bool)
    found = np.zeros(len(target))
    for _ in range(len(target) + 1):
        free = ~held
        rest = target[free] - matrix[np.ix_(free, held)] @ found[held]
        found[free] = np.linalg.solve(matrix[np.ix_(free, free)], rest)
        outside = free & ((found < least) | (found > most))
        if not outside.any():
            break
        found[outside] = np.clip(found[outside], least[outside], most[outside])
        held |= outside
    return found
