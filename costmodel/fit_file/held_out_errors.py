"""Held-out errors that estimates answered, beside the knots: each in the row of the point that was left out.

What curves and lenders answer is not kept: it follows from the measured knots.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from costmodel.fitted.held_out import QUESTIONS
from costmodel.fitted.knots import Errors, FamilyKnots
from costmodel.ops.arrays import Array

# To a fifth of a per cent, as estimates are.
_STEP: Final = 2.0**-9


def error_columns(knots: FamilyKnots) -> dict[str, Array]:
    """Error of each row [rows] under each question, NaN where there is none."""
    found: dict[str, Array] = {question: np.full(len(knots.x), np.nan) for question in QUESTIONS}
    for label, fit in knots.labels.items():
        for question, errors in (fit.filling.errors if fit.filling is not None else {}).items():
            rows = knots.measured_rows(label)[errors.place]
            found[question][rows] = np.round(errors.error / _STEP) * _STEP
    return found


def errors_of_label(
    knots: FamilyKnots, label: str, rows: NDArray[np.int64], columns: Mapping[str, Array]
) -> dict[str, Errors]:
    """Errors of the measured ``rows`` of a label, without what they told intervals when those were made."""
    found = {}
    for question, column in columns.items():
        place = np.flatnonzero(~np.isnan(column[rows]))
        if len(place):
            found[question] = Errors(
                label=np.full(len(place), label),
                place=place,
                shape=np.searchsorted(knots.start, rows[place], side="right") - 1,
                regime=np.zeros(len(place), dtype=np.int8),
                reference_s=np.ones(len(place)),
                error=column[rows[place]],
            )
    return found


def columns_of_older(
    kept: Mapping[str, Sequence[float]], knots: FamilyKnots, rows: NDArray[np.int64]
) -> dict[str, Array]:
    """Lay out errors that were kept in order; of a sample nobody knows which points it is of."""
    columns = {question: np.full(len(knots.x), np.nan) for question in kept}
    for question, errors in kept.items():
        if len(errors) == len(rows):
            columns[question][rows] = errors
    return columns
