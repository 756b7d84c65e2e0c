"""Which measured shapes lend their residuals to a shape that was not measured, and with what weights.

Each family says who lends (`costmodel.families`); most choose the nearest shapes, by inverse squared distance in log
space. A lender's curve may be shifted so that both shapes are compared at equal work.
"""

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.families.family import OpFamily
from costmodel.fitted.knots import FamilyKnots
from costmodel.ops.arrays import Array, distinct
from costmodel.ops.label import Label


@dataclass(frozen=True, slots=True, kw_only=True)
class Lenders:
    """Shapes, weights that sum to one, and the shift of each lender's ln x; empty when nobody can lend."""

    shapes: NDArray[np.int64]
    weights: Array
    log_shift: Array


def lenders(
    family: OpFamily, knots: FamilyKnots, label: Label, shape: Array, *, excluded: NDArray[np.bool_] | None = None
) -> Lenders:
    """Choose the lenders for ``shape`` [features] among the measured shapes of ``label`` that are not ``excluded``."""
    candidates = knots.of_label(label)
    if excluded is not None:
        candidates = candidates[~excluded[candidates]]
    if not len(candidates):
        return Lenders(shapes=candidates, weights=np.zeros(0), log_shift=np.zeros(0))
    measured = knots.shape[candidates]
    picked, weights = family.lend(measured, shape)
    shift = np.zeros(len(picked)) if family.log_shift is None else family.log_shift(measured[picked], shape)
    return Lenders(shapes=candidates[picked], weights=weights, log_shift=shift)


def nearest(distance: Array, count: int = 4, power: float = 2.0) -> tuple[NDArray[np.int64], Array]:
    """Choose the nearest shapes and their inverse-distance weights; shapes at infinite distance never lend."""
    usable = np.flatnonzero(np.isfinite(distance))
    order = usable[np.argsort(distance[usable], kind="stable")][:count]
    weight = 1.0 / np.maximum(distance[order], 1e-6) ** power
    return order, weight / weight.sum() if len(order) else weight


def nearest_in_octaves(measured: Array, shape: Array) -> tuple[NDArray[np.int64], Array]:
    """Choose by the distance over all features, each in octaves."""
    if not measured.shape[1]:
        return nearest(np.zeros(len(measured)))
    steps = np.log2(np.maximum(measured, 1.0)) - np.log2(np.maximum(shape, 1.0))
    return nearest(np.sqrt((steps**2).sum(axis=1)))


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
        x, y = distinct(knots.x[own]), distinct(knots.y[own])
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
