"""MoE: for fixed experts, widths and sharding a curve in tokens; distinct active experts carry the decode side.

The reference reads the weights of E (1 - (1 - k/E)^T) experts, as uniform routing hits; what skewed routing changes
is in the residuals, measured per routing. A shape that was not measured borrows at equal pairs per expert.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from costmodel.cost_model import Prediction
from costmodel.families.family import Columns, KnotRows, OpFamily, op_from
from costmodel.families.knot_prices import KnotPrices
from costmodel.families.lending import nearest_in_octaves
from costmodel.families.rows import numbers, texts
from costmodel.fitted.knots import FamilyKnots
from costmodel.ops.arrays import Array
from costmodel.ops.label import Label, joined
from costmodel.ops.op_types import Moe, Op
from costmodel.ops.roofline import format_efficiency
from costmodel.pricing.curves import Curve
from costmodel.pricing.price_points import Pricing

if TYPE_CHECKING:
    from cluster_specs.cluster import ClusterSpec


_FEATURES = ("hidden", "inter", "num_experts", "topk", "tp", "ep")


def _knot_rows(columns: Columns, cluster: ClusterSpec) -> KnotRows:  # noqa: ARG001 - one signature for all families
    return KnotRows(
        columns=columns,
        label=joined(texts(columns, "dtype"), texts(columns, "routing")),
        shape=np.column_stack([numbers(columns, name) for name in _FEATURES]),
        x=numbers(columns, "num_tokens"),
    )


def _log_pairs_per_expert(shape: Array) -> Array:
    experts, topk = shape[..., _FEATURES.index("num_experts")], shape[..., _FEATURES.index("topk")]
    return np.asarray(np.log(topk / experts))


def _blocks(shape: Array, tokens: Array) -> Array:
    """Pairs of an expert, experts of a rank, and the width of a rank's shard."""
    _, inter, experts, topk, tp, ep = shape.T
    return np.column_stack([tokens * topk / experts, experts / ep, inter / tp])


class MoePrices(KnotPrices):
    """Prices routed experts."""

    def __init__(self, family: OpFamily, knots: FamilyKnots, pricing: Pricing) -> None:
        super().__init__(family, knots, pricing)
        self._curves: dict[tuple[object, ...], Curve | None] = {}

    def predict(self, op: Op) -> Prediction | None:
        """Price routed experts; None when their number format was not measured, or they have no gate, as rows do."""
        assert isinstance(op, Moe)
        if not op.is_gated:
            return None
        key = (op.dtype, op.routing, op.hidden, op.inter, op.num_experts, op.topk, op.tp, op.ep)
        if key not in self._curves:
            self._curves[key] = self._prepare(op)
        curve = self._curves[key]
        return None if curve is None else curve.predict(np.asarray(op.num_tokens, dtype=np.float64))

    def _prepare(self, op: Moe) -> Curve | None:
        label = self.label_of(op.dtype, op.routing) or self._other_routing(op.dtype)
        if label is None:
            return None
        shape = (op.hidden, op.inter, op.num_experts, op.topk, op.tp, op.ep)
        points = self.curve_points(label, shape, lambda tokens: replace(op, num_tokens=tokens))
        return Curve(points)

    def _other_routing(self, dtype: str) -> Label | None:
        """Return the least skewed routing measured for a number format."""
        known = sorted(label for label in self.knots.labels if label.parts[0] == dtype)
        return known[0] if known else None


MOE: Final = OpFamily(
    name="moe",
    op=Moe,
    alternatives=("dtype", "hidden", "inter", "num_experts", "topk"),
    kernel_choice=("dtype",),
    fixed=("dtype", "routing", *_FEATURES),
    op_of=lambda sizes, _cluster: op_from(Moe, sizes),
    label_parts=("dtype", "routing"),
    features=_FEATURES,
    knot_rows=_knot_rows,
    running=lambda _label, x, _y: {"num_tokens": x},
    efficiency=lambda label, cluster: format_efficiency(cluster, label.parts[0]),
    lend=nearest_in_octaves,
    log_shift=lambda measured, shape: _log_pairs_per_expert(shape) - _log_pairs_per_expert(measured),
    apart=(0, 1, 2, 3),
    learns_across=1,
    blocks=_blocks,
    prices=MoePrices,
    size_name=lambda _label: "tokens of the group",
)
