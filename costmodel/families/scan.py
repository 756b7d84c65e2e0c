"""Scans: for fixed heads and state a curve in the tokens of a prompt, and one in the sequences of a decode step.

Several prompts of one call count as one prompt of their tokens, and several tokens of a decoding sequence at the ratio
of their reference times; both are derived, and say so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from costmodel.cost_model import Prediction, Source
from costmodel.families.family import Columns, KnotRows, OpFamily, op_from
from costmodel.families.knot_prices import KnotPrices
from costmodel.families.lending import nearest_in_octaves
from costmodel.families.rows import numbers, texts
from costmodel.fitted.knots import FamilyKnots
from costmodel.ops.arrays import Array
from costmodel.ops.label import Label, joined
from costmodel.ops.op_types import Op, Scan
from costmodel.pricing.curves import Curve
from costmodel.pricing.price_points import Pricing, work_sides

if TYPE_CHECKING:
    from cluster_specs.cluster import ClusterSpec


_FEATURES = ("num_heads", "num_groups", "head_dim", "state_dim", "chunk")
_PARTS = ("phase", "variant", "dtype", "state_dtype")


def _usable(columns: Columns, cluster: ClusterSpec) -> NDArray[np.bool_]:  # noqa: ARG001 - one signature for all families
    """Single prompts, and decode steps of one token."""
    is_prefill = texts(columns, "phase") == "prefill"
    return np.asarray(np.where(is_prefill, columns["num_prefill"] == 1, columns["decode_q"] == 1), dtype=np.bool_)


def _knot_rows(columns: Columns, cluster: ClusterSpec) -> KnotRows:  # noqa: ARG001
    is_prefill = texts(columns, "phase") == "prefill"
    return KnotRows(
        columns=columns,
        label=joined(*(texts(columns, name) for name in _PARTS)),
        shape=np.column_stack([numbers(columns, name) for name in _FEATURES]),
        x=np.where(is_prefill, numbers(columns, "prefill_q"), numbers(columns, "num_decode")),
    )


def _running(label: Label, x: Array, y: Array) -> dict[str, Any]:  # noqa: ARG001
    """One prompt of ``x`` tokens, or ``x`` sequences that decode one each."""
    return {"num_prefill": 1, "prefill_q": x} if label.parts[0] == "prefill" else {"num_decode": x}


def _efficiency(label: Label, cluster: ClusterSpec) -> tuple[float, float]:  # noqa: ARG001
    constants = cluster.device.analytic
    return constants.attention_efficiency.value, constants.memory_efficiency.value


class ScanPrices(KnotPrices):
    """Prices scans; a call is a prompt or a decode step, as engines run them."""

    def __init__(self, family: OpFamily, knots: FamilyKnots, pricing: Pricing) -> None:
        super().__init__(family, knots, pricing)
        self._curves: dict[tuple[object, ...], Curve | None] = {}

    def predict(self, op: Op) -> Prediction | None:
        """Price a scan; None when its kind, phase and formats were not measured, or it is both phases at once."""
        assert isinstance(op, Scan)
        is_prefill = op.phase == "prefill"
        if is_prefill and np.any(op.num_decode):
            return None
        key = (op.phase, *(getattr(op, name) for name in (*_PARTS[1:], *_FEATURES)))
        if key not in self._curves:
            self._curves[key] = self._prepare(op)
        curve = self._curves[key]
        if curve is None:
            return None
        if is_prefill:
            found = curve.predict(np.maximum(op.tokens(), 1.0))
            return _derived(found, np.ones_like(found.latency_s), np.asarray(op.num_prefill) > 1)
        found = curve.predict(np.maximum(np.asarray(op.num_decode, dtype=np.float64), 1.0))
        several = np.asarray(op.decode_q) > 1
        return _derived(found, self._ratio(op), several) if np.any(several) else found

    def _ratio(self, op: Scan) -> Array:
        """Return the reference time of several tokens per sequence over that of one."""
        label = self.label_of(*(getattr(op, name) for name in _PARTS))
        assert label is not None
        reference = self.knots.labels[label].reference
        one, all_of_them = (work_sides(part, self.pricing.cluster) for part in (replace(op, decode_q=1), op))
        return np.asarray(reference.seconds(*all_of_them) / reference.seconds(*one))

    def _prepare(self, op: Scan) -> Curve | None:
        label = self.label_of(*(getattr(op, name) for name in _PARTS))
        if label is None:
            return None
        shape = tuple(float(getattr(op, name)) for name in _FEATURES)
        one = replace(op, num_prefill=0, prefill_q=0, num_decode=0, decode_q=1)
        return Curve(self.curve_points(label, shape, lambda x: replace(one, **_running(label, x, x))))


def _derived(found: Prediction, ratio: Array, where: NDArray[np.bool_]) -> Prediction:
    """``ratio`` times a price, borrowed at the points of ``where``."""
    return Prediction(
        latency_s=found.latency_s * ratio,
        low_s=found.low_s * ratio,
        high_s=found.high_s * ratio,
        energy_j=found.energy_j * ratio,
        source=np.where(where, np.maximum(found.source, Source.BORROWED), found.source).astype(np.int8),
    )


SCAN: Final = OpFamily(
    name="scan",
    op=Scan,
    alternatives=_PARTS,
    kernel_choice=("variant", "dtype"),
    fixed=("variant", "dtype", "state_dtype", *_FEATURES),
    op_of=lambda sizes, _cluster: op_from(Scan, sizes),
    usable=_usable,
    not_usable="several prompts in a call, and several tokens of a decoding sequence, are derived",
    label_parts=_PARTS,
    features=_FEATURES,
    knot_rows=_knot_rows,
    running=_running,
    efficiency=_efficiency,
    lend=nearest_in_octaves,
    apart=(0, 2, 3),
    is_in_every_model=False,
    prices=ScanPrices,
    size_name=lambda label: "prompt length [tokens]" if label.parts[0] == "prefill" else "sequences",
)
