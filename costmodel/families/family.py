"""What is special about one op family, as one value that fitting, pricing and comparing ask.

Rows are measurements (``profiles_db.schema``), a *knot* is a measured point as a fit keeps it: a label and a shape say
what was run, ``x`` and (for two running sizes) ``y`` how much of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.cost_model import Prediction
from costmodel.fitted.calibration import Calibrated
from costmodel.fitted.knots import FamilyKnots
from costmodel.ops.arrays import Array
from costmodel.ops.label import Label
from costmodel.ops.op_types import Op
from costmodel.pricing.price_points import Pricing

if TYPE_CHECKING:
    from cluster_specs.cluster import ClusterSpec

# Distinct points that a fit of one label needs: the reference has three constants, the rest is what can be held out.
FEWEST_POINTS: Final = 6
Columns = Mapping[str, NDArray[np.generic]]
# A row of a shape manifest: the columns by which the profiler runs a point and the fit finds it again.
Row = dict[str, object]
# Values of an op's fields by column name: one each, or arrays.
Sizes = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnotRows:
    """Measured rows as input of a fit, clock aside; all arrays are [rows].

    ``columns`` are those the parts were taken from: a family may use a row twice. ``sides`` are the times at the stated
    peaks of arithmetic and of bytes, where the family counts them itself.
    """

    columns: Columns
    label: NDArray[np.str_]
    shape: Array  # [rows, features]
    x: Array
    y: Array | None = None
    sides: tuple[Array, Array] | None = None


class Prices(Protocol):
    """Prices of one family from its knots."""

    def predict(self, op: Op) -> Prediction | None:
        """Price an op; None where nothing like it was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How a surface is drawn: along y or along x, and what the held size counts."""

    is_along_y: bool
    held_unit: str


def all_usable(columns: Columns, cluster: ClusterSpec) -> NDArray[np.bool_]:  # noqa: ARG001 - one signature for all families
    """Every row has a place."""
    return np.ones(len(columns["latency_s"]), dtype=bool)


def own_sizes(columns: Columns) -> Columns:
    """Take the columns as they are."""
    return columns


def plain_rows(op: Op, **more: object) -> Iterator[Row]:
    """Yield an op's own fields, point by point, and ``more`` columns, as rows of a shape manifest."""
    names = [field.name for field in fields(op)]
    columns = np.broadcast_arrays(*(np.asarray(getattr(op, name)).ravel() for name in names))
    for values in zip(*(_integers(column) for column in columns), strict=True):
        yield {**dict(zip(names, values, strict=True)), **more}


def _integers(column: NDArray[np.generic]) -> list[object]:
    """Plain values; sizes prepared as floats are whole."""
    is_float = np.issubdtype(column.dtype, np.floating)
    values: list[object] = (np.rint(column).astype(np.int64) if is_float else column).tolist()
    return values


def own_rows(op: Op, cluster: ClusterSpec) -> Iterator[Row]:  # noqa: ARG001
    """Yield an op's own fields, and its phase where it has one, as rows of a shape manifest."""
    phase = getattr(op, "phase", None)
    return plain_rows(op) if phase is None else plain_rows(op, phase=phase)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpFamily:
    """One op family; every field that is a function takes and returns values of this family alone."""

    name: str
    op: type[Op]

    # Measured rows.
    # Columns that alternatives have in common: one framework is chosen for each of their values.
    alternatives: tuple[str, ...]
    # State of weights and operands in a serving step.
    cache: str = "cold"
    # Whether a point has one kernel; otherwise `usable` says which of several runs where.
    has_one_kernel: bool = True
    # Parts of a label by which an engine chooses its kernel (`costmodel.families.kernels`); empty: not told apart.
    kernel_choice: tuple[str, ...] = ()
    # Columns that say what lies inside a time: a fit holds one combination of them per choice of kernel.
    contract: tuple[str, ...] = ()
    # Columns that are one value within an op; its other fields are arrays.
    fixed: tuple[str, ...]
    sized: Callable[[Columns], Columns] = own_sizes
    op_of: Callable[[Sizes, ClusterSpec | None], Op]
    # Rows of a shape manifest, one per point of an op; what the op leaves open is chosen as engines do it.
    manifest_rows: Callable[[Any, ClusterSpec], Iterator[Row]] = own_rows
    usable: Callable[[Columns, ClusterSpec], NDArray[np.bool_]] = all_usable
    not_usable: str = ""

    # Knots.
    label_parts: tuple[str, ...]
    features: tuple[str, ...]
    knot_rows: Callable[[Columns, ClusterSpec], KnotRows]
    # The op's fields that run, from x and y.
    running: Callable[[Label, Array, Array], Sizes]
    # Shares of the stated peaks of arithmetic and bytes that a label reaches where too few calls say so.
    efficiency: Callable[[Label, ClusterSpec], tuple[float, float]]

    # Fitting.
    # Who lends to a shape: indices of measured shapes [shapes, features] and their weights.
    lend: Callable[[Array, Array], tuple[NDArray[np.int64], Array]]
    # Shift of each lender's ln x, so that both shapes are compared at equal work.
    log_shift: Callable[[Array, Array], Array] | None = None
    # Held-out question: a shape counts as another where one of these features differs.
    apart: tuple[int, ...]
    # Labels that share so many leading parts learn from each other; None: those that share all.
    learns_across: int | None = None
    is_filled: bool = True
    # Counts [rows, any] of what kernels cut a call of a shape [rows, features] and size x [rows] into.
    blocks: Callable[[Array, Array], Array] | None = None
    # Every model asks for it: a database without rows of it is reported as such.
    is_in_every_model: bool = True
    # Time never falls along a curve: its noise is larger than its steps.
    is_monotone: bool = False
    # Corrections of what is derived, from the rows that have no place among the knots.
    with_derived: Callable[[OpFamily, FamilyKnots, Columns, ClusterSpec], FamilyKnots] | None = None
    # Constants of the analytic model that the family's rows tell.
    calibrate: Callable[[OpFamily, Columns, ClusterSpec], Iterable[Calibrated]] | None = None

    # Pricing.
    prices: Callable[[OpFamily, FamilyKnots, Pricing], Prices]
    # The level of links a label ran on; None for families that run inside one device.
    level: Callable[[Label], str] | None = None

    # Comparing.
    size_name: Callable[[Label], str]
    cut: Callable[[Label], Cut] | None = None
    # A shape [features] in words, where the names of the features say little.
    shape_name: Callable[[Label, Sequence[float]], str] | None = None
    # Sizes to draw a curve at, of evenly spread ones and those measured.
    drawn_at: Callable[[Label, Array, Array], Array] | None = None
    figures: tuple[str, ...] = ("curves",)

    def part(self, label: Label, name: str) -> str:
        """Return a part of a label by its name."""
        return label.parts[self.label_parts.index(name)]


def siblings(family: OpFamily, shapes: Array, shape: Array) -> NDArray[np.bool_]:
    """Whether each of ``shapes`` [shapes, features] is ``shape`` in every feature by which shapes count as others.

    Attention of the same heads with another window, experts of the same model otherwise sharded.
    """
    apart = list(family.apart)
    return np.asarray(np.all(shapes[:, apart] == shape[apart], axis=1))


def rest_of(family: OpFamily) -> list[int]:
    """Features that make no shape another: head size and window, how experts are sharded."""
    return [index for index in range(len(family.features)) if index not in family.apart]


def op_from(kind: type[Op], sizes: Sizes) -> Any:
    """Build an op from those of ``sizes`` that are its fields."""
    return kind(**{field.name: sizes[field.name] for field in fields(kind) if field.name in sizes})


def knot_op(family: OpFamily, label: Label, shape: Sequence[float], x: Array, y: Array, *, cluster: ClusterSpec) -> Op:
    """Return the op of ``shape`` (the family's features, in order) at sizes ``x`` and ``y`` as its knots count them."""
    sizes: dict[str, Any] = dict(zip(family.label_parts, label.parts, strict=True))
    sizes |= {name: _whole(size) for name, size in zip(family.features, shape, strict=True)}
    return family.op_of(sizes | dict(family.running(label, x, y)), cluster)


def _whole(size: float) -> float:
    return int(size) if float(size).is_integer() else float(size)
