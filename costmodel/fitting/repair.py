"""Cells that cannot be right: a call with less work that takes longer than one with more.

Isolated cells of measured tables are off by up to a half. A cell is *suspicious* when some larger call of the same
shape is faster by more than a tenth; ``repaired`` lowers every cell to the fastest call that is no smaller.

A cell that is too fast would lower all smaller ones with it. It is *impossible* when it beats the roofline and the
next smaller calls, and the next larger ones do not follow; such cells are left out before.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from costmodel.fitted.measured_rows import MeasuredRows
from costmodel.ops.arrays import Array

_TOLERANCE = 1.1


def fastest_no_smaller(rows: MeasuredRows) -> Array:
    """Latency of the fastest call of the same shape whose x and y are both no smaller, in seconds."""
    _, shape = np.unique(
        np.column_stack([rows.shape, np.unique(rows.label, return_inverse=True)[1]]), axis=0, return_inverse=True
    )
    shape = shape.ravel()
    order = np.lexsort([rows.y, rows.x, shape])
    fastest = np.empty_like(rows.latency_s)
    edges = np.flatnonzero(np.append(True, np.diff(shape[order]) != 0))
    for begin, end in zip(edges, np.append(edges[1:], len(order)), strict=True):
        own = order[begin:end]
        fastest[own] = _fastest(rows.x[own], rows.y[own], rows.latency_s[own])
    return fastest


def _fastest(x: Array, y: Array, latency_s: Array) -> Array:
    if np.all(y == y[0]):
        return np.asarray(np.minimum.accumulate(latency_s[::-1])[::-1])
    xs, column = np.unique(x, return_inverse=True)
    ys, row = np.unique(y, return_inverse=True)
    grid = np.full((len(xs), len(ys)), np.inf)
    np.minimum.at(grid, (column, row), latency_s)
    grid = np.minimum.accumulate(grid[::-1], axis=0)[::-1]
    grid = np.minimum.accumulate(grid[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(grid[column, row])


def impossible(rows: MeasuredRows) -> NDArray[np.bool_]:
    """Rows below the roofline, faster than the next smaller call and the next larger one, if any, by over a tenth."""
    beats = np.maximum(rows.flop_s, rows.bytes_s) > rows.latency_s
    _, label = np.unique(rows.label, return_inverse=True)
    found = beats.copy()
    axes = [(rows.x, rows.y), (rows.y, rows.x)] if np.any(rows.y != 1.0) else [(rows.x, rows.y)]
    for along, across in axes:
        order = np.lexsort([along, across, *rows.shape.T, label.ravel()])
        line = np.column_stack([label.ravel(), rows.shape, across])[order]
        latency_s, size = rows.latency_s[order], along[order]
        follows = np.all(line[1:] == line[:-1], axis=1) & (size[1:] > size[:-1])
        is_dip = np.zeros(len(order), dtype=np.bool_)
        before = np.flatnonzero(follows) + 1  # rows with a smaller neighbour
        is_dip[before] = _TOLERANCE * latency_s[before] < latency_s[before - 1]
        after = np.flatnonzero(follows)  # rows with a larger neighbour
        is_dip[after] &= _TOLERANCE * latency_s[after] < latency_s[after + 1]
        kept = np.empty_like(is_dip)
        kept[order] = is_dip
        found &= kept
    return found


def suspicious(rows: MeasuredRows) -> NDArray[np.bool_]:
    """Rows that take over a tenth longer than a larger call of the same shape."""
    return np.asarray(rows.latency_s > _TOLERANCE * fastest_no_smaller(rows))


def repaired(rows: MeasuredRows) -> MeasuredRows:
    """Lower every cell to the fastest call that is no smaller, so that time never falls with work."""
    return replace(rows, latency_s=fastest_no_smaller(rows))
