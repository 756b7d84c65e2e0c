"""Which shapes err more than others of their label, learnt from what their held-out errors have in common.

Within each class of size, with e_s the mean |ln(predicted / measured)| of a shape of n_s points,

    ln e_s = mean + apart(s) + rest(s),      both terms shrunken by a weight that leaving shapes out chooses.

Errors are divided by the factor of their shape, as the others of its groups tell it, before intervals are calibrated
on them: the interval of a shape that errs more is wider, and those of the others are not.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.families.family import OpFamily, rest_of
from costmodel.fitted.knots import Errors, FamilyKnots, LabelFit
from costmodel.fitted.shape_factors import ShapeFactors, Term
from costmodel.ops.arrays import Array
from costmodel.ops.label import Label

# Fewer shapes have no groups to speak of.
_FEWEST_SHAPES: Final = 10
# Shapes of a kind that one outweighs nine tenths of; infinite: groups tell nothing.
_WEIGHTS: Final = (0.25, 0.5, 1.0, 2.0, 4.0, np.inf)
_ROUNDS: Final = 12
# A mean error of less says only that few points were asked.
_LEAST_ERROR: Final = 1e-4
_DIGITS: Final = 3


def shape_factors(family: OpFamily, knots: FamilyKnots, label: Label, fit: LabelFit, errors: Errors) -> ShapeFactors:
    """Learn the factors of one label from its held-out ``errors``, and by class of the sizes of ``fit``."""
    apart, rest = list(family.apart), rest_of(family)
    if not rest or not len(errors.error):
        return ShapeFactors()
    learnt = [_learnt(*found) for found in _classes(family, knots, label, fit, errors)]
    shapes = knots.shape[np.unique(_shape_of(knots, label, errors))]
    terms = []
    for index, features in enumerate((apart, rest)):
        values = np.unique(shapes[:, features], axis=0)
        factors = [_looked_up(values, found.values[index], found.terms[index]) for found in learnt]
        terms.append(
            Term(values=values, log_factor=np.asarray(np.round(np.column_stack(factors), _DIGITS), dtype=np.float64))
        )
    return ShapeFactors(apart=terms[0], rest=terms[1])


def evened_out(family: OpFamily, knots: FamilyKnots, label: Label, fit: LabelFit, errors: Errors) -> Array:
    """Errors of one label divided by the factor of their shape, as the other shapes tell it."""
    error = errors.error.copy()
    if rest_of(family) and len(error):
        size = fit.size_of(errors.reference_s)
        shape = _shape_of(knots, label, errors)
        for column, found in enumerate(_classes(family, knots, label, fit, errors)):
            own = np.flatnonzero(size == column)
            _, which = np.unique(shape[own], return_inverse=True)
            error[own] /= np.exp(_learnt(*found).without_itself[which.ravel()])
    return error


def _shape_of(knots: FamilyKnots, label: Label, errors: Errors) -> NDArray[np.int64]:
    """Return the number of each error's shape."""
    return np.searchsorted(knots.start, knots.measured_rows(label)[errors.place], side="right") - 1


def _classes(
    family: OpFamily, knots: FamilyKnots, label: Label, fit: LabelFit, errors: Errors
) -> list[tuple[Array, Array, list[Array]]]:
    """Of each class of size: log mean error and weight of its shapes, and the values of both kinds they have."""
    size, shape = fit.size_of(errors.reference_s), _shape_of(knots, label, errors)
    found = []
    for column in range(fit.num_sizes):
        own = size == column
        shapes, which, count = np.unique(shape[own], return_inverse=True, return_counts=True)
        mean = np.bincount(which.ravel(), np.abs(errors.error[own]), len(shapes)) / count
        values = [knots.shape[shapes][:, features] for features in (list(family.apart), rest_of(family))]
        # The scatter of a mean of n errors falls with n, that between shapes of a group does not.
        found.append((np.log(np.maximum(mean, _LEAST_ERROR)), count / (count + 1.0), values))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Learnt:
    """Terms of the shapes of one class of size [shapes], and their sum as the others of their groups tell it."""

    values: list[Array]
    terms: list[Array]
    without_itself: Array


def _learnt(log_mean: Array, weight: Array, values: list[Array]) -> _Learnt:
    nothing = np.zeros(len(log_mean))
    best = _Learnt(values=values, terms=[nothing, nothing], without_itself=nothing)
    if len(log_mean) < _FEWEST_SHAPES:
        return best
    excess = log_mean - np.average(log_mean, weights=weight)
    groups = [np.unique(own, axis=0, return_inverse=True)[1].ravel() for own in values]
    least = np.inf
    for shrinking in _WEIGHTS:
        terms, without = _terms(excess, weight, groups, shrinking)
        missed = float(np.average((excess - without) ** 2, weights=weight))
        if missed < least:
            least, best = missed, _Learnt(values=values, terms=terms, without_itself=without)
    return best


def _terms(
    excess: Array, weight: Array, groups: list[NDArray[np.int64]], shrinking: float
) -> tuple[list[Array], Array]:
    """Both terms of each shape, each from what the other leaves; and their sum with the shape itself left out."""
    terms = [np.zeros(len(excess)), np.zeros(len(excess))]
    without = list(terms)
    if np.isinf(shrinking):
        return terms, without[0] + without[1]
    for _ in range(_ROUNDS):
        for index, group in enumerate(groups):
            left = weight * (excess - terms[1 - index])
            total, weights = np.bincount(group, left)[group], np.bincount(group, weight)[group]
            terms[index] = total / (weights + shrinking)
            without[index] = (total - left) / (weights - weight + shrinking)
    return terms, without[0] + without[1]


def _looked_up(values: Array, known: Array, term: Array) -> Array:
    """Terms of groups of these ``values``, 0 where none of the ``known`` shapes is of it."""
    own = np.all(values[:, None] == known[None], axis=2)
    return np.where(own.any(axis=1), term[np.argmax(own, axis=1)] if len(term) else 0.0, 0.0)
