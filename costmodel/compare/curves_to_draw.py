"""From a fitted model to what a plot needs: the op behind a knot, representative shapes, measured series with curves.

A fitted model keeps every measured point (`costmodel.fitted.knots`), so fitted and measured are compared from it alone.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from costmodel.compare.series import Band, Series
from costmodel.cost_model import CostModel
from costmodel.families.all import OP_FAMILIES
from costmodel.families.family import knot_op
from costmodel.families.rows import efficiencies, row_sides
from costmodel.fitted.knots import FamilyKnots
from costmodel.fitted.measured_rows import MeasuredRows
from costmodel.ops.arrays import Array
from costmodel.ops.label import Label
from costmodel.ops.op_types import Op

_SERIES_PER_FIGURE = 6
_POINTS_PER_CURVE = 160


def op_of(knots: FamilyKnots, shape: int, x: Array, y: Array, cluster: ClusterSpec) -> Op:
    """Return the op of one measured shape at sizes ``x`` and ``y`` (as the family's knots count them)."""
    return knot_op(OP_FAMILIES[knots.family], knots.label[shape], knots.shape[shape].tolist(), x, y, cluster=cluster)


def measured_rows_of(knots: FamilyKnots, cluster: ClusterSpec) -> MeasuredRows:
    """Return the measured points of a fitted family in the form they were fitted from."""
    counts = np.diff(knots.start)
    label = np.repeat(knots.label_text, counts)
    shape = np.repeat(knots.shape, counts, axis=0)
    family = OP_FAMILIES[knots.family]
    flop_s, bytes_s = row_sides(family, label, shape, knots.x, knots.y, cluster=cluster)
    rows = MeasuredRows(
        family=knots.family,
        features=knots.features,
        label=label,
        shape=shape,
        x=knots.x,
        y=knots.y,
        latency_s=knots.latency_s,
        flop_s=flop_s,
        bytes_s=bytes_s,
        efficiency=efficiencies(family, knots.labels, cluster),
        is_estimate=np.isnan(knots.latency_s),
    )
    return rows.take(~rows.is_estimate)


def curve_series(
    knots: FamilyKnots, label: Label, costs: CostModel, held_out_s: Array, shapes: Sequence[int]
) -> list[Series]:
    """Measured points, fitted curves and held-out prices of up to six representative shapes of one label.

    ``shapes`` are those to choose from.
    ``held_out_s`` [knots] is what the fit says of each measured knot without it, NaN where it says nothing.
    """
    if np.any(knots.y != 1.0):
        return list(_surface_series(knots, label, costs, held_out_s, shapes))
    return [_series(knots, label, shape, costs, held_out_s) for shape in _representative(knots, shapes)]


def _series(knots: FamilyKnots, label: Label, shape: int, costs: CostModel, held_out_s: Array) -> Series:
    own = knots.rows(shape)
    axis = _between(knots, label, knots.x[own])
    found = costs.predict(op_of(knots, shape, axis, np.ones_like(axis), costs.cluster))
    band = Band(x=axis, y=found.latency_s, low=found.low_s, high=found.high_s)
    return Series(
        label=shape_name(knots, shape), x=knots.x[own], y=knots.latency_s[own], band=band, held_out=held_out_s[own]
    )


def _surface_series(
    knots: FamilyKnots, label: Label, costs: CostModel, held_out_s: Array, shapes: Sequence[int]
) -> Iterator[Series]:
    """Cut the middle shape's surface as its family says."""
    shape = _middle(knots, shapes)
    own = knots.rows(shape)
    measured = ~np.isnan(knots.latency_s[own])
    x, y, latency_s = knots.x[own][measured], knots.y[own][measured], knots.latency_s[own][measured]
    without_s = held_out_s[own][measured]
    cut_of = OP_FAMILIES[knots.family].cut
    assert cut_of is not None
    cut = cut_of(label)
    along, held = (y, x) if cut.is_along_y else (x, y)
    values, counts = np.unique(held, return_counts=True)
    values = values[counts >= counts.max() / 2]
    for value in values[_spread(len(values))].tolist():
        points = held == value
        ends = along[points] if np.ptp(along[points]) else along  # a single point says nothing about the range
        axis = np.geomspace(ends.min(), ends.max(), _POINTS_PER_CURVE)
        fixed = np.full_like(axis, value)
        op = op_of(knots, shape, *((fixed, axis) if cut.is_along_y else (axis, fixed)), costs.cluster)
        found = costs.predict(op)
        band = Band(x=axis, y=found.latency_s, low=found.low_s, high=found.high_s)
        name = f"{value:,.0f} {cut.held_unit}"
        yield Series(label=name, x=along[points], y=latency_s[points], band=band, held_out=without_s[points])


def surface_shape_name(knots: FamilyKnots, shapes: Sequence[int]) -> str:
    """Name the shape, of those to choose from, whose surface `curve_series` cuts."""
    return shape_name(knots, _middle(knots, shapes))


def _middle(knots: FamilyKnots, shapes: Sequence[int]) -> int:
    """Return the shape of median latency among those measured at most sizes."""
    ordered = _by_latency(knots, shapes)
    return ordered[len(ordered) // 2]


def _representative(knots: FamilyKnots, shapes: Sequence[int]) -> list[int]:
    """Return shapes spread evenly over the range of latencies, among those measured at most sizes."""
    ordered = _by_latency(knots, shapes)
    return [ordered[i] for i in _spread(len(ordered))]


def _by_latency(knots: FamilyKnots, shapes: Sequence[int]) -> list[int]:
    """Return the shapes measured at four fifths of the most sizes, by median latency."""
    latencies = [knots.latency_s[knots.rows(shape)] for shape in shapes]
    counts = [int(np.count_nonzero(~np.isnan(own))) for own in latencies]
    typical = {shape: float(np.nanmedian(own)) for shape, own in zip(shapes, latencies, strict=True)}
    return sorted(
        (s for s, count in zip(shapes, counts, strict=True) if count >= 0.8 * max(counts)), key=lambda s: typical[s]
    )


def _spread(count: int) -> NDArray[np.int64]:
    """Return up to six indices below ``count``, evenly spread, ends included."""
    return np.unique(np.rint(np.linspace(0, count - 1, min(_SERIES_PER_FIGURE, count))).astype(np.int64))


def _between(knots: FamilyKnots, label: Label, own_x: Array) -> Array:
    """Sizes to draw a curve at."""
    even = np.geomspace(own_x.min(), own_x.max(), _POINTS_PER_CURVE)
    drawn_at = OP_FAMILIES[knots.family].drawn_at
    return even if drawn_at is None else drawn_at(label, even, own_x)


_ABBREVIATED = {"num_heads": "heads", "num_kv_heads": "kv heads", "num_experts": "experts", "bytes_per_row": "B/row"}


def shape_name(knots: FamilyKnots, shape: int) -> str:
    """Name a measured shape by its features."""
    values = knots.shape[shape].tolist()
    own_name = OP_FAMILIES[knots.family].shape_name
    if own_name is not None:
        return own_name(knots.label[shape], values)
    pairs = zip(knots.features, values, strict=True)
    return ", ".join(f"{_ABBREVIATED.get(name, name)} {value:,.0f}" for name, value in pairs)


def point_name(knots: FamilyKnots, shape: int, x: float, y: float) -> str:
    """Name a measured point by its shape and sizes."""
    size = f"{x:,.0f}" if y == 1.0 else f"{x:,.0f} x {y:,.0f}"
    return f"{shape_name(knots, shape)}: {size}"
