"""MoE: for fixed experts, widths and sharding a curve in tokens; distinct active experts carry the decode side.

The reference reads the weights of E (1 - (1 - k/E)^T) experts, as uniform routing hits; what skewed routing changes
is in the residuals, measured per routing. A shape that was not measured borrows at equal pairs per expert.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from costmodel.build_knots import MeasuredRows
from costmodel.curves import Curve
from costmodel.forms.columns import gemm_efficiency, measured_rows, numbers, texts
from costmodel.forms.form import Form
from costmodel.knots import FamilyKnots
from costmodel.label import Label, joined
from costmodel.ops import Moe, Op
from costmodel.prediction import Prediction
from costmodel.pricing import Pricing
from costmodel.shape_ops import row_sides

Array = NDArray[np.float64]

FEATURES = ("hidden", "inter", "num_experts", "topk", "tp", "ep")


def rows_of(columns: Mapping[str, NDArray[np.generic]], cluster: ClusterSpec) -> MeasuredRows:
    """Turn moe rows into knots' input."""
    dtype, routing, tokens = texts(columns, "dtype"), texts(columns, "routing"), numbers(columns, "num_tokens")
    shape = np.column_stack([numbers(columns, name) for name in FEATURES])
    label = joined(dtype, routing)
    efficiency = {name: gemm_efficiency(cluster, Label.parse(name).parts[0]) for name in np.unique(label).tolist()}
    return measured_rows(
        "moe",
        FEATURES,
        columns,
        label=label,
        shape=shape,
        x=tokens,
        y=None,
        sides=row_sides("moe", joined(dtype, "balanced"), shape, tokens, tokens, cluster=cluster),
        efficiency=efficiency,
    )


class MoeForm(Form):
    """Prices routed experts."""

    def __init__(self, knots: FamilyKnots, pricing: Pricing) -> None:
        super().__init__(knots, pricing)
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
