"""Digests of a fit's rows, one per label, so that a changed file is noticed and a changed row named.

Each row is mixed into 64 bits, h. A label's digest is its row count and, modulo 2^64,

    S = sum h_i        T = sum i h_i        (i counts the label's rows from 1)

If one row was changed, the differences obey T' - T = i (S' - S), which says which row it was. This guards against
accidents and careless tools; who wants to deceive can write a new digest.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from costmodel.fitted.knots import FamilyKnots
from costmodel.ops.arrays import Array

Words = NDArray[np.uint64]

_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
_SHIFT: Final = np.uint64(29)


def row_marks(knots: FamilyKnots) -> Words:
    """Mix each row's numbers, its shape's features among them; an unknown latency counts as zero."""
    shape = _mixed(knots.num_shapes, *knots.shape.T)
    latency_s = np.where(np.isnan(knots.latency_s), 0.0, knots.latency_s)
    return _mixed(len(knots.x), np.repeat(shape, np.diff(knots.start)), knots.x, knots.y, latency_s, knots.residual)


def error_marks(knots: FamilyKnots, log_errors: Mapping[str, Array]) -> Words:
    """Mix each row's held-out errors, in the order of the questions; none counts as an error that no row has."""
    return _mixed(len(knots.x), *(np.where(np.isnan(column), np.inf, column) for column in log_errors.values()))


def label_digests(knots: FamilyKnots, marks: Words) -> dict[str, str]:
    """Digest of what every label's rows are marked by."""
    return {text: _digest(np.concatenate([marks[rows] for rows in runs])) for text, runs in _runs(knots).items()}


def changed_label(knots: FamilyKnots, marks: Words, stated: Mapping[str, str]) -> tuple[str, int | None] | None:
    """Return the first label whose rows are not those its digest was made of, None where all are.

    The second value is the row within the family that was changed, None where more than one was.
    """
    for label, runs in _runs(knots).items():
        found = _digest(marks[runs[0]] if len(runs) == 1 else np.concatenate([marks[rows] for rows in runs]))
        if found != stated[label]:
            own = np.concatenate([np.arange(rows.start, rows.stop) for rows in runs])
            place = _changed_place(found, stated[label], len(own))
            return label, None if place is None else int(own[place])
    return None


def _runs(knots: FamilyKnots) -> dict[str, list[slice]]:
    """Return the rows of each label as runs of neighbours, of which there usually is one."""
    runs: dict[str, list[slice]] = {label.text: [] for label in knots.labels}
    for shapes in knots.label_runs():
        runs[knots.label[shapes.start].text].append(
            slice(int(knots.start[shapes.start]), int(knots.start[shapes.stop]))
        )
    return runs


def _mixed(count: int, *columns: NDArray[np.generic]) -> Words:
    mark = np.zeros(count, dtype=np.uint64)
    for column in columns:
        mark ^= np.ascontiguousarray(column).view(np.uint64)
        mark *= _MULTIPLIER
        mark ^= mark >> _SHIFT
    return mark


def _digest(marks: Words) -> str:
    place = np.arange(1, len(marks) + 1, dtype=np.uint64)
    first, second = int(marks.sum(dtype=np.uint64)), int((place * marks).sum(dtype=np.uint64))
    return f"{len(marks)}:{first:016x}{second:016x}"


def _changed_place(found: str, stated: str, count: int) -> int | None:
    """Return the one place that explains both sums; None where none or more than one does."""
    sizes, sums = zip(found.split(":"), stated.split(":"), strict=True)
    if sizes[0] != sizes[1]:
        return None
    changes = [(int(sums[0][half], 16) - int(sums[1][half], 16)) % 2**64 for half in (slice(16), slice(16, None))]
    place = np.arange(1, count + 1, dtype=np.uint64)
    explained = np.flatnonzero(place * np.uint64(changes[0]) == np.uint64(changes[1]))
    return int(explained[0]) if len(explained) == 1 else None
