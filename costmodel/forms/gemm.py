"""GEMM: for fixed (n, k) a curve in m, flat while the weights bound it, then linear, with a staircase of tiles.

Kernels for an m that does not fill its last tile (2,049 after 2,048) run up to a half longer than their neighbours, so
a number format measured at both has two branches: *aligned* (m a multiple of 8, or at most 16) and *ragged*. Serving
engines pad decode steps to aligned sizes; prefill steps are mostly ragged.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from costmodel.alignment import ALWAYS_ALIGNED, is_aligned
from costmodel.build_knots import MeasuredRows
from costmodel.curves import Curve, CurvePoints
from costmodel.forms.columns import gemm_efficiency, measured_rows, numbers, texts
from costmodel.forms.form import Form, by_group
from costmodel.knots import FamilyKnots
from costmodel.label import joined
from costmodel.ops import Gemm, Op
from costmodel.prediction import Prediction, Source
from costmodel.pricing import Pricing, work_sides

Array = NDArray[np.float64]

FEATURES = ("n", "k")
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


def rows_of(columns: Mapping[str, NDArray[np.generic]], cluster: ClusterSpec) -> MeasuredRows:
    """Turn gemm rows into knots' input; sizes up to 16 serve both branches."""
    dtype, m = texts(columns, "dtype"), numbers(columns, "m")
    ragged = ~is_aligned(m)
    split = np.zeros(len(m), dtype=bool)
    for name in np.unique(dtype).tolist():
        own = dtype == name
        split |= own & (len(np.unique(m[own & ragged])) >= _FEWEST_RAGGED_SIZES)
    branch = np.where(split & ragged, "ragged", "aligned")
    both = np.flatnonzero(split & (m <= ALWAYS_ALIGNED))
    index = np.concatenate([np.arange(len(m)), both])
    branch = np.concatenate([branch, np.full(len(both), "ragged")])
    columns = {name: column[index] for name, column in columns.items()}
    dtype, m, n, k = dtype[index], m[index], numbers(columns, "n"), numbers(columns, "k")
    flop_s, bytes_s = np.empty_like(m), np.empty_like(m)
    efficiency = {}
    for name in np.unique(dtype).tolist():
        own = dtype == name
        flop_s[own], bytes_s[own] = work_sides(Gemm(m=m[own], n=n[own], k=k[own], dtype=name), cluster)
        for part in ("aligned", "ragged"):
            efficiency[f"{name}|{part}"] = gemm_efficiency(cluster, name)
    return measured_rows(
        "gemm",
        FEATURES,
        columns,
        label=joined(dtype, branch),
        shape=np.column_stack([n, k]),
        x=m,
        y=None,
        sides=(flop_s, bytes_s),
        efficiency=efficiency,
    )


class GemmForm(Form):
    """Prices GEMMs; n and k are usually plain integers, so that one op is one curve."""

    def __init__(self, knots: FamilyKnots, pricing: Pricing) -> None:
        super().__init__(knots, pricing)
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
