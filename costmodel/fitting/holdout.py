"""How wrong a fit is on what it has not seen.

Four questions, each over every measured point: *point* leaves one point out of its shape; *octave* fits without the
largest octave of each shape and predicts it; *shape* prices a shape from others alone (GEMM: another (n, k);
attention: other head counts; MoE: other models; collectives: other group sizes); *sibling* leaves a shape out and keeps
those that differ from it in the rest (attention: head size and window; MoE: how experts are sharded). Intervals follow
from the answers (`costmodel.fitting.intervals`).
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from costmodel.families.all import OP_FAMILIES
from costmodel.families.family import siblings
from costmodel.families.lending import Lenders, curve_residual, grid_residual, lenders
from costmodel.fitted.knots import Errors, FamilyKnots, joined_errors, places
from costmodel.fitted.measured_rows import MeasuredRows, without_repeats
from costmodel.fitting.build_knots import build_knots, fill_from_neighbours
from costmodel.ops.arrays import Array
from costmodel.ops.label import Label


def held_out_errors(rows: MeasuredRows, knots: FamilyKnots) -> dict[str, Errors]:
    """Answer the questions; ``rows`` are what ``knots`` were built from."""
    regime, reference_s = _regimes(knots, rows)
    label = np.repeat(knots.label_text, np.diff(knots.start))
    shape = np.repeat(np.arange(knots.num_shapes), np.diff(knots.start))
    measured = ~np.isnan(knots.latency_s)
    place = np.full(len(measured), -1)
    place[measured] = places(label[measured])
    found = {}
    estimates = {
        "point": without_point(knots),
        "shape": _without_shape(knots, has_siblings=False),
        "sibling": _without_shape(knots, has_siblings=True),
    }
    for question, estimate in estimates.items():
        known = measured & ~np.isnan(estimate)
        error = (estimate - knots.residual)[known]
        found[question] = Errors(
            label=label[known],
            place=place[known],
            shape=shape[known],
            regime=regime[known],
            reference_s=reference_s[known],
            error=error,
        )
    found["octave"] = _without_octave(without_repeats(rows))
    return with_fillings(found, knots)


def held_out_errors_of_fit(knots: FamilyKnots, rows: MeasuredRows) -> dict[str, Errors]:
    """Answer the questions for a fit that was read; ``rows`` are its measured points.

    Estimates have seen the points: what they answered is kept in the fit, the others are asked without them.
    """
    plain = build_knots(rows)
    labels = {name: replace(fit, filling=knots.labels[name].filling) for name, fit in plain.labels.items()}
    return held_out_errors(rows, replace(plain, labels=labels))


def with_fillings(found: dict[str, Errors], knots: FamilyKnots) -> dict[str, Errors]:
    """Replace errors of completed labels by those of their estimates, where these answered the question."""
    return {question: _with_fillings(errors, question, knots) for question, errors in found.items()}


def _with_fillings(errors: Errors, question: str, knots: FamilyKnots) -> Errors:
    answered = {
        name.text: fit.filling.errors[question]
        for name, fit in knots.labels.items()
        if fit.filling is not None and question in fit.filling.errors
    }
    own = ~np.isin(errors.label, list(answered))
    return joined_errors([errors.take(own), *answered.values()])


def _regimes(knots: FamilyKnots, rows: MeasuredRows) -> tuple[NDArray[np.int8], Array]:
    """Regime and reference time of each knot, from the row it came from; those of filled-in cells are never used."""
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
    sides, sizes = np.zeros((len(knots.x), 2)), np.column_stack([knots.x, knots.y])
    for index in range(knots.num_shapes):
        own = knots.rows(index)
        head = (knots.label[index].text, *knots.shape[index].tolist())
        for row, size in enumerate(sizes[own].tolist(), start=own.start):
            sides[row] = key.get((*head, *size), (0.0, 0.0))
    regime, reference_s = np.zeros(len(knots.x), dtype=np.int8), np.zeros(len(knots.x))
    label = np.repeat(knots.label_text, np.diff(knots.start))
    for name, fit in knots.labels.items():
        own_label = label == name.text
        regime[own_label] = fit.reference.regime(sides[own_label, 0], sides[own_label, 1])
        reference_s[own_label] = fit.reference.seconds(sides[own_label, 0], sides[own_label, 1])
    return regime, reference_s


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


def _without_shape(knots: FamilyKnots, *, has_siblings: bool) -> Array:
    """Residual of each shape's knots from other shapes, its siblings among them or not; NaN where nobody can lend."""
    estimate = np.full_like(knots.residual, np.nan)
    family = OP_FAMILIES[knots.family]
    if has_siblings and len(family.apart) == len(knots.features):
        return estimate  # nobody has a sibling
    for index, label in enumerate(knots.label):
        excluded = siblings(family, knots.shape, knots.shape[index])
        if has_siblings:
            excluded = np.all(knots.shape == knots.shape[index], axis=1)
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
    regime, reference_s = np.zeros(len(asked.x), dtype=np.int8), np.zeros(len(asked.x))
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
        reference_s[own] = fit.reference.seconds(asked.flop_s[own], asked.bytes_s[own])
    found = Errors(
        label=asked.label,
        place=places(rows.label)[beyond],
        shape=which[beyond],
        regime=regime,
        reference_s=reference_s,
        error=error,
    )
    return found.take(~np.isnan(error))


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
