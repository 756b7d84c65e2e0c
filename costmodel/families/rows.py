"""Measured rows of any family as ops, as input of a fit, and as work; what they mean the family says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from costmodel.families.family import Columns, OpFamily, knot_op
from costmodel.fitted.calibration import Calls
from costmodel.fitted.measured_rows import MeasuredRows
from costmodel.ops.arrays import Array
from costmodel.ops.label import Label, at_clocks, parsed_labels
from costmodel.ops.op_types import Op
from costmodel.pricing.price_points import work_sides

if TYPE_CHECKING:
    from cluster_specs.cluster import ClusterSpec

Rows = NDArray[np.int64]


def texts(columns: Columns, name: str) -> NDArray[np.str_]:
    """Return a column of names."""
    return columns[name].astype(np.str_)


def numbers(columns: Columns, name: str) -> Array:
    """Return a column of numbers as floats."""
    return columns[name].astype(np.float64)


def taken(columns: Columns, rows: NDArray[np.bool_] | Rows) -> Columns:
    """Keep some rows."""
    return {name: column[rows] for name, column in columns.items()}


def iter_row_ops(family: OpFamily, columns: Columns, cluster: ClusterSpec) -> Iterator[tuple[Op, Rows]]:
    """Yield ops that together stand for all rows of one family, each with the rows it stands for."""
    from profiles_db.schema import FAMILIES

    columns = family.sized(columns)
    group = np.zeros(len(columns["latency_s"]), dtype=np.int64)
    for name in family.fixed:
        codes = np.unique(columns[name], return_inverse=True)[1].ravel()
        group = np.unique(group * (int(codes.max(initial=0)) + 1) + codes, return_inverse=True)[1].ravel()
    order = np.argsort(group, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if len(rows):
            sizes = {name: columns[name][rows] for name in FAMILIES[family.name].shape_columns}
            fixed = {name: columns[name][rows[0]].item() for name in family.fixed}
            yield family.op_of(sizes | fixed, cluster), rows


def measured_rows(family: OpFamily, columns: Columns, cluster: ClusterSpec) -> MeasuredRows:
    """Turn usable rows into a fit's input; the clock joins the label."""
    found = family.knot_rows(columns, cluster)
    label = at_clocks(found.label, numbers(found.columns, "clock_mhz"))
    y = np.ones_like(found.x) if found.y is None else found.y
    sides = found.sides or row_sides(family, found.label, found.shape, found.x, y, cluster=cluster)
    return MeasuredRows(
        family=family.name,
        features=family.features,
        label=label,
        shape=found.shape,
        x=found.x,
        y=y,
        latency_s=numbers(found.columns, "latency_s"),
        flop_s=sides[0],
        bytes_s=sides[1],
        efficiency=efficiencies(family, parsed_labels(np.unique(label).tolist()).values(), cluster),
        is_estimate=np.zeros(len(found.x), dtype=bool),
    )


def efficiencies(family: OpFamily, labels: Iterable[Label], cluster: ClusterSpec) -> dict[str, tuple[float, float]]:
    """Return the efficiencies that stand in where a label has too few calls of one kind, by its text."""
    return {label.text: family.efficiency(label, cluster) for label in labels}


def row_sides(
    family: OpFamily, label: NDArray[np.str_], shape: Array, x: Array, y: Array, *, cluster: ClusterSpec
) -> tuple[Array, Array]:
    """FLOP time and byte time at the stated peaks of rows [rows] of any labels and shapes [rows, features]."""
    flop_s, bytes_s = np.empty_like(x), np.empty_like(x)
    keys = np.column_stack([shape, np.unique(label, return_inverse=True)[1]])
    _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    for index, row in enumerate(first.tolist()):
        own = which.ravel() == index
        op = knot_op(family, Label.parse(str(label[row])), shape[row].tolist(), x[own], y[own], cluster=cluster)
        flop_s[own], bytes_s[own] = work_sides(op, cluster)
    return flop_s, bytes_s


def timed_calls(
    family: OpFamily,
    columns: Columns,
    cluster: ClusterSpec,
    sides: Callable[[Op, ClusterSpec], tuple[Array, Array]] = work_sides,
) -> Calls:
    """Return what rows took and what work they were."""
    count = len(columns["latency_s"])
    flop_s, bytes_s = np.zeros(count), np.zeros(count)
    for op, rows in iter_row_ops(family, columns, cluster):
        flop_s[rows], bytes_s[rows] = sides(op, cluster)
    origins = sorted(set(columns["origin"].astype(np.str_).tolist()))
    frameworks = sorted(set(columns["framework"].astype(np.str_).tolist()) - {""})
    return Calls(
        latency_s=numbers(columns, "latency_s"),
        flop_s=flop_s,
        bytes_s=bytes_s,
        source=", ".join([*origins, *frameworks]),
    )
