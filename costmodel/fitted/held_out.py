"""Held-out errors as a fit keeps and reports them, and the interval's half-width that follows from them."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from costmodel.ops.arrays import Array

QUESTIONS: Final = ("point", "octave", "shape")
COVERAGE: Final = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Error of one label and regime ("all" for both together) under one question.

    ``median`` and ``p90`` are of |ln(predicted / measured)|, ``bias`` is the mean of the signed logarithm: natural
    logarithms, which `relative_error` turns into shares of the measurement. ``coverage`` is a fraction of 1.
    """

    family: str
    label: str
    question: str
    regime: str
    points: int
    median: float
    p90: float
    bias: float
    coverage: float


def relative_error(log_error: float) -> float:
    """Return how far off a ratio is, as a fraction of 1: a logarithm of 0.7 is twice, +100 %, not 70 %."""
    return math.expm1(log_error)


def conformal_half_width(error: Array) -> float:
    """Half-width, in natural log, of the interval that holds a new error with 90 % probability."""
    rank = int(np.ceil((len(error) + 1) * COVERAGE))
    ordered = np.sort(np.abs(error))
    return float(ordered[min(rank, len(ordered)) - 1])
