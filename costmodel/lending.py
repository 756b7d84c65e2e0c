"""Which measured shapes lend their residuals to a shape that was not measured, and with what weights.

GEMM: bilinear in (log n, log k), along k before along n because k leaves the number of tiles alone. All others:
inverse squared distance over the nearest shapes in log space. A lender's curve may be shifted so that both shapes
are compared at equal work (MoE: token-expert pairs per expert; small ops: bytes).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costmodel.knots import FamilyKnots, nearest
from costmodel.label import Label

Array = NDArray[np.float64]

# Of the two axes of the (n, k) grid, the trust in a line along k.
_TRUST_ALONG_K = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Lenders:
    """Shapes, weights that sum to one, and the shift of each lender's ln x; empty when nobody can lend."""

    shapes: NDArray[np.int64]
    weights: Array
    log_shift: Array


def lenders(knots: FamilyKnots, label: Label, shape: Array, *, excluded: NDArray[np.bool_] | None = None) -> Lenders:
    """Choose the lenders for ``shape`` [features] among the measured shapes of ``label`` that are not ``excluded``."""
    candidates = knots.of_label(label)
    if excluded is not None:
        candidates = candidates[~excluded[candidates]]
    if not len(candidates):
        return Lenders(shapes=candidates, weights=np.zeros(0), log_shift=np.zeros(0))
    measured = knots.shape[candidates]
    picked, weights = _CHOICES[knots.family](measured, shape)
    shift = np.zeros(len(picked))
    if knots.family == "moe":
        shift = _pairs_per_expert(shape) - _pairs_per_expert(measured[picked])
    elif knots.family == "elementwise":
        shift = np.log(shape[1]) - np.log(measured[picked, 1])
    return Lenders(shapes=candidates[picked], weights=weights, log_shift=shift)


def _gemm(measured: Array, shape: Array) -> tuple[NDArray[np.int64], Array]:
    log_n, log_k = np.log(measured[:, 0]), np.log(measured[:, 1])
    n, k = float(np.log(shape[0])), float(np.log(shape[1]))
    weight = np.zeros(len(measured))
    lines = ((log_n == n, log_k, k, _TRUST_ALONG_K), (log_k == k, log_n, n, 1.0 - _TRUST_ALONG_K))
    for on_line, axis, value, trust in lines:
        bracket = _bracket(np.flatnonzero(on_line), axis, value)
        for index, share in bracket:
            weight[index] += trust * share
    if not weight.any():
        for side_n, share_n in _bracket_values(np.unique(log_n), n):
            for side_k, share_k in _bracket_values(np.unique(log_k), k):
                weight[(log_n == side_n) & (log_k == side_k)] += share_n * share_k
    if not weight.any():
        return nearest(np.hypot(log_n - n, log_k - k))
    picked = np.flatnonzero(weight)
    return picked, weight[picked] / weight[picked].sum()


def _bracket(members: NDArray[np.int64], axis: Array, value: float) -> list[tuple[int, float]]:
    """Return the members on both sides of ``value`` with linear weights; none unless both sides exist."""
    below, above = members[axis[members] < value], members[axis[members] > value]
    if not len(below) or not len(above):
        return []
    low, high = int(below[np.argmax(axis[below])]), int(above[np.argmin(axis[above])])
    share = (value - axis[low]) / (axis[high] - axis[low])
    return [(low, 1.0 - float(share)), (high, float(share))]


def _bracket_values(values: Array, value: float) -> list[tuple[float, float]]:
    """Return the grid values around ``value`` with linear weights; the end one alone when it lies outside."""
    inside = float(np.clip(value, values[0], values[-1]))
    high = int(np.clip(np.searchsorted(values, inside), 1, len(values) - 1)) if len(values) > 1 else 0
    if not high:
        return [(float(values[0]), 1.0)]
    share = (inside - values[high - 1]) / (values[high] - values[high - 1])
    return [(float(values[high - 1]), 1.0 - float(share)), (float(values[high]), float(share))]


def _attention(measured: Array, shape: Array) -> tuple[NDArray[np.int64], Array]:
    """Heads matter by their number and by how many share a KV head; a window matters by whether it is there."""
    heads, kv_heads, head_dim, window = (np.log2(np.maximum(measured[:, i], 1.0)) for i in (0, 1, 2, 4))
    wanted = np.log2(np.maximum(shape, 1.0))
    distance = np.abs(heads - wanted[0]) + 0.5 * np.abs((heads - kv_heads) - (wanted[0] - wanted[1]))
    distance += 2.0 * np.abs(head_dim - wanted[2])
    has_window = measured[:, 4] > 0
    distance += np.where(has_window == (shape[4] > 0), np.where(has_window, np.abs(window - wanted[4]), 0.0), 8.0)
    return nearest(distance)


def _logs(measured: Array, shape: Array) -> tuple[NDArray[np.int64], Array]:
    if not measured.shape[1]:
        return nearest(np.zeros(len(measured)))
    steps = np.log2(np.maximum(measured, 1.0)) - np.log2(np.maximum(shape, 1.0))
    return nearest(np.sqrt((steps**2).sum(axis=1)))


def _collective(measured: Array, shape: Array) -> tuple[NDArray[np.int64], Array]:
    """Take groups over as many nodes, linear in the logarithm of their size; beyond the ends the last slope goes on."""
    same_nodes = np.flatnonzero((measured[:, 1] > 1) == (shape[1] > 1))
    if len(same_nodes) < 2 or np.any(measured[same_nodes, 0] == shape[0]):
        return _logs(measured, shape)
    log_ranks = np.log2(measured[:, 0])
    wanted = float(np.log2(shape[0]))
    order = same_nodes[np.argsort(log_ranks[same_nodes])]
    high = int(np.clip(np.searchsorted(log_ranks[order], wanted), 1, len(order) - 1))
    pair = order[[high - 1, high]]
    share = (wanted - log_ranks[pair[0]]) / (log_ranks[pair[1]] - log_ranks[pair[0]])
    # One step beyond the ends is as far as two points can say.
    share = float(np.clip(share, -1.0, 2.0))
    return pair, np.array([1.0 - share, share])


def _pairs_per_expert(shape: Array) -> Array:
    """ln(topk / experts) of moe features (hidden, inter, num_experts, topk, tp, ep)."""
    return np.asarray(np.log(shape[..., 3] / shape[..., 2]))


_CHOICES: dict[str, Callable[[Array, Array], tuple[NDArray[np.int64], Array]]] = {
    "gemm": _gemm,
    "attention": _attention,
    "moe": _logs,
    "elementwise": _logs,
    "collective": _collective,
}


def curve_residual(knots: FamilyKnots, lent: Lenders, log_x: Array) -> Array:
    """Weighted residual at ``log_x`` of families with one running size; held beyond each lender's ends."""
    total = np.zeros_like(log_x)
    for shape, weight, shift in zip(lent.shapes, lent.weights, lent.log_shift, strict=True):
        own = knots.rows(int(shape))
        total += weight * np.interp(log_x + shift, np.log(knots.x[own]), knots.residual[own])
    return total


def grid_residual(knots: FamilyKnots, lent: Lenders, log_x: Array, log_y: Array) -> Array:
    """Weighted residual on the grid ``log_x`` x ``log_y`` of families with two; held beyond each lender's edges."""
    total = np.zeros((len(log_x), len(log_y)))
    for shape, weight in zip(lent.shapes, lent.weights, strict=True):
        own = knots.rows(int(shape))
        x, y = np.unique(knots.x[own]), np.unique(knots.y[own])
        grid = knots.residual[own].reshape(len(x), len(y))
        total += weight * (_interpolation(log_x, np.log(x)) @ grid @ _interpolation(log_y, np.log(y)).T)
    return total


def _interpolation(at: Array, knots: Array) -> Array:
    """Matrix [at, knots] that interpolates linearly between ascending knots and holds the ends."""
    matrix = np.zeros((len(at), len(knots)))
    index = np.arange(len(at))
    if len(knots) == 1:
        matrix[:, 0] = 1.0
        return matrix
    low = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, len(knots) - 2)
    share = np.clip((at - knots[low]) / (knots[low + 1] - knots[low]), 0.0, 1.0)
    matrix[index, low] = 1.0 - share
    matrix[index, low + 1] = share
    return matrix
