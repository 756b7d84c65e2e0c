"""Small memory-bound ops: for one op and width a curve in rows, bytes over bandwidth above a launch floor."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from costmodel.build_knots import MeasuredRows
from costmodel.curves import Curve
from costmodel.forms.columns import measured_rows, numbers, texts
from costmodel.forms.form import Form
from costmodel.knots import FamilyKnots
from costmodel.ops import Elementwise, Op
from costmodel.prediction import Prediction
from costmodel.pricing import Pricing

Array = NDArray[np.float64]

FEATURES = ("width", "bytes_per_row")


def rows_of(columns: Mapping[str, NDArray[np.generic]], cluster: ClusterSpec) -> MeasuredRows:
    """Turn elementwise rows into knots' input."""
    name, rows = texts(columns, "op"), numbers(columns, "rows")
    moved = numbers(columns, "io_bytes")
    memory = cluster.device.analytic.memory_efficiency.value
    return measured_rows(
        "elementwise",
        FEATURES,
        columns,
        label=name,
        shape=np.column_stack([numbers(columns, "width"), moved / rows]),
        x=rows,
        y=None,
        sides=(np.zeros_like(moved), moved / cluster.device.memory_bytes_per_s),
        efficiency=dict.fromkeys(np.unique(name).tolist(), (1.0, memory)),
    )


class ElementwiseForm(Form):
    """Prices small ops that were measured by name."""

    def __init__(self, knots: FamilyKnots, pricing: Pricing) -> None:
        super().__init__(knots, pricing)
        self._curves: dict[tuple[str, int, float], Curve | None] = {}

    def predict(self, op: Op) -> Prediction | None:
        """Price a small op; None when no op of its name was measured."""
        assert isinstance(op, Elementwise)
        key = (op.op, op.width, op.bytes_per_row)
        if key not in self._curves:
            self._curves[key] = self._prepare(op)
        curve = self._curves[key]
        return None if curve is None else curve.predict(np.asarray(op.rows, dtype=np.float64))

    def _prepare(self, op: Elementwise) -> Curve | None:
        label = self.label_of(op.op)
        if label is None:
            return None

        def at(rows: Array) -> Elementwise:
            return Elementwise(op=op.op, rows=rows, width=op.width, bytes_per_row=op.bytes_per_row, dtype=op.dtype)

        return Curve(self.curve_points(label, (float(op.width), float(op.bytes_per_row)), at))
