"""From a fitted model to what a plot needs: the op behind a knot, representative shapes, measured series with curves.

A fitted model keeps every measured point (`costmodel.knots`), so fitted and measured are compared from it alone.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from costmodel.build_knots import MeasuredRows
from costmodel.compare.series import Band, Series
from costmodel.forms.columns import gemm_efficiency
from costmodel.knots import FamilyKnots
from costmodel.label import Label
from costmodel.ops import Op
from costmodel.prediction import CostModel
from costmodel.shape_ops import row_sides, shape_op

Array = NDArray[np.float64]

_SERIES_PER_FIGURE = 6
_POINTS_PER_CURVE = 160


def op_of(knots: FamilyKnots, shape: int, x: Array, y: Array, cluster: ClusterSpec) -> Op:
    """Return the op of one measured shape at sizes ``x`` and ``y`` (as the family's knots count them)."""
    return shape_op(knots.family, knots.label[shape], knots.shape[shape].tolist(), x, y, cluster=cluster)


def measured_rows_of(knots: FamilyKnots, cluster: ClusterSpec) -> MeasuredRows:
    """Return the measured points of a fitted family in the form they were fitted from."""
    counts = np.diff(knots.start)
    label = np.repeat(knots.label_text, counts)
    shape = np.repeat(knots.shape, counts, axis=0)
    flop_s, bytes_s = row_sides(knots.family, label, shape, knots.x, knots.y, cluster=cluster)
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
        efficiency={name.text: _stand_ins(knots.family, name, cluster) for name in knots.labels},
        is_estimate=np.isnan(knots.latency_s),
    )
    return rows.take(~rows.is_estimate)


def _stand_ins(family: str, label: Label, cluster: ClusterSpec) -> tuple[float, float]:
    """Return the analytic compute and memory efficiencies a refit falls back on, as the families' forms choose them."""
    constants = cluster.device.analytic
    if family in {"gemm", "moe"}:
        return gemm_efficiency(cluster, label.parts[0])
    if family == "attention":
        memory = constants.decode_attention_efficiency if label.parts[0] == "decode" else constants.memory_efficiency
        return constants.attention_efficiency.value, memory.value
    return 1.0, (constants.memory_efficiency if family == "elementwise" else constants.link_efficiency).value


def curve_series(knots: FamilyKnots, label: Label, costs: CostModel) -> list[Series]:
    """Measured points and fitted curves of up to six representative shapes of one label."""
    if np.any(knots.y != 1.0):
        return list(_surface_series(knots, label, costs))
    series = []
    for shape in _representative(knots, label):
        own = knots.rows(shape)
        x = _between(knots, label, knots.x[own])
        series.append(_series(shape_name(knots, shape), knots, shape, own_x=knots.x[own], axis=x, costs=costs))
    return series


def _series(name: str, knots: FamilyKnots, shape: int, *, own_x: Array, axis: Array, costs: CostModel) -> Series:
    found = costs.predict(op_of(knots, shape, axis, np.ones_like(axis), costs.cluster))
    band = Band(x=axis, y=found.latency_s, low=found.low_s, high=found.high_s)
    return Series(label=name, x=own_x, y=knots.latency_s[knots.rows(shape)], band=band)


def _surface_series(knots: FamilyKnots, label: Label, costs: CostModel) -> Iterator[Series]:
    """Cut the middle shape's surface: prefill along the length, decode along the number of sequences."""
    shape = _middle(knots, label)
    own = knots.rows(shape)
    measured = ~np.isnan(knots.latency_s[own])
    x, y, latency_s = knots.x[own][measured], knots.y[own][measured], knots.latency_s[own][measured]
    is_prefill = label.parts[0] == "prefill"
    along, held = (y, x) if is_prefill else (x, y)
    unit = "sequence(s)" if is_prefill else "tokens of context"
    values, counts = np.unique(held, return_counts=True)
    values = values[counts >= counts.max() / 2]
    for value in values[_spread(len(values))].tolist():
        points = held == value
        ends = along[points] if np.ptp(along[points]) else along  # a single point says nothing about the range
        axis = np.geomspace(ends.min(), ends.max(), _POINTS_PER_CURVE)
        fixed = np.full_like(axis, value)
        op = op_of(knots, shape, *((fixed, axis) if is_prefill else (axis, fixed)), costs.cluster)
        found = costs.predict(op)
        band = Band(x=axis, y=found.latency_s, low=found.low_s, high=found.high_s)
        yield Series(label=f"{value:,.0f} {unit}", x=along[points], y=latency_s[points], band=band)


def surface_shape_name(knots: FamilyKnots, label: Label) -> str:
    """Name the shape whose surface `curve_series` cuts."""
    return shape_name(knots, _middle(knots, label))


def _middle(knots: FamilyKnots, label: Label) -> int:
    """Return the shape of median latency among those measured at most sizes."""
    shapes = _by_latency(knots, label)
    return shapes[len(shapes) // 2]


def _representative(knots: FamilyKnots, label: Label) -> list[int]:
    """Return shapes spread evenly over the label's range of latencies, among those measured at most sizes."""
    shapes = _by_latency(knots, label)
    return [shapes[i] for i in _spread(len(shapes))]


def _by_latency(knots: FamilyKnots, label: Label) -> list[int]:
    """Return the shapes measured at four fifths of the most sizes, by median latency."""
    shapes = [shape for shape in knots.of_label(label).tolist() if knots.is_measured(shape)]
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
    """Sizes to draw a curve at; a GEMM's branch is drawn at sizes of its own kind."""
    axis = np.geomspace(own_x.min(), own_x.max(), _POINTS_PER_CURVE)
    if knots.family != "gemm":
        return axis
    whole = np.where(axis > 16, np.rint(axis / 8) * 8, np.rint(axis))
    if label.parts[-1] == "ragged":
        whole = np.where(whole > 16, whole + 1, whole)
    return np.unique(np.append(whole, own_x))


_ABBREVIATED = {"num_heads": "heads", "num_kv_heads": "kv heads", "num_experts": "experts", "bytes_per_row": "B/row"}


def shape_name(knots: FamilyKnots, shape: int) -> str:
    """Name a measured shape by its features."""
    pairs = zip(knots.features, knots.shape[shape].tolist(), strict=True)
    return ", ".join(f"{_ABBREVIATED.get(name, name)} {value:,.0f}" for name, value in pairs)
