"""What a cost model would have said about measurements it may not have seen: `apex compare FIT B`.

Each row of side B is priced as an op at the row's clock; errors are ln(predicted / measured), by where the price comes
from (a measured point repeated, fitted, borrowed from another shape, extrapolated, analytic).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from costmodel.compare.sides import Side, read_side
from costmodel.cost_model import CostModel, Source
from costmodel.families.all import OP_FAMILIES
from costmodel.families.rows import iter_row_ops
from costmodel.ops.arrays import Array
from profiles_db.schema import FAMILIES
from profiles_db.store import open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedRows:
    """Rows of one family with their prices; ``keys`` holds what was run, all other arrays are [rows]."""

    family: str
    keys: pa.Table
    dtype: NDArray[np.str_]
    source: NDArray[np.int8]
    measured_s: Array
    predicted_s: Array
    low_s: Array
    high_s: Array

    @property
    def log_error(self) -> Array:
        """ln(predicted / measured)."""
        return np.asarray(np.log(self.predicted_s / self.measured_s))


def price_side(
    costs_at: Callable[[float | None], CostModel], side: Side, families: Sequence[str] = ()
) -> list[PricedRows]:
    """Price every timed row of ``side``; ``costs_at`` gives the model at a locked clock (None: unlocked).

    Raises UserError for an unknown family, or when the side has no row of the model's device.
    """
    for family in families:
        if family not in OP_FAMILIES:
            raise UserError(f"family {family!r} has no price", hint=f"choose from {', '.join(OP_FAMILIES)}")
    device = costs_at(None).cluster.device.name
    asked = side.where.get("device", device)
    if asked != device:
        raise UserError(f"{side.label}: rows are of device {asked}, the model is of {device}")
    store = open_store(side.db)
    pinned = Side(label=side.label, db=side.db, where={**side.where, "device": device})
    found = []
    for family in families or OP_FAMILIES:
        table = read_side(store, pinned, family)
        if table.num_rows:
            found.append(_priced(costs_at, family, table))
    if not found:
        raise UserError(f"{side.label}: no timed row of device {device} in {store.root}")
    return found


def _priced(costs_at: Callable[[float | None], CostModel], family: str, table: pa.Table) -> PricedRows:
    columns = {name: _column(table, name) for name in table.column_names}
    clocks = columns["clock_mhz"].astype(np.float64)
    prices = np.full((3, table.num_rows), np.nan)
    source = np.zeros(table.num_rows, dtype=np.int8)
    for clock in np.unique(clocks):  # NaN, the unlocked clock, is one value here
        at_clock = np.flatnonzero(np.isnan(clocks) if np.isnan(clock) else clocks == clock)
        costs = costs_at(None if np.isnan(clock) else float(clock))
        own = {name: column[at_clock] for name, column in columns.items()}
        for op, rows in iter_row_ops(OP_FAMILIES[family], own, costs.cluster):
            price = costs.predict(op)
            prices[:, at_clock[rows]] = price.latency_s, price.low_s, price.high_s
            source[at_clock[rows]] = price.source
    return PricedRows(
        family=family,
        keys=table.select([*FAMILIES[family].shape_columns, "dtype", "backend"]),
        dtype=columns["dtype"].astype(np.str_),
        source=source,
        measured_s=columns["latency_s"].astype(np.float64),
        predicted_s=prices[0],
        low_s=prices[1],
        high_s=prices[2],
    )


def _column(table: pa.Table, name: str) -> NDArray[np.generic]:
    column = table[name].combine_chunks()
    if pa.types.is_string(column.type):
        return np.asarray(["" if value is None else value for value in column.to_pylist()], dtype=np.str_)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def price_rows(found: Sequence[PricedRows]) -> list[dict[str, Any]]:
    """Summarise errors per family, number format and source of the price as rows of a table."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for priced in found:
        points = pd.DataFrame(
            {
                "dtype": priced.dtype,
                "source": priced.source,
                "error": priced.log_error,
                "size": np.abs(priced.log_error),
                "is_inside": (priced.low_s <= priced.measured_s) & (priced.measured_s <= priced.high_s),
            }
        )
        table = points.groupby(["dtype", "source"]).agg(
            points=("error", "size"),
            median_log=("size", "median"),
            p90_log=("size", lambda size: size.quantile(0.9)),
            bias_log=("error", "mean"),
            coverage_frac=("is_inside", "mean"),
        )
        for row in table.reset_index().to_dict("records"):
            source = Source(row.pop("source")).name.lower()
            head = {"family": priced.family, "dtype": row.pop("dtype"), "price": source}
            rows.append(head | {str(name): value for name, value in row.items()})
    return rows


def worst_rows(found: Sequence[PricedRows], count: int) -> list[dict[str, Any]]:
    """Return the ``count`` rows per family that are priced worst, worst first."""
    rows: list[dict[str, Any]] = []
    for priced in found:
        order = np.argsort(-np.abs(priced.log_error), kind="stable")[:count]
        for index, key in zip(order, priced.keys.take(pa.array(order)).to_pylist(), strict=True):
            rows.append(
                {
                    "family": priced.family,
                    "price": Source(priced.source[index]).name.lower(),
                    "predicted_s": float(priced.predicted_s[index]),
                    "measured_s": float(priced.measured_s[index]),
                    "ratio": float(priced.predicted_s[index] / priced.measured_s[index]),
                    "point": _named(key),
                }
            )
    return rows


def _named(key: Mapping[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in key.items())
