"""What a calibration is worth on runs it has not seen: each run predicted with constants of the others.

Each fold starts where all runs together ended, keeps their constants and slopes, and is replayed after every step.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from cluster_specs.lazy_dataclass import dataclass
from simulator.calibration.estimate import Estimate, Predict
from simulator.calibration.evidence import Evidence
from simulator.calibration.posterior import Array, most_likely, whitened
from simulator.calibration.unknowns import Unknown

_ROUNDS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Errors of every number as log(predicted / measured): as the profile is, and from the other runs."""

    before: Array
    after: Array


def leave_one_out(predict: Predict, unknowns: Sequence[Unknown], evidence: Evidence, found: Estimate) -> LeftOut:
    """Predict each run of ``evidence`` from the others."""
    after = found.before.copy()
    least = np.array([unknown.least_move for unknown in unknowns])[found.kept]
    most = np.array([unknown.most_move for unknown in unknowns])[found.kept]
    covariance = evidence.covariance()
    for run in dict.fromkeys(evidence.runs.tolist()):
        others = evidence.without(run)
        moves, residuals = found.moves, found.after
        for _ in range(_ROUNDS if found.kept and others.any() else 0):
            constant = residuals - found.slopes[:, found.kept] @ moves[found.kept]
            slopes = found.slopes[others][:, found.kept]
            own = whitened(constant[others], slopes, covariance[others][:, others])
            moves = moves.copy()
            moves[found.kept] = most_likely(*own, least, most)
            residuals = predict(moves) - evidence.log_measured
        if np.isfinite(residuals).all() and others.any():
            after[~others] = residuals[~others]
    return LeftOut(before=found.before, after=after)
