"""Constants estimated by replaying: slopes are differences of replays, and every step ends with a real one.

Gauss-Newton: slopes are taken where the last step ended, a step is the robust least-squares solution within a few
errors of there, halved while the true loss does not fall. It ends where a step is small or nothing is gained.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from cluster_specs.lazy_dataclass import dataclass
from simulator.calibration.evidence import Evidence
from simulator.calibration.posterior import Array, loss, most_likely, moves_covariance, whitened
from simulator.calibration.told import told
from simulator.calibration.unknowns import Unknown

# Predicted logarithms of every number of the evidence, at moves of the unknowns.
Predict = Callable[[Array], Array]

_MOST_ROUNDS: Final = 8
_MOST_STEP: Final = 2.0  # errors: how far slopes are believed
_SMALL_STEP: Final = 0.05
_GAIN: Final = 1e-3
_HALVINGS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Moves of the unknowns in their errors, those that runs do not tell at zero, and the replays they rest on."""

    moves: Array
    kept: list[int]  # places of the unknowns that were estimated
    covariance: Array  # of their moves
    slopes: Array  # [numbers, unknowns], at the moves
    before: Array  # log(predicted / measured) as the profile is
    after: Array
    rounds: int
    is_settled: bool


def slopes_at(predict: Predict, moves: Array, middle: Array, places: Sequence[int]) -> Array:
    """Return how predicted logarithms change with one error of each unknown, [numbers, unknowns].

    Zero for those not in ``places``, and where the plan would not start.
    """
    found = np.zeros((len(middle), len(moves)))
    for place in places:
        shifted = moves.copy()
        shifted[place] += 1.0
        found[:, place] = predict(shifted) - middle
    return np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)


def estimate(
    predict: Predict,
    unknowns: Sequence[Unknown],
    evidence: Evidence,
    *,
    slopes: Array | None = None,
    only: Sequence[int] | None = None,
) -> Estimate:
    """Estimate the unknowns that ``evidence`` tells, of those in ``only``.

    ``slopes`` are those at the profile as it is, where they are known. All predictions must be finite there.
    """
    count = len(unknowns)
    least = np.array([unknown.least_move for unknown in unknowns])
    most = np.array([unknown.most_move for unknown in unknowns])
    covariance = evidence.covariance()
    moves = np.zeros(count)
    middle = predict(moves)
    before = middle - evidence.log_measured
    if slopes is None:
        slopes = slopes_at(predict, moves, middle, range(count))
    white = whitened(before, slopes, covariance)[1]
    able = list(range(count)) if only is None else list(only)
    is_load = np.array([unknown.load is not None for unknown in unknowns])
    loads = np.flatnonzero(is_load[able]).tolist()
    kept = [able[place] for place in told(white[:, able], most=len(evidence), loads=loads)]
    residuals, is_settled, rounds = before, not kept, 0
    reached = loss(whitened(residuals, slopes, covariance)[0], moves)
    while kept and not is_settled and rounds < _MOST_ROUNDS:
        rounds += 1
        # Linear around the moves: residuals at zero moves are those here minus what the moves did.
        constant, steep = whitened(residuals - slopes[:, kept] @ moves[kept], slopes[:, kept], covariance)
        low = np.maximum(least[kept], moves[kept] - _MOST_STEP)
        high = np.minimum(most[kept], moves[kept] + _MOST_STEP)
        step = most_likely(constant, steep, low, high) - moves[kept]
        if np.abs(step).max() < _SMALL_STEP:
            is_settled = True
            break
        for _ in range(1 + _HALVINGS):
            tried = moves.copy()
            tried[kept] += step
            found = predict(tried) - evidence.log_measured
            own = loss(whitened(found, slopes, covariance)[0], tried) if np.isfinite(found).all() else np.inf
            if own < reached:
                break
            step = step / 2
        if not own < reached:
            is_settled = True
            break
        is_settled = reached - own < _GAIN * max(1.0, reached)
        moves, residuals, reached = tried, found, own
        steep = slopes_at(predict, moves, residuals + evidence.log_measured, np.array(kept)[~is_load[kept]].tolist())
        slopes = np.where(is_load, slopes, steep)  # logarithms are nearly linear in factors by load
    return Estimate(
        moves=moves,
        kept=kept,
        covariance=moves_covariance(whitened(residuals, slopes[:, kept], covariance)[1]),
        slopes=slopes,
        before=before,
        after=residuals,
        rounds=rounds,
        is_settled=is_settled,
    )
