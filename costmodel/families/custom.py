"""Ops of a person's own kernels: for one op and its sizes a curve in the amount that runs.

A row carries the counts of its op, and so does a knot, as features of its shape beside the sizes: a fit is made, priced
and drawn without the extension that the op came from. Sizes lend by their distance; counts only follow from them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from costmodel.cost_model import Prediction
from costmodel.families.family import Columns, KnotRows, OpFamily, Sizes, op_from
from costmodel.families.knot_prices import KnotPrices
from costmodel.families.lending import nearest_in_octaves
from costmodel.families.rows import numbers, texts
from costmodel.fitted.knots import FamilyKnots
from costmodel.ops.arrays import Array
from costmodel.ops.custom import Custom, sizes_in, sizes_text
from costmodel.ops.label import Label, joined
from costmodel.ops.op_types import Op
from costmodel.pricing.curves import Curve
from costmodel.pricing.price_points import Pricing

if TYPE_CHECKING:
    from cluster_specs.cluster import ClusterSpec

_COUNTS: Final = ("unit_flop", "call_bytes", "unit_bytes")
_NUMBERED: Final = ("size_1", "size_2", "size_3")  # the first sizes, in the order of their names
_FEATURES: Final = (*_NUMBERED, *_COUNTS)
_PARTS: Final = ("op", "size_names", "other_sizes", "amount_of", "dtype")
_ABSENT: Final = 1.0  # of an op with fewer sizes: no distance between two such shapes
_NO_OTHERS: Final = "-"


def _told_apart(text: str) -> tuple[str, str, tuple[float, ...]]:
    """Names of the first sizes, the text of the others, and the first ones' values, as many as there are features."""
    sizes = sizes_in(text)
    first = dict(list(sizes.items())[: len(_NUMBERED)])
    others = {name: value for name, value in sizes.items() if name not in first}
    values = (*map(float, first.values()), *[_ABSENT] * (len(_NUMBERED) - len(first)))
    return ",".join(first), sizes_text(others) or _NO_OTHERS, values


def _sizes_of(parts: Sizes) -> str:
    """Put sizes together again from the parts of a label and the features of a shape."""
    names, others = str(parts["size_names"]).split(","), str(parts["other_sizes"])
    first = sizes_text({name: int(parts[column]) for name, column in zip(names, _NUMBERED, strict=False)})
    return first if others == _NO_OTHERS else f"{first} {others}"


def _op_of(sizes: Sizes, cluster: ClusterSpec | None) -> Custom:  # noqa: ARG001 - one signature for all families
    """Build an op of the columns of rows, or of the parts and features of a label's shape."""
    found: Custom = op_from(Custom, sizes if "sizes" in sizes else {**sizes, "sizes": _sizes_of(sizes)})
    return found


def _knot_rows(columns: Columns, cluster: ClusterSpec) -> KnotRows:  # noqa: ARG001
    text = texts(columns, "sizes")
    known = {one: _told_apart(one) for one in np.unique(text).tolist()}
    names, others = (np.asarray([known[one][part] for one in text.tolist()], dtype=np.str_) for part in (0, 1))
    counts = [numbers(columns, name) for name in _COUNTS]
    return KnotRows(
        columns=columns,
        label=joined(texts(columns, "op"), names, others, texts(columns, "amount_of"), texts(columns, "dtype")),
        shape=np.column_stack([np.asarray([known[one][2] for one in text.tolist()]), *counts]),
        x=numbers(columns, "amount"),
    )


def _lend(measured: Array, shape: Array) -> tuple[NDArray[np.int64], Array]:
    return nearest_in_octaves(measured[:, : len(_NUMBERED)], shape[: len(_NUMBERED)])


def _efficiency(label: Label, cluster: ClusterSpec) -> tuple[float, float]:  # noqa: ARG001
    constants = cluster.device.analytic
    return constants.attention_efficiency.value, constants.memory_efficiency.value


class CustomPrices(KnotPrices):
    """Prices ops that were measured by name."""

    def __init__(self, family: OpFamily, knots: FamilyKnots, pricing: Pricing) -> None:
        super().__init__(family, knots, pricing)
        self._curves: dict[tuple[Any, ...], Curve | None] = {}

    def predict(self, op: Op) -> Prediction | None:
        """Price an op; None when none of its name, sizes' names and format was measured."""
        assert isinstance(op, Custom)
        key = (op.op, op.sizes, op.amount_of, op.dtype, *(getattr(op, name) for name in _COUNTS))
        if key not in self._curves:
            self._curves[key] = self._prepare(op)
        curve = self._curves[key]
        return None if curve is None else curve.predict(np.maximum(np.asarray(op.amount, dtype=np.float64), 1.0))

    def _prepare(self, op: Custom) -> Curve | None:
        names, others, values = _told_apart(op.sizes)
        label = self.label_of(op.op, names, others, op.amount_of, op.dtype)
        if label is None:
            return None
        shape = (*values, *(float(getattr(op, name)) for name in _COUNTS))
        return Curve(self.curve_points(label, shape, lambda amount: replace(op, amount=amount)))


CUSTOM: Final = OpFamily(
    name="custom",
    op=Custom,
    alternatives=("op", "dtype"),
    fixed=("op", "sizes", "amount_of", "dtype", *_COUNTS),
    op_of=_op_of,
    label_parts=_PARTS,
    features=_FEATURES,
    knot_rows=_knot_rows,
    running=lambda _label, x, _y: {"amount": x},
    efficiency=_efficiency,
    lend=_lend,
    apart=tuple(range(len(_FEATURES))),
    is_in_every_model=False,
    prices=CustomPrices,
    size_name=lambda label: label.parts[_PARTS.index("amount_of")],
    shape_name=lambda label, shape: _sizes_of(dict(zip((*_PARTS, *_FEATURES), (*label.parts, *shape), strict=True))),
)
