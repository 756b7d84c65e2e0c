"""Labels with few points, filled in from what their shapes have in common and from an earlier fit; and with none.

A profile that measured a tenth of the points leaves a handful to each curve, too few to interpolate one by one. A
process over all shapes of a label (`costmodel.fitting.gaussian_process`), on its reference and trend and on the prices
of a prior fit, says what lies between the measured sizes: knots without a latency. A label is filled only where the
mean leave-one-out error of its points (not the median: curves of few points are right or far off) beats that of its
curves alone; the same process answers the other held-out questions in closed form. A family may say that it is not
filled. What was not measured at all comes from an earlier fit of the same device (`completed`). Runs in ``apex fit``
only.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from costmodel.families.all import OP_FAMILIES
from costmodel.families.family import knot_op
from costmodel.families.rows import row_sides
from costmodel.fitted.knots import Errors, FamilyKnots, Filling, LabelFit, places, with_labels
from costmodel.fitted.measured_rows import MeasuredRows, concatenated, without_repeats
from costmodel.fitting.gaussian_process import BlendedProcess, GaussianProcess
from costmodel.fitting.holdout import top_octave
from costmodel.fitting.prior import Prior
from costmodel.ops.arrays import Array
from costmodel.ops.label import Label, parsed_labels
from costmodel.pricing.measured_links import reference_links, same_link

# Of labels that learn from each other; a process costs the cube of its points, and so many have curves of their own.
MOST_POINTS = 3000


def filled(
    rows: MeasuredRows, knots: FamilyKnots, errors: Errors, cluster: ClusterSpec, prior: Prior | None
) -> tuple[MeasuredRows, dict[Label, Filling]]:
    """Return ``rows`` with estimates added to the labels that gain by it, and how those were filled.

    ``knots`` and ``errors`` (each point left out of its curve) are what the rows give by themselves.
    """
    fillings: dict[Label, Filling] = {}
    parts = [rows]
    rows = without_repeats(rows)
    for group in alike_labels(knots):
        own = rows.take(np.isin(rows.label, [label.text for label in group]))
        if len(own.x) > MOST_POINTS:
            continue
        reference_log_s, prior_log_s = _expected_log_s(own, knots, cluster, prior)
        process = BlendedProcess(_coordinates(own, knots), np.log(own.latency_s), reference_log_s, prior_log_s)
        held_out = _held_out(own, knots, process.rest)
        for label in group:
            judged = np.abs(errors.error[errors.label == label.text])
            count = np.count_nonzero(own.label == label.text)
            # Curves of two points judge none of them; a few longer ones do not speak for the label.
            alone = float(np.mean(judged)) if len(judged) > count / 2 else np.inf
            found = {question: every.of_label(label.text) for question, every in held_out.items()}
            if np.mean(np.abs(found["point"].error)) >= alone:
                continue
            parts.append(_estimates(own.take(own.label == label.text), knots, process, cluster, prior))
            fillings[label] = Filling(trust=process.trust, alone=alone, errors=found)
    return concatenated(parts), fillings


def alike_labels(knots: FamilyKnots) -> list[list[Label]]:
    """Labels that learn from each other: a GEMM's branches, experts under several routings; in order of their names."""
    groups: dict[tuple[tuple[str, ...], int | None], list[Label]] = {}
    for label in sorted(knots.labels):
        alike = label.parts[: OP_FAMILIES[knots.family].learns_across]
        groups.setdefault((alike, label.clock_mhz), []).append(label)
    return list(groups.values())


def _expected_log_s(
    rows: MeasuredRows, knots: FamilyKnots, cluster: ClusterSpec, prior: Prior | None
) -> tuple[Array, Array | None]:
    """Return what the labels' references expect, and what the prior does, None where it does not price every row."""
    by_reference = np.empty_like(rows.x)
    by_prior = None if prior is None else np.empty_like(rows.x)
    for text, label in parsed_labels(np.unique(rows.label).tolist()).items():
        for shape, own in _by_shape(rows, text):
            by_reference[own] = knots.labels[label].expected_log_s(rows.flop_s[own], rows.bytes_s[own])
            if prior is None or by_prior is None:
                continue
            op = knot_op(OP_FAMILIES[rows.family], label, shape, rows.x[own], rows.y[own], cluster=cluster)
            price_s = prior.latency_s(op, label.clock_mhz)
            if price_s is None:
                by_prior = None
            else:
                by_prior[own] = np.log(price_s)
    return by_reference, by_prior


def _by_shape(rows: MeasuredRows, label: str) -> list[tuple[list[float], NDArray[np.int64]]]:
    of_label = np.flatnonzero(rows.label == label)
    shapes, which = np.unique(rows.shape[of_label], axis=0, return_inverse=True)
    return [(shape, of_label[which.ravel() == index]) for index, shape in enumerate(shapes.tolist())]


def _coordinates(rows: MeasuredRows, knots: FamilyKnots) -> Array:
    """Sizes in octaves, and the label's place among all, one octave apart: neighbours by name resemble each other."""
    octaves = np.log2(np.column_stack([rows.shape, rows.x, rows.y]) + 1.0)
    place = np.searchsorted([label.text for label in sorted(knots.labels)], rows.label)
    return np.column_stack([octaves, place])


def _estimates(
    measured: MeasuredRows, knots: FamilyKnots, process: BlendedProcess, cluster: ClusterSpec, prior: Prior | None
) -> MeasuredRows:
    """Rows of one label at each of its sizes, and at every shape and size a trusted prior knows inside their range."""
    label = Label.parse(str(measured.label[0]))
    trusted = prior if process.trust else None
    points = _grid_of_all_sizes(measured)
    if trusted is not None:
        points = np.concatenate([points, _points_of_prior(measured, trusted)])
    points = np.unique(points, axis=0)
    known = np.column_stack([measured.shape, measured.x, measured.y])
    points = points[~np.isin(_row_ids(points), _row_ids(known))]
    new = rows_at(points, measured, cluster)
    log_s = process.predict(_coordinates(new, knots), *_expected_log_s(new, knots, cluster, trusted))
    return estimated(new, log_s, knots.labels[label])


def rows_at(points: Array, measured: MeasuredRows, cluster: ClusterSpec) -> MeasuredRows:
    """Rows of the one label of ``measured`` at ``points`` [points, features + 2], to be estimated."""
    features = measured.shape.shape[1]
    shape, x, y = points[:, :features], points[:, features], points[:, features + 1]
    label = np.full(len(points), measured.label[0])
    flop_s, bytes_s = row_sides(OP_FAMILIES[measured.family], label, shape, x, y, cluster=cluster)
    return replace(
        measured,
        label=label,
        shape=shape,
        x=x,
        y=y,
        latency_s=np.full(len(points), np.nan),
        flop_s=flop_s,
        bytes_s=bytes_s,
        is_estimate=np.ones(len(points), dtype=bool),
    )


def estimated(rows: MeasuredRows, log_s: Array, fit: LabelFit) -> MeasuredRows:
    """Return the rows at ``log_s`` ln seconds, no faster than the best that was measured of their label."""
    floor_s = np.maximum(rows.flop_s, rows.bytes_s) / fit.best_utilisation
    return replace(rows, latency_s=np.maximum(np.exp(log_s), floor_s))


def _grid_of_all_sizes(rows: MeasuredRows) -> Array:
    """Every measured shape at every size measured of any of them [points, features + 2]."""
    shapes = np.unique(rows.shape, axis=0)
    x, y = np.unique(rows.x), np.unique(rows.y)
    sizes = np.column_stack([np.repeat(x, len(y)), np.tile(y, len(x))])
    return np.column_stack([np.repeat(shapes, len(sizes), axis=0), np.tile(sizes, (len(shapes), 1))])


def _points_of_prior(rows: MeasuredRows, prior: Prior) -> Array:
    """Knots of the prior inside the measured range of both sizes [points, features + 2]."""
    knots = prior.artefact.families[rows.family]
    label = Label.parse(str(rows.label[0])).at(None)
    parts = [np.zeros((0, rows.shape.shape[1] + 2))]
    for shape in knots.of_label(label).tolist():
        own = knots.rows(shape)
        head = np.repeat(knots.shape[shape][None], own.stop - own.start, axis=0)
        parts.append(np.column_stack([head, knots.x[own], knots.y[own]]))
    points = np.concatenate(parts)
    x, y = points[:, -2], points[:, -1]
    inside = (x >= rows.x.min()) & (x <= rows.x.max()) & (y >= rows.y.min()) & (y <= rows.y.max())
    return np.asarray(points[inside])


def _row_ids(points: Array) -> NDArray[np.void]:
    whole = np.ascontiguousarray(points)
    return whole.view(np.dtype((np.void, whole.dtype.itemsize * whole.shape[1]))).ravel()


def _held_out(rows: MeasuredRows, knots: FamilyKnots, process: GaussianProcess) -> dict[str, Errors]:
    """Answer the questions; what is left out is left out of every label of the group.

    Errors are ln(predicted / measured), the negative of what the process missed.
    """
    _, shape = np.unique(rows.shape, axis=0, return_inverse=True)
    _, other = np.unique(rows.shape[:, OP_FAMILIES[rows.family].apart], axis=0, return_inverse=True)
    _, point = np.unique(np.column_stack([rows.shape, rows.x, rows.y]), axis=0, return_inverse=True)
    shape = shape.ravel()
    beyond, _ = top_octave(rows)
    top = np.where(beyond & np.isin(shape, shape[~beyond]), 0, -1)
    regime, reference_s = np.empty(len(rows.x), dtype=np.int8), np.empty(len(rows.x))
    for text, label in parsed_labels(np.unique(rows.label).tolist()).items():
        own = rows.label == text
        reference = knots.labels[label].reference
        regime[own] = reference.regime(rows.flop_s[own], rows.bytes_s[own])
        reference_s[own] = reference.seconds(rows.flop_s[own], rows.bytes_s[own])
    found = {}
    questions = {"point": point.ravel(), "shape": other.ravel(), "octave": top}
    has_siblings = len(OP_FAMILIES[rows.family].apart) < rows.shape.shape[1]
    questions["sibling"] = shape if has_siblings else np.full(len(shape), -1)
    for question, together in questions.items():
        missed = _left_out(process, together)
        known = ~np.isnan(missed)
        found[question] = Errors(
            label=rows.label,
            place=places(rows.label),
            shape=shape,
            regime=regime,
            reference_s=reference_s,
            error=-missed,
        ).take(known)
    return found


def _left_out(process: GaussianProcess, together: NDArray[np.int64]) -> Array:
    """Return what the process misses of points left out with all of their number; NaN where none would be left."""
    missed = np.full(len(together), np.nan)
    for number in np.unique(together[together >= 0]).tolist():
        own = np.flatnonzero(together == number)
        if len(own) < len(together):
            missed[own] = process.leave_out(own)
    return missed


def completed(
    families: Mapping[str, FamilyKnots], device: str, cluster: ClusterSpec, prior: Prior | None
) -> tuple[dict[str, FamilyKnots], dict[str, tuple[str, ...]]]:
    """Return the families with every label that only a prior of ``device`` has, and those labels by family.

    A profile of one GPU holds no collectives, one of three formats no fourth. Kernel tables of the same device that
    others measured are nearer to it than the analytic model; a relative's are not, and stay out.
    Collectives count where they ran on links like those of ``cluster``.
    """
    whole, taken = dict(families), dict[str, tuple[str, ...]]()
    if prior is None or prior.name != device:
        return whole, taken
    for family, known in prior.artefact.families.items():
        own = families.get(family)
        # A label measured at a locked clock is measured.
        measured = set() if own is None else {label.parts for label in own.labels}
        missing = tuple(sorted(label for label in known.labels if label.parts not in measured))
        level = OP_FAMILIES[family].level
        if level is not None:
            alike = _alike_levels(cluster, prior)
            missing = tuple(label for label in missing if level(label) in alike)
        if missing:
            more = with_labels(known, missing)
            whole[family] = more if own is None else _joined(own, more)
            taken[family] = tuple(label.text for label in missing)
    return whole, taken


def _alike_levels(cluster: ClusterSpec, prior: Prior) -> set[str]:
    """Names of the levels whose links are those the prior's collectives ran on."""
    provenance = prior.artefact.provenance
    links = reference_links(provenance.cluster, provenance.links) or {}
    return {link.name for link in cluster.levels if link.name in links and same_link(link, links[link.name])}


def _joined(own: FamilyKnots, more: FamilyKnots) -> FamilyKnots:
    return replace(
        own,
        label=own.label + more.label,
        shape=np.concatenate([own.shape, more.shape]),
        start=np.concatenate([own.start, own.start[-1] + more.start[1:]]),
        x=np.concatenate([own.x, more.x]),
        y=np.concatenate([own.y, more.y]),
        latency_s=np.concatenate([own.latency_s, more.latency_s]),
        residual=np.concatenate([own.residual, more.residual]),
        labels=own.labels | more.labels,
    )
