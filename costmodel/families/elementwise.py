"""Small memory-bound ops: for one op and width a curve in rows, bytes over bandwidth above a launch floor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from costmodel.cost_model import Prediction
from costmodel.families.family import Columns, KnotRows, OpFamily, Row, Sizes, op_from
from costmodel.families.knot_prices import KnotPrices
from costmodel.families.lending import nearest_in_octaves
from costmodel.families.rows import numbers, texts
from costmodel.fitted.knots import FamilyKnots
from costmodel.ops.op_types import Elementwise, Op
from costmodel.ops.small_ops import row_format
from costmodel.pricing.curves import Curve
from costmodel.pricing.price_points import Pricing

if TYPE_CHECKING:
    from cluster_specs.cluster import ClusterSpec


_ROUNDING: Final = "quantise"
_FINDING_SCALES: Final = "quantise_dynamic"


def op_of_kernel(kernel: str) -> str:
    """Return the small op that a label's kernel runs."""
    return _ROUNDING if kernel == _FINDING_SCALES else kernel


def _op_of(sizes: Sizes, cluster: ClusterSpec | None) -> Elementwise:  # noqa: ARG001 - one signature for all families
    per_row = sizes["bytes_per_row"] if "bytes_per_row" in sizes else sizes["io_bytes"] / sizes["rows"]
    found: Elementwise = op_from(Elementwise, {**sizes, "op": op_of_kernel(str(sizes["op"])), "bytes_per_row": per_row})
    return found


def _sized(columns: Columns) -> Columns:
    return {**columns, "bytes_per_row": numbers(columns, "io_bytes") / numbers(columns, "rows")}


def _kernel(op: str, dtype: str, width: int, bytes_per_row: float) -> str:
    """Name the kernel of a small op: rounding that must find its scales first is another one than rounding alone."""
    if op != _ROUNDING:
        return op
    row = row_format(Elementwise(op=op, rows=1, width=width, bytes_per_row=bytes_per_row, dtype=dtype))
    return op if row is None or not row.scales else _FINDING_SCALES


def _kernels(columns: Columns) -> NDArray[np.str_]:
    """Name the kernel of every row."""
    per_row = numbers(columns, "io_bytes") / numbers(columns, "rows")
    keys = list(
        zip(
            texts(columns, "op").tolist(),
            texts(columns, "dtype").tolist(),
            columns["width"].tolist(),
            per_row.tolist(),
            strict=True,
        )
    )
    names = {key: _kernel(*key) for key in dict.fromkeys(keys)}
    return np.asarray([names[key] for key in keys], dtype=np.str_)


def _knot_rows(columns: Columns, cluster: ClusterSpec) -> KnotRows:
    rows, moved = numbers(columns, "rows"), numbers(columns, "io_bytes")
    return KnotRows(
        columns=columns,
        label=_kernels(columns),
        shape=np.column_stack([numbers(columns, "width"), moved / rows]),
        x=rows,
        sides=(np.zeros_like(moved), moved / cluster.device.memory_bytes_per_s),
    )


def _manifest_rows(op: Elementwise, cluster: ClusterSpec) -> Iterator[Row]:  # noqa: ARG001
    for rows in np.asarray(op.rows).ravel().tolist():
        io_bytes = round(rows * op.bytes_per_row)
        yield {"op": op.op, "rows": round(rows), "width": op.width, "io_bytes": io_bytes, "dtype": op.dtype}


class ElementwisePrices(KnotPrices):
    """Prices small ops that were measured by name."""

    def __init__(self, family: OpFamily, knots: FamilyKnots, pricing: Pricing) -> None:
        super().__init__(family, knots, pricing)
        self._curves: dict[tuple[str, int, float], Curve | None] = {}

    def predict(self, op: Op) -> Prediction | None:
        """Price a small op; None when no op of its name was measured."""
        assert isinstance(op, Elementwise)
        key = (_kernel(op.op, op.dtype, op.width, op.bytes_per_row), op.width, op.bytes_per_row)
        if key not in self._curves:
            self._curves[key] = self._prepare(op, key[0])
        curve = self._curves[key]
        return None if curve is None else curve.predict(np.asarray(op.rows, dtype=np.float64))

    def _prepare(self, op: Elementwise, kernel: str) -> Curve | None:
        """Prepare the curve of an op's kernel; of the other one that rounds, where only that was measured."""
        others = (_ROUNDING, _FINDING_SCALES) if op.op == _ROUNDING else ()
        label = next((found for name in (kernel, *others) if (found := self.label_of(name)) is not None), None)
        if label is None:
            return None
        shape = float(op.width), float(op.bytes_per_row)
        return Curve(self.curve_points(label, shape, lambda rows: replace(op, rows=rows)))


ELEMENTWISE: Final = OpFamily(
    name="elementwise",
    op=Elementwise,
    alternatives=("op",),
    cache="hot",
    fixed=("op", "dtype", "width", "bytes_per_row"),
    sized=_sized,
    op_of=_op_of,
    manifest_rows=_manifest_rows,
    label_parts=("op",),
    features=("width", "bytes_per_row"),
    knot_rows=_knot_rows,
    running=lambda _label, x, _y: {"rows": x},
    efficiency=lambda _label, cluster: (1.0, cluster.device.analytic.memory_efficiency.value),
    lend=nearest_in_octaves,
    # Compared at equal bytes.
    log_shift=lambda measured, shape: np.asarray(np.log(shape[1]) - np.log(measured[:, 1])),
    apart=(0, 1),
    prices=ElementwisePrices,
    size_name=lambda _label: "rows [tokens]",
)
