"""From held-out errors to intervals, and how often such intervals hold.

The 90 % interval is the conformal quantile of |ln(predicted / measured)|: *point* errors for fitted values, *shape*
errors for borrowed ones, *octave* errors beyond the domain. It is calibrated per label, regime and class of size, for
calls that set the time of a step err otherwise than those that barely launch; where the errors of a shape have a
cause in common, every shape counts once, and shapes that err more than others have a factor of their own
(`costmodel.fitting.like_shapes`). Its coverage is measured on the half of the shapes it was not calibrated on.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from costmodel.cost_model import Source
from costmodel.families.all import OP_FAMILIES
from costmodel.fitted.held_out import QUESTIONS, HeldOut, conformal_half_width
from costmodel.fitted.knots import Errors, FamilyKnots, LabelFit, joined_errors
from costmodel.fitted.reference import REGIMES
from costmodel.fitting.like_shapes import evened_out, shape_factors
from costmodel.ops.arrays import Array

# A conformal 90 % quantile needs nine points; twice that keeps both calibration halves above it.
_FEWEST: Final = 20
# Of shapes likewise, where each counts once.
_FEWEST_SHAPES: Final = 10
_UNKNOWN_HALF_WIDTH: Final = 0.6
# Widths are kept to a thousandth of a per cent.
_DIGITS: Final = 5
# Quantiles of the reference times of a label's errors that part its classes of size: the longest calls weigh most.
_SIZE_QUANTILES: Final = (0.2, 0.4, 0.6, 0.8, 0.9)
_FEWEST_FOR_SIZES: Final = 400
# Questions whose errors come shape by shape.
_BY_SHAPE: Final = frozenset({"shape", "sibling", "octave"})


def with_intervals(knots: FamilyKnots, errors: dict[str, Errors]) -> FamilyKnots:
    """Give every label its half-widths; classes and labels with few points take the regime's, then the family's."""
    labels = {}
    family = OP_FAMILIES[knots.family]
    even = {**errors, "sibling": _evened_out(knots, errors)}
    for name, fit in knots.labels.items():
        has_siblings = bool(np.any(errors["sibling"].label == name.text))
        borrowed = "sibling" if has_siblings else "shape"
        told = {Source.FITTED: "point", Source.BORROWED: borrowed, Source.EXTRAPOLATED: "octave"}
        sized = replace(fit, size_edges_s=_size_edges(errors["point"].of_label(name.text)))
        half = np.full((len(Source), len(REGIMES) * sized.num_sizes), _UNKNOWN_HALF_WIDTH)
        for column in range(half.shape[1]):
            for source, question in told.items():
                found = _calibrated(even[question], name.text, sized, column, is_by_shape=question in _BY_SHAPE)
                if len(found.error):
                    half[source, column] = _width(found, is_by_shape=question in _BY_SHAPE)
                if len(found.error) and source is Source.FITTED:
                    # A point's neighbours cannot know it better than it knows itself: their median bounds its noise.
                    half[Source.MEASURED, column] = float(np.median(np.abs(found.error)))
        shape, sibling = (errors[question].of_label(name.text) for question in ("shape", "sibling"))
        labels[name] = replace(
            sized,
            log_half_width=np.round(half, _DIGITS),
            lent_factor=_times_wider(shape, sibling),
            shape_factors=shape_factors(family, knots, name, sized, sibling),
        )
    return replace(knots, labels=labels)


def _times_wider(shape: Errors, sibling: Errors) -> float:
    """How much wider the interval is without siblings than with them, at least once."""
    if min(len(shape.error), len(sibling.error)) < _FEWEST:
        return 1.0
    narrow = _width(sibling, is_by_shape=True)
    return max(1.0, _width(shape, is_by_shape=True) / narrow) if narrow else 1.0


def _size_edges(errors: Errors) -> Array:
    """Return the reference times that part a label's points into classes of equal number; none where they are few."""
    if len(errors.error) < _FEWEST_FOR_SIZES:
        return np.zeros(0)
    return np.unique(np.quantile(errors.reference_s, _SIZE_QUANTILES))


def _width(errors: Errors, *, is_by_shape: bool) -> float:
    return conformal_half_width(errors.error, errors.shape if is_by_shape else None)


def _calibrated(errors: Errors, label: str, fit: LabelFit, column: int, *, is_by_shape: bool) -> Errors:
    """Errors to calibrate on: of this label, regime and size, else of the regime, of the label, of the family."""
    regime, size = divmod(column, fit.num_sizes)
    own = errors.label == label
    of_regime = own & (errors.regime == regime)
    of_size = of_regime & (fit.size_of(errors.reference_s) == size)
    for level, choice in enumerate((of_size, of_regime, own, np.ones_like(own))):
        count = np.count_nonzero(choice)
        is_finest = level == 0 and fit.num_sizes > 1
        if count >= _FEWEST and not (is_finest and is_by_shape and _num_shapes(errors.take(choice)) < _FEWEST_SHAPES):
            return errors.take(choice)
    return errors.take(np.zeros_like(own))


def _num_shapes(errors: Errors) -> int:
    return len(np.unique(errors.shape))


def _evened_out(knots: FamilyKnots, errors: dict[str, Errors]) -> Errors:
    """Errors of shapes with siblings, those of shapes that err more than others reduced."""
    parts = [errors["sibling"].take(np.zeros(0, dtype=np.int64))]
    for name, fit in knots.labels.items():
        own = errors["sibling"].of_label(name.text)
        sized = replace(fit, size_edges_s=_size_edges(errors["point"].of_label(name.text)))
        parts.append(replace(own, error=evened_out(OP_FAMILIES[knots.family], knots, name, sized, own)))
    return joined_errors(parts)


def _in_order(errors: Errors, knots: FamilyKnots) -> Errors:
    return joined_errors(
        [errors.take(np.zeros(0, dtype=np.int64)), *(errors.of_label(one.text) for one in knots.labels)]
    )


def summarise(knots: FamilyKnots, errors: dict[str, Errors]) -> list[HeldOut]:
    """Tabulate errors per label, question and regime."""
    table = []
    even = {**errors, "sibling": _evened_out(knots, errors)}
    for question in QUESTIONS:
        found, reduced = _in_order(errors[question], knots), _in_order(even[question], knots)
        covered = _covered(reduced, is_by_shape=question in _BY_SHAPE)
        for label in np.unique(found.label).tolist():
            own = found.label == label
            regimes = [("all", own)] + [(name, own & (found.regime == i)) for i, name in enumerate(REGIMES)]
            for regime, members in regimes:
                if not members.any():
                    continue
                size = np.abs(found.error[members])
                hits = covered[members]
                table.append(
                    HeldOut(
                        family=knots.family,
                        label=label,
                        question=question,
                        regime=regime,
                        points=len(size),
                        median=float(np.median(size)),
                        p90=float(np.quantile(size, 0.9)),
                        bias=float(np.mean(found.error[members])),
                        coverage=float(np.nanmean(hits)) if np.isfinite(hits).any() else float("nan"),
                    )
                )
    return table


def _covered(errors: Errors, *, is_by_shape: bool) -> Array:
    """Whether each error lies in the interval calibrated on the other half of the shapes; NaN where they are few."""
    from sklearn.model_selection import GroupKFold

    covered = np.full(len(errors.error), np.nan)
    for own in _classes(errors):
        shape = errors.shape[own]
        if len(np.unique(shape)) < 2:
            continue
        for kept, asked in GroupKFold(2).split(own, groups=shape):
            if min(len(kept), len(asked)) >= _FEWEST:
                width = _width(errors.take(own[kept]), is_by_shape=is_by_shape)
                covered[own[asked]] = np.abs(errors.error[own[asked]]) <= width
    return covered


def _classes(errors: Errors) -> Iterator[NDArray[np.int64]]:
    """Yield the points of each label, regime and size."""
    for label in np.unique(errors.label).tolist():
        of_label = errors.label == label
        size = np.searchsorted(_size_edges(errors.take(of_label)), errors.reference_s, side="right")
        column = errors.regime.astype(np.int64) * (len(_SIZE_QUANTILES) + 1) + size
        for found in np.unique(column[of_label]).tolist():
            yield np.flatnonzero(of_label & (column == found))
