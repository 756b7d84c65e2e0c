"""Two predictors anybody would try first: a random forest, and straight lines between logarithms.

The forest: 60 trees on log2 of the sizes and of FLOP and bytes, predicting log time, on at most 25,000 rows. Lines: in
the running sizes inside a shape; for a shape that was not seen, linear in (m, n, k) for products, else the three
nearest shapes at equal sizes, by inverse squared distance in octaves. Their settings were fixed before the fit they
judge was changed, and are not tuned.
"""

from typing import Final

import numpy as np
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from sklearn.ensemble import RandomForestRegressor

from benchmarks.holdout.points import Points
from costmodel.ops.arrays import Array

TREES: Final = 60
MOST_ROWS: Final = 25_000
_LENDERS: Final = 3


def by_forest(seen: Points, asked: Points) -> Array:
    """Predict ln t of ``asked`` by a forest grown on ``seen``."""
    if len(seen.latency_s) > MOST_ROWS:
        seen = seen.take(np.sort(np.random.default_rng(0).choice(len(seen.latency_s), MOST_ROWS, replace=False)))
    forest = RandomForestRegressor(n_estimators=TREES, random_state=0)
    forest.fit(_features(seen), np.log(seen.latency_s))
    return np.asarray(forest.predict(_features(asked)))


def _features(points: Points) -> Array:
    return np.column_stack([points.shape, points.sizes, np.log2(points.work + 1.0), points.alike])


def by_lines(seen: Points, asked: Points) -> Array:
    """Predict ln t of ``asked`` by straight lines between the points of ``seen``; NaN where nothing is alike."""
    known = _by_shape(seen)
    heads = np.array([seen.shape[rows[0]] for rows in known.values()])
    alike = np.array([seen.alike[rows[0]] for rows in known.values()])
    members = [seen.take(rows) for rows in known.values()]
    place = {key: index for index, key in enumerate(known)}
    volume = _Volume(seen) if seen.family == "gemm" else None
    found = np.full(len(asked.latency_s), np.nan)
    for key, rows in _by_shape(asked).items():
        sizes = asked.sizes[rows]
        if key in place:
            found[rows] = _inside(members[place[key]], sizes)
        elif volume is not None:
            found[rows] = volume(asked.take(rows))
        else:
            near = np.flatnonzero(alike == asked.alike[rows[0]])
            distance = np.sqrt(((heads[near] - asked.shape[rows[0]]) ** 2).sum(axis=1))
            nearest = np.argsort(distance, kind="stable")[:_LENDERS]
            if len(nearest):
                weight = 1.0 / np.maximum(distance[nearest], 1e-6) ** 2
                lent = np.array([_inside(members[near[index]], sizes) for index in nearest])
                found[rows] = weight @ lent / weight.sum()
    return found


def _by_shape(points: Points) -> dict[bytes, Array]:
    """Rows of each shape."""
    rows: dict[bytes, list[int]] = {}
    for row, key in enumerate(np.column_stack([points.shape, points.alike])):
        rows.setdefault(key.tobytes(), []).append(row)
    return {key: np.array(own) for key, own in rows.items()}


def _inside(own: Points, sizes: Array) -> Array:
    """Interpolate in one shape's running sizes; beyond them its nearest point, or the slope of a line's last two."""
    log_s = np.log(own.latency_s)
    axes = np.flatnonzero(np.ptp(own.sizes, axis=0) > 0)
    if len(axes) > 1:
        at, asked = own.sizes[:, axes], sizes[:, axes]
        nearest = np.asarray(NearestNDInterpolator(at, log_s)(asked))
        if np.linalg.matrix_rank(at - at[0]) < len(axes):
            return nearest
        inside = np.asarray(LinearNDInterpolator(at, log_s)(asked))
        return np.where(np.isnan(inside), nearest, inside)
    axis = int(axes[0]) if len(axes) else 0
    x, first = np.unique(own.sizes[:, axis], return_index=True)
    y = log_s[first]
    if len(x) == 1:
        return np.full(len(sizes), y[0])
    slot = np.clip(np.searchsorted(x, sizes[:, axis], side="right") - 1, 0, len(x) - 2)
    share = (sizes[:, axis] - x[slot]) / (x[slot + 1] - x[slot])
    return np.asarray(y[slot] + share * (y[slot + 1] - y[slot]))


class _Volume:
    """Linear in shape and size between all points of a format; beyond them the nearest point."""

    def __init__(self, seen: Points) -> None:
        where, first = np.unique(np.column_stack([seen.shape, seen.sizes]), axis=0, return_index=True)
        log_s = np.log(seen.latency_s[first])
        self._linear = LinearNDInterpolator(where, log_s)
        self._nearest = NearestNDInterpolator(where, log_s)

    def __call__(self, asked: Points) -> Array:
        where = np.column_stack([asked.shape, asked.sizes])
        linear = np.asarray(self._linear(where))
        return np.where(np.isnan(linear), self._nearest(where), linear)
