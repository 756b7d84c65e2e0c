"""Robust least squares of constants on relative errors, linear in the constants, with what is known of each as a prior.

Unknowns are moves from where the Jacobian was taken, in units of the prior's standard deviation. Every server has the
same weight whatever its number of rows, and counts as three independent observations: its rows share what is special
about it, and a server is measured with three pairs of lengths.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from simulator.calibration.evidence import TPOT, TTFT

Array = NDArray[np.float64]

_OBSERVATIONS: Final = 3.0
_SCALES: Final = {TPOT: 0.10, TTFT: 0.30}  # relative errors that count as one standard deviation
_HUBER: Final = 1.5  # in standard deviations: what lies further out counts linearly
_ROUNDS: Final = 30
_MOST_MOVE: Final = 3.0  # standard deviations of the prior: the model is linear around where it was taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Residuals:
    """Rows of one metric: server, log(predicted / measured), and its change with one prior error of each constant."""

    path: str
    servers: NDArray[np.str_]
    log_error: Array  # [rows]
    slopes: Array  # [rows, constants]


def fit(parts: list[Residuals], least: Array, prior: Array, *, without: str | None = None) -> Array:
    """Return the moves, in prior errors, that fit all servers but ``without``; none below ``least``.

    ``prior`` is the move to what is known of each constant without servers.
    """
    targets, slopes, weights = [], [], []
    for part in parts:
        kept = part.servers != without
        names, counts = np.unique(part.servers[kept], return_counts=True)
        share = dict(zip(names, _OBSERVATIONS / counts, strict=True))
        scale = _SCALES[part.path]
        targets.append(part.log_error[kept] / scale)
        slopes.append(part.slopes[kept] / scale)
        weights.append(np.array([share[name] for name in part.servers[kept]]))
    target, slope, weight = np.concatenate(targets), np.concatenate(slopes), np.concatenate(weights)
    count = slope.shape[1]
    bounds = (np.maximum(least, -_MOST_MOVE) - 1e-9, np.full(count, _MOST_MOVE))
    moves = np.zeros(count)
    for _ in range(_ROUNDS):
        left = target + slope @ moves
        huber = np.minimum(1.0, _HUBER / np.maximum(np.abs(left), 1e-12))
        root = np.sqrt(weight * huber)
        matrix = np.concatenate([slope * root[:, None], np.eye(count)])
        found = lsq_linear(matrix, np.concatenate([-target * root, prior]), bounds=bounds).x
        is_settled = bool(np.abs(found - moves).max(initial=0.0) < 1e-4)
        moves = found
        if is_settled:
            break
    return np.asarray(moves, dtype=np.float64)


def posterior_errors(parts: list[Residuals]) -> Array:
    """Return the standard deviation of each move, were the model true."""
    count = parts[0].slopes.shape[1]
    information = np.eye(count)
    for part in parts:
        names, counts = np.unique(part.servers, return_counts=True)
        share = dict(zip(names, _OBSERVATIONS / counts, strict=True))
        weight = np.array([share[name] for name in part.servers]) / _SCALES[part.path] ** 2
        information += part.slopes.T @ (part.slopes * weight[:, None])
    return np.asarray(np.sqrt(np.diag(np.linalg.inv(information))))


def identifying_servers(parts: list[Residuals], least_change: float = 0.02) -> list[set[str]]:
    """Return, per constant, the servers whose mean TPOT or TTFT one prior error of it moves by ``least_change``."""
    found: list[set[str]] = [set() for _ in range(parts[0].slopes.shape[1])]
    for part in parts:
        for server in np.unique(part.servers):
            moved = np.abs(part.slopes[part.servers == server]).mean(axis=0)
            for index in np.flatnonzero(moved >= least_change):
                found[index].add(str(server))
    return found
