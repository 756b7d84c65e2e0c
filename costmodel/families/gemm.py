"""GEMM: for fixed (n, k) a curve in m, flat while the weights bound it, then linear, with a staircase of tiles.

Kernels for an m that does not fill its last tile (2,049 after 2,048) run up to a half longer than their neighbours, so
a number format measured at both has two branches: *aligned* (m a multiple of 8, or at most 16) and *ragged*. Serving
engines pad decode steps to aligned sizes; prefill steps are mostly ragged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from costmodel.cost_model import Prediction, Source
from costmodel.families.family import Columns, KnotRows, OpFamily, op_from, plain_rows
from costmodel.families.knot_prices import KnotPrices, by_group
from costmodel.families.lending import nearest
from costmodel.families.rows import numbers, taken, texts, timed_calls
from costmodel.fitted.calibration import COMPUTE, MEMORY, Calibrated, Calls, efficiency, floor
from costmodel.fitted.knots import FamilyKnots
from costmodel.ops.arrays import Array, distinct
from costmodel.ops.label import Label, joined
from costmodel.ops.op_types import Gemm, Op
from costmodel.ops.roofline import format_efficiency
from costmodel.pricing.curves import Curve, CurvePoints
from costmodel.pricing.price_points import Pricing, work_sides

if TYPE_CHECKING:
    from cluster_specs.cluster import ClusterSpec


# How the operands of a number format are scaled; formats not named have no scales.
_SCALING: Final[Mapping[str, str]] = {
    "fp8": "row",
    "fp8_block": "group128",
    "w8a8": "row",
    "w8a16": "row",
    "w4a16": "group128",
    "w4a8": "group128",
    "mxfp4": "group32",
    "mxfp4_mxfp8": "group32",
    "nvfp4": "group16",
}
# A format that alone shows what a unit reaches.
_CALIBRATES: Final = {"nvfp4": "fp4"}
_ALIGNMENT: Final = 8
_ALWAYS_ALIGNED: Final = 16
# Of the two axes of the (n, k) grid, the trust in a line along k.
_TRUST_ALONG_K = 0.7
# Share of the stated memory bandwidth that measured quantise kernels reach.
_QUANTISE_EFFICIENCY = 0.85
_FEWEST_RAGGED_SIZES = 3
# Ragged sizes are searched for above every real m.
_RAGGED_OFFSET = 2.0**40
_VALUES: Final = (
    "x",
    "latency_s",
    "power_w",
    "source",
    "log_half_width",
    "source_between",
    "log_half_width_between",
)


def is_aligned(m: Array) -> NDArray[np.bool_]:
    """Whether m fills its tiles well enough to belong to the aligned branch."""
    return np.asarray((np.mod(m, _ALIGNMENT) == 0) | (m <= _ALWAYS_ALIGNED))


def _knot_rows(columns: Columns, cluster: ClusterSpec) -> KnotRows:
    """Split sizes into branches; those up to 16 serve both."""
    dtype, m = texts(columns, "dtype"), numbers(columns, "m")
    ragged = ~is_aligned(m)
    split = np.zeros(len(m), dtype=bool)
    for name in np.unique(dtype).tolist():
        own = dtype == name
        split |= own & (len(np.unique(m[own & ragged])) >= _FEWEST_RAGGED_SIZES)
    branch = np.where(split & ragged, "ragged", "aligned")
    both = np.flatnonzero(split & (m <= _ALWAYS_ALIGNED))
    index = np.concatenate([np.arange(len(m)), both])
    branch = np.concatenate([branch, np.full(len(both), "ragged")])
    columns = taken(columns, index)
    dtype, m, n, k = dtype[index], m[index], numbers(columns, "n"), numbers(columns, "k")
    flop_s, bytes_s = np.empty_like(m), np.empty_like(m)
    for name in np.unique(dtype).tolist():
        own = dtype == name
        flop_s[own], bytes_s[own] = work_sides(Gemm(m=m[own], n=n[own], k=k[own], dtype=name), cluster)
    return KnotRows(
        columns=columns, label=joined(dtype, branch), shape=np.column_stack([n, k]), x=m, sides=(flop_s, bytes_s)
    )


def _lend(measured: Array, shape: Array) -> tuple[NDArray[np.int64], Array]:
    """Bilinear in (log n, log k), along k before along n because k leaves the number of tiles alone."""
    log_n, log_k = np.log(measured[:, 0]), np.log(measured[:, 1])
    n, k = float(np.log(shape[0])), float(np.log(shape[1]))
    weight = np.zeros(len(measured))
    lines = ((log_n == n, log_k, k, _TRUST_ALONG_K), (log_k == k, log_n, n, 1.0 - _TRUST_ALONG_K))
    for on_line, axis, value, trust in lines:
        bracket = _bracket(np.flatnonzero(on_line), axis, value)
        for index, share in bracket:
            weight[index] += trust * share
    if not weight.any():
        for side_n, share_n in _bracket_values(distinct(log_n), n):
            for side_k, share_k in _bracket_values(distinct(log_k), k):
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


def _blocks(shape: Array, m: Array) -> Array:
    """Tiles of the result, of two usual sizes, and how full the last one of 64 rows is."""
    n = shape[:, 0]
    tiles = [np.ceil(m / rows) * np.ceil(n / 128.0) for rows in (64.0, 128.0)]
    return np.column_stack([*tiles, np.mod(m, 64.0)])


def _calibrate(family: OpFamily, columns: Columns, cluster: ClusterSpec) -> Iterator[Calibrated]:
    """Efficiency of every format; floor and memory efficiency from the plainest one measured."""
    dtype = texts(columns, "dtype")
    by_dtype = {
        name: _product_calls(family, taken(columns, dtype == name), cluster) for name in np.unique(dtype).tolist()
    }
    plain = next((by_dtype[name] for name in ("bf16", "fp16", "fp32") if name in by_dtype), None)
    if plain is not None:
        yield from floor("kernel_floor_s", plain, "GEMM")
        yield from efficiency("memory_efficiency", plain, MEMORY, "weight-bound GEMM")
    known = {str(name) for name in cluster.device.peak_flop_per_s}
    for name, calls in by_dtype.items():
        unit = _CALIBRATES.get(name, name)
        if unit in known:
            yield from efficiency(f"gemm_efficiency.{unit}", calls, COMPUTE, f"{name} GEMM")


def _product_calls(family: OpFamily, columns: Columns, cluster: ClusterSpec) -> Calls:
    """Take quantising the activations off: two bytes read and one written per activation, an op of its own."""
    calls = timed_calls(family, columns, cluster)
    if not columns["quantise"].any():
        return calls
    moved = 3.0 * numbers(columns, "m") * numbers(columns, "k") * numbers(columns, "quantise")
    quantised_s = moved / (_QUANTISE_EFFICIENCY * cluster.device.memory_bytes_per_s)
    return replace(
        calls, latency_s=calls.latency_s - quantised_s, source=calls.source + ", less quantising the activations"
    )


def _drawn_at(label: Label, even: Array, measured: Array) -> Array:
    """Draw a branch at sizes of its own kind."""
    whole = np.where(even > _ALWAYS_ALIGNED, np.rint(even / _ALIGNMENT) * _ALIGNMENT, np.rint(even))
    if label.parts[-1] == "ragged":
        whole = np.where(whole > _ALWAYS_ALIGNED, whole + 1, whole)
    return np.unique(np.append(whole, measured))


class GemmPrices(KnotPrices):
    """Prices GEMMs; n and k are usually plain integers, so that one op is one curve."""

    def __init__(self, family: OpFamily, knots: FamilyKnots, pricing: Pricing) -> None:
        super().__init__(family, knots, pricing)
        self._curves: dict[tuple[str, float, float], tuple[Curve, bool] | None] = {}

    def predict(self, op: Op) -> Prediction | None:
        """Price a GEMM; None when its number format was not measured."""
        assert isinstance(op, Gemm)
        m = np.asarray(op.m, dtype=np.float64)
        if np.ndim(op.n) == 0 and np.ndim(op.k) == 0:
            return self._along_m(op.dtype, float(op.n), float(op.k), m)
        m, n, k = np.broadcast_arrays(m, np.asarray(op.n, dtype=np.float64), np.asarray(op.k, dtype=np.float64))
        keys = np.column_stack([n.ravel(), k.ravel()])
        return by_group(keys, m.shape, lambda key, own: self._along_m(op.dtype, key[0], key[1], m.ravel()[own]))

    def _along_m(self, dtype: str, n: float, k: float, m: Array) -> Prediction | None:
        key = (dtype, n, k)
        if key not in self._curves:
            self._curves[key] = self._prepare(dtype, n, k)
        prepared = self._curves[key]
        if prepared is None:
            return None
        curve, has_ragged = prepared
        m = np.maximum(m, 1.0)
        return curve.predict(m, m + _RAGGED_OFFSET * ~is_aligned(m) if has_ragged else m)

    def _prepare(self, dtype: str, n: float, k: float) -> tuple[Curve, bool] | None:
        label, ragged = self.label_of(dtype, "aligned"), self.label_of(dtype, "ragged")
        if label is None:
            return None
        aligned = self.curve_points(label, (n, k), lambda m: Gemm(m=m, n=int(n), k=int(k), dtype=dtype))
        if ragged is None:
            return Curve(aligned), False
        branch = self.curve_points(ragged, (n, k), lambda m: Gemm(m=m, n=int(n), k=int(k), dtype=dtype))
        return Curve(_one_behind_the_other(aligned, _continued(branch, aligned))), True


def _continued(ragged: CurvePoints, aligned: CurvePoints) -> CurvePoints:
    """Keep the ragged branch up to its last measured size; beyond, the aligned branch at the ratio found there."""
    last = int(np.flatnonzero(ragged.source < Source.EXTRAPOLATED)[-1])
    end = ragged.x[last]
    ratio = ragged.latency_s[last] / float(Curve(aligned).predict(np.asarray(end)).latency_s)
    beyond = aligned.x > end
    source = np.maximum(aligned.source[beyond], Source.FITTED).astype(np.int8)
    tail = {
        "x": aligned.x[beyond],
        "latency_s": aligned.latency_s[beyond] * ratio,
        "power_w": aligned.power_w[beyond],
        "source": source,
        "log_half_width": np.maximum(aligned.log_half_width[beyond], aligned.log_half_width_between[beyond]),
        "source_between": aligned.source_between[beyond],
        "log_half_width_between": aligned.log_half_width_between[beyond],
    }
    whole = {name: np.concatenate([getattr(ragged, name)[: last + 1], part]) for name, part in tail.items()}
    if beyond.any():
        # Between the last ragged size and the next aligned one lies what surrounds the latter.
        whole["source_between"][last] = aligned.source_between[beyond][0]
        whole["log_half_width_between"][last] = aligned.log_half_width_between[beyond][0]
    return CurvePoints(position=whole["x"], **whole)


def _one_behind_the_other(aligned: CurvePoints, ragged: CurvePoints) -> CurvePoints:
    both = {name: np.concatenate([getattr(aligned, name), getattr(ragged, name)]) for name in _VALUES}
    position = np.concatenate([aligned.position, ragged.position + _RAGGED_OFFSET])
    return CurvePoints(position=position, **both)


GEMM: Final = OpFamily(
    name="gemm",
    op=Gemm,
    alternatives=("dtype",),
    kernel_choice=("dtype",),
    contract=("scaling", "quantise"),
    fixed=("dtype",),
    op_of=lambda sizes, _cluster: op_from(Gemm, sizes),
    manifest_rows=lambda op, _cluster: plain_rows(op, scaling=_SCALING.get(op.dtype, "none"), quantise=False),
    label_parts=("dtype", "branch"),
    features=("n", "k"),
    knot_rows=_knot_rows,
    running=lambda _label, x, _y: {"m": x},
    efficiency=lambda label, cluster: format_efficiency(cluster, label.parts[0]),
    lend=_lend,
    apart=(0, 1),
    learns_across=1,
    blocks=_blocks,
    calibrate=_calibrate,
    prices=GemmPrices,
    size_name=lambda _label: "m [tokens]",
    drawn_at=_drawn_at,
    figures=("utilisation", "curves"),
)
