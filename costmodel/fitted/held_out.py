"""Held-out errors as a fit keeps and reports them, and the interval's half-width that follows from them."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.arrays import Array

QUESTIONS: Final = ("point", "octave", "shape", "sibling")
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


def conformal_half_width(error: Array, group: NDArray[np.int64] | None = None) -> float:
    """Half-width, in natural log, of the interval that holds a new error with 90 % probability.

    With ``group``, the new error is one of a new group, as all points of a shape share what is special about it: every
    group then counts once, however many errors it has.
    """
    order = np.argsort(np.abs(error), kind="stable")
    if group is None:
        rank = int(np.ceil((len(error) + 1) * COVERAGE))
        return float(np.abs(error[order[min(rank, len(order)) - 1]]))
    _, which, counts = np.unique(group, return_inverse=True, return_counts=True)
    held = np.cumsum(1.0 / counts[which.ravel()[order]])
    # Of ten groups, eleven tenths of nine would be all of them: the share is that of the groups seen.
    enough = int(np.searchsorted(held, len(counts) * COVERAGE - 1e-9))
    return float(np.abs(error[order[min(enough, len(order) - 1)]]))
