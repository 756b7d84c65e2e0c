"""How far a server is from its profile, judged by its runs: as far as servers are, half as far, or not at all.

    ln evidence = -(ln det V + r' V^-1 r) / 2,  V = covariance + width^2 slopes slopes'

Leaving one run out would be the plainer judge, but runs that were chosen to differ predict each other badly where they
predict all others well: on public servers it kept the profile where calibrating halved the error (decision 109).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from simulator.calibration.posterior import Array
from simulator.calibration.unknowns import Unknown

WIDTHS: Final = (1.0, 0.5, 0.0)  # of the errors of constants: 0 is the profile as it is


def likeliest_width(residuals: Array, slopes: Array, covariance: Array) -> float:
    """Return the width that explains ``residuals`` [n] best; ``slopes`` [n, k] are per error of each unknown."""

    def log_evidence(width: float) -> float:
        wide = covariance + width**2 * slopes @ slopes.T
        return -0.5 * float(np.linalg.slogdet(wide)[1] + residuals @ np.linalg.solve(wide, residuals))

    return max(WIDTHS, key=log_evidence)


def narrowed(unknowns: Sequence[Unknown], width: float) -> tuple[Unknown, ...]:
    """Return the unknowns with errors ``width`` times as large."""
    return tuple(
        replace(unknown, error=unknown.error * width)
        if unknown.load is None
        else replace(unknown, load=unknown.load.scaled(width))
        for unknown in unknowns
    )
