"""How wrong a fit is on what it has not seen, and the intervals that follow.

Three questions, each over every measured point: *point* leaves one point out of its shape; *octave* fits without the
largest octave of each shape and predicts it; *shape* prices a shape from others alone (GEMM: another (n, k);
attention: other head counts; MoE: other models; collectives: other group sizes). The 90 % interval is the conformal
quantile of |ln(predicted / measured)| per label and regime: *point* errors for fitted values, *shape* errors for
borrowed ones, *octave* errors beyond the domain. Its coverage is measured on the half of the shapes it was not
calibrated on.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from costmodel.cost_model import Source
from costmodel.families.all import OP_FAMILIES
from costmodel.families.lending import Lenders, curve_residual, grid_residual, lenders
from costmodel.fitted.held_out import QUESTIONS, HeldOut, conformal_half_width
from costmodel.fitted.knots import Errors, FamilyKnots
from costmodel.fitted.measured_rows import MeasuredRows
from costmodel.fitted.reference import REGIMES
from costmodel.fitting.build_knots import build_knots, fill_from_neighbours
from costmodel.ops.arrays import Array
from costmodel.ops.label import Label

# A conformal 90 % quantile needs nine points; twice that keeps both calibration halves above it.
_FEWEST = 20
_UNKNOWN_HALF_WIDTH = 0.6


def held_out_errors(rows: MeasuredRows, knots: FamilyKnots) -> dict[str, Errors]:
    """Answer the three questions; ``rows`` are what ``knots`` were built from."""
    regime = _regimes(knots, knots.x, knots.y, rows)
    label = np.repeat(knots.label_text, np.diff(knots.start))
    shape = np.repeat(np.arange(knots.num_shapes), np.diff(knots.start))
    measured = ~np.isnan(knots.latency_s)
    found = {}
    for question, estimate in (("point", without_point(knots)), ("shape", _without_shape(knots))):
        known = measured & ~np.isnan(estimate)
        error = (estimate - knots.residual)[known]
        found[question] = Errors(label=label[known], shape=shape[known], regime=regime[known], error=error)
    found["octave"] = _without_octave(rows)
    return with_fillings(found, knots)


def with_fillings(found: dict[str, Errors], knots: FamilyKnots) -> dict[str, Errors]:
    """Replace the errors of filled labels: the estimates between their points have seen the points."""
    return {question: _with_fillings(errors, question, knots) for question, errors in found.items()}


def _with_fillings(errors: Errors, question: str, knots: FamilyKnots) -> Errors:
    fillings = {name.text: fit.filling for name, fit in knots.labels.items() if fit.filling is not None}
    own = ~np.isin(errors.label, list(fillings))
    parts = [filling.errors[question] for filling in fillings.values()]
    return Errors(
        label=np.concatenate([errors.label[own], *(part.label for part in parts)]),
        shape=np.concatenate([errors.shape[own], *(part.shape for part in parts)]),
        regime=np.concatenate([errors.regime[own], *(part.regime for part in parts)]),
        error=np.concatenate([errors.error[own], *(part.error for part in parts)]),
    )


def _regimes(knots: FamilyKnots, x: Array, y: Array, rows: MeasuredRows) -> NDArray[np.int8]:
    """Regime of each knot, from the row it came from; filled-in cells count as launch-bound and are never used."""
    key = {}
    for label, shape, row_x, row_y, flop_s, bytes_s in zip(
        rows.label.tolist(),
        rows.shape.tolist(),
        rows.x.tolist(),
        rows.y.tolist(),
        rows.flop_s.tolist(),
        rows.bytes_s.tolist(),
        strict=True,
    ):
        key[(label, *shape, row_x, row_y)] = (flop_s, bytes_s)
    sides = np.zeros((len(x), 2))
    for index in range(knots.num_shapes):
        own = knots.rows(index)
        head = (knots.label[index].text, *knots.shape[index].tolist())
        for row, (row_x, row_y) in enumerate(zip(x[own].tolist(), y[own].tolist(), strict=True), start=own.start):
            sides[row] = key.get((*head, row_x, row_y), (0.0, 0.0))
    regime = np.zeros(len(x), dtype=np.int8)
    label = np.repeat(knots.label_text, np.diff(knots.start))
    for name, fit in knots.labels.items():
        own_label = label == name.text
        regime[own_label] = fit.reference.regime(sides[own_label, 0], sides[own_label, 1])
    return regime


def without_point(knots: FamilyKnots) -> Array:
    """Residual of each knot from the others of its shape; NaN at the ends, which have no neighbour beyond."""
    estimate: Array = np.full_like(knots.residual, np.nan)
    for shape in range(knots.num_shapes):
        own = knots.rows(shape)
        measured = ~np.isnan(knots.latency_s[own])
        if np.all(knots.y[own] == 1.0):
            log_x, residual = np.log(knots.x[own]), knots.residual[own]
            if len(log_x) > 2:
                share = (log_x[1:-1] - log_x[:-2]) / (log_x[2:] - log_x[:-2])
                estimate[own.start + 1 : own.stop - 1] = residual[:-2] + share * (residual[2:] - residual[:-2])
            continue
        x, y = np.unique(knots.x[own]), np.unique(knots.y[own])
        known = np.where(measured, knots.residual[own], np.nan).reshape(len(x), len(y))
        trust = knots.labels[knots.label[shape]].trust_along_x
        guess = fill_from_neighbours(np.log(x), np.log(y), known, trust)
        inside = _bracketed(~np.isnan(known)) | _bracketed(~np.isnan(known).T).T
        estimate[own] = np.where(inside, guess, np.nan).ravel()
    return estimate


def _bracketed(known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether a cell has known cells on both sides of it in its row."""
    before = np.cumsum(known, axis=1) - known > 0
    after = np.cumsum(known[:, ::-1], axis=1)[:, ::-1] - known > 0
    return np.asarray(before & after)


def _without_shape(knots: FamilyKnots) -> Array:
    """Residual of each shape's knots from other shapes alone; NaN where nobody can lend."""
    estimate = np.full_like(knots.residual, np.nan)
    family = OP_FAMILIES[knots.family]
    for index, label in enumerate(knots.label):
        excluded = np.all(knots.shape[:, family.apart] == knots.shape[index, family.apart], axis=1)
        lent = lenders(family, knots, label, knots.shape[index], excluded=excluded)
        if not len(lent.shapes):
            continue
        own = knots.rows(index)
        if np.all(knots.y[own] == 1.0):
            estimate[own] = curve_residual(knots, lent, np.log(knots.x[own]))
            continue
        x, y = np.unique(knots.x[own]), np.unique(knots.y[own])
        estimate[own] = grid_residual(knots, lent, np.log(x), np.log(y)).ravel()
    return estimate


def _without_octave(rows: MeasuredRows) -> Errors:
    """Fit without the largest octave of each shape's size (attention: of its length) and predict it."""
    beyond, which = top_octave(rows)
    short = build_knots(rows.take(~beyond))
    asked = rows.take(beyond)
    shapes = zip(short.label_text.tolist(), short.shape.tolist(), strict=True)
    shape_index = {(label, *shape): index for index, (label, shape) in enumerate(shapes)}
    key = list(zip(asked.label.tolist(), map(tuple, asked.shape.tolist()), strict=True))
    error = np.full(len(asked.x), np.nan)
    regime = np.zeros(len(asked.x), dtype=np.int8)
    groups: dict[tuple[str, tuple[float, ...]], list[int]] = {}
    for row, name in enumerate(key):
        groups.setdefault(name, []).append(row)
    for (label, shape), members in groups.items():
        known = shape_index.get((label, *shape))
        if known is None:
            continue
        own = np.array(members)
        lent = Lenders(shapes=np.array([known]), weights=np.ones(1), log_shift=np.zeros(1))
        if np.all(rows.y == 1.0):
            residual = curve_residual(short, lent, np.log(asked.x[own]))
        else:
            x, column = np.unique(asked.x[own], return_inverse=True)
            y, row_of = np.unique(asked.y[own], return_inverse=True)
            residual = grid_residual(short, lent, np.log(x), np.log(y))[column, row_of]
        fit = short.labels[Label.parse(label)]
        expected = fit.expected_log_s(asked.flop_s[own], asked.bytes_s[own])
        error[own] = expected + residual - np.log(asked.latency_s[own])
        regime[own] = fit.reference.regime(asked.flop_s[own], asked.bytes_s[own])
    seen = ~np.isnan(error)
    number = which[beyond]
    return Errors(label=asked.label[seen], shape=number[seen], regime=regime[seen], error=error[seen])


def top_octave(rows: MeasuredRows) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether each row lies in the largest octave of its shape's size (attention: length), and the shape's number."""
    size = rows.x if np.all(rows.y == 1.0) else rows.y
    _, which = np.unique(
        np.column_stack([rows.shape, np.unique(rows.label, return_inverse=True)[1]]), axis=0, return_inverse=True
    )
    which = which.ravel()
    top = np.zeros(int(which.max()) + 1)
    np.maximum.at(top, which, size)
    return np.asarray(size > top[which] / 2.0), which


def with_intervals(knots: FamilyKnots, errors: dict[str, Errors]) -> FamilyKnots:
    """Give every label its half-widths; regimes and labels with few points take the family's."""
    labels = {}
    for name, fit in knots.labels.items():
        half = np.empty((len(Source), len(REGIMES)))
        for regime in range(len(REGIMES)):
            point = _calibrated(errors["point"], name.text, regime)
            half[Source.FITTED, regime] = conformal_half_width(point) if len(point) else _UNKNOWN_HALF_WIDTH
            # A point's neighbours cannot know it better than it knows itself: their median bounds its noise.
            half[Source.MEASURED, regime] = float(np.median(np.abs(point))) if len(point) else _UNKNOWN_HALF_WIDTH
            for source, question in ((Source.BORROWED, "shape"), (Source.EXTRAPOLATED, "octave")):
                error = _calibrated(errors[question], name.text, regime)
                half[source, regime] = conformal_half_width(error) if len(error) else _UNKNOWN_HALF_WIDTH
            half[Source.ANALYTIC, regime] = _UNKNOWN_HALF_WIDTH
        labels[name] = replace(fit, log_half_width=half)
    return replace(knots, labels=labels)


def _calibrated(errors: Errors, label: str, regime: int) -> Array:
    """Errors to calibrate on: of this label and regime, else of the label, else of the family."""
    own = errors.label == label
    for choice in (own & (errors.regime == regime), own, np.ones_like(own)):
        if np.count_nonzero(choice) >= _FEWEST:
            return np.asarray(errors.error[choice])
    return np.zeros(0)


def summarise(family: str, errors: dict[str, Errors]) -> list[HeldOut]:
    """Tabulate errors per label, question and regime."""
    table = []
    for question in QUESTIONS:
        found = errors[question]
        covered = _covered(found)
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
                        family=family,
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


def _covered(errors: Errors) -> Array:
    """Whether each error lies in the interval calibrated on the other half of the shapes; NaN where they are few."""
    from sklearn.model_selection import GroupKFold

    covered = np.full(len(errors.error), np.nan)
    for label in np.unique(errors.label).tolist():
        for regime in range(len(REGIMES)):
            own = np.flatnonzero((errors.label == label) & (errors.regime == regime))
            shape = errors.shape[own]
            if len(np.unique(shape)) < 2:
                continue
            for kept, asked in GroupKFold(2).split(own, groups=shape):
                if min(len(kept), len(asked)) >= _FEWEST:
                    width = conformal_half_width(errors.error[own[kept]])
                    covered[own[asked]] = np.abs(errors.error[own[asked]]) <= width
    return covered
