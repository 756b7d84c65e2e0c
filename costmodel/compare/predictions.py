"""What a cost model would have said about measurements it may not have seen: `apex compare FIT B`.

Each row of side B is priced as an op at the row's clock; errors are ln(predicted / measured), by where the price comes
from (a measured point repeated, fitted, borrowed from another shape, extrapolated, analytic). A row the fit was made
from would be repeated without error: it is priced held out, from its neighbours (`costmodel.compare.held_out_prices`).
"""

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from costmodel.compare.held_out_prices import HeldOutCosts
from costmodel.compare.sides import Side, read_side
from costmodel.cost_model import CostModel, Source
from costmodel.families.all import OP_FAMILIES
from costmodel.families.rows import iter_row_ops
from costmodel.ops.arrays import Array
from profiles_db.schema import FAMILIES
from profiles_db.store import open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedRows:
    """Rows of one family with their prices; ``keys`` holds what was run, all other arrays are [rows].

    ``seen`` says by ``Seen`` whether the fit was made from a row.
    """

    family: str
    keys: pa.Table
    dtype: NDArray[np.str_]
    source: NDArray[np.int8]
    seen: NDArray[np.int8]
    measured_s: Array
    predicted_s: Array
    low_s: Array
    high_s: Array

    @property
    def log_error(self) -> Array:
        """ln(predicted / measured)."""
        return np.asarray(np.log(self.predicted_s / self.measured_s))

    @property
    def is_judged(self) -> NDArray[np.bool_]:
        """Whether the row says anything about the model."""
        return np.asarray(self.seen != Seen.ALONE)

    def judged(self) -> "PricedRows":
        """Keep the rows that are judged."""
        own = self.is_judged
        return PricedRows(
            family=self.family,
            keys=self.keys.filter(pa.array(own)),
            dtype=self.dtype[own],
            source=self.source[own],
            seen=self.seen[own],
            measured_s=self.measured_s[own],
            predicted_s=self.predicted_s[own],
            low_s=self.low_s[own],
            high_s=self.high_s[own],
        )

    @property
    def is_inside(self) -> NDArray[np.bool_]:
        """Whether the measurement lies in the price's interval."""
        return (self.low_s <= self.measured_s) & (self.measured_s <= self.high_s)


class Seen(IntEnum):
    """What a fit knew of a row that it prices."""

    NO = 0
    HELD_OUT = 1  # the fit was made from it; priced without it
    ALONE = 2  # the fit was made from it, and no neighbour can say what it would take: not judged


_SEEN_TEXT: Final = {Seen.NO: "not seen", Seen.HELD_OUT: "seen, priced held out"}
# Files keep latencies whole; a table read twice may differ in the last digit.
_SAME_LATENCY: Final = 1e-9


def price_side(
    costs_at: Callable[[float | None], CostModel],
    side: Side,
    families: Sequence[str] = (),
    *,
    held_out_at: HeldOutCosts = lambda _clock: (),
    run_ids: Sequence[str] = (),
) -> list[PricedRows]:
    """Price every timed row of ``side``; ``costs_at`` gives the model at a locked clock (None: unlocked).

    A row whose very point the model has measured counts as seen if it is of one of ``run_ids`` or took as long;
    ``held_out_at`` gives the models that price it then.

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
            found.append(_priced(costs_at, held_out_at, family, table, run_ids))
    if not found:
        raise UserError(f"{side.label}: no timed row of device {device} in {store.root}")
    return found


def _priced(
    costs_at: Callable[[float | None], CostModel],
    held_out_at: HeldOutCosts,
    family: str,
    table: pa.Table,
    run_ids: Sequence[str],
) -> PricedRows:
    columns = {name: _column(table, name) for name in table.column_names}
    clocks, measured_s = columns["clock_mhz"].astype(np.float64), columns["latency_s"].astype(np.float64)
    of_fit = np.isin(columns["run_id"], list(run_ids))
    prices = np.full((3, table.num_rows), np.nan)
    source, seen = np.zeros((2, table.num_rows), dtype=np.int8)
    for clock in np.unique(clocks):  # NaN, the unlocked clock, is one value here
        at_clock = np.flatnonzero(np.isnan(clocks) if np.isnan(clock) else clocks == clock)
        locked = None if np.isnan(clock) else float(clock)
        costs, halves = costs_at(locked), held_out_at(locked)
        own = {name: column[at_clock] for name, column in columns.items()}
        for op, which in iter_row_ops(OP_FAMILIES[family], own, costs.cluster):
            rows = at_clock[which]
            price = costs.predict(op)
            is_same = np.abs(price.latency_s / measured_s[rows] - 1.0) < _SAME_LATENCY
            is_seen = (price.source == Source.MEASURED) & (of_fit[rows] | is_same) & bool(halves)
            prices[:, rows], source[rows] = (price.latency_s, price.low_s, price.high_s), price.source
            seen[rows[is_seen]] = Seen.ALONE
            for half in halves if is_seen.any() else ():
                unseen = half.predict(op)
                held = is_seen & (unseen.source != Source.MEASURED)
                prices[:, rows[held]] = unseen.latency_s[held], unseen.low_s[held], unseen.high_s[held]
                source[rows[held]], seen[rows[held]] = unseen.source[held], Seen.HELD_OUT
    return PricedRows(
        family=family,
        keys=table.select([*FAMILIES[family].shape_columns, "dtype", "backend"]),
        dtype=columns["dtype"].astype(np.str_),
        source=source,
        seen=seen,
        measured_s=measured_s,
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
    """Summarise errors per family, number format, source of the price and what was seen as rows of a table."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for priced in (whole.judged() for whole in found):
        points = pd.DataFrame(
            {
                "dtype": priced.dtype,
                "source": priced.source,
                "seen": priced.seen,
                "error": priced.log_error,
                "size": np.abs(priced.log_error),
                "is_inside": priced.is_inside,
            }
        )
        table = points.groupby(["dtype", "source", "seen"]).agg(
            points=("error", "size"),
            median_log=("size", "median"),
            p90_log=("size", lambda size: size.quantile(0.9)),
            bias_log=("error", "mean"),
            coverage_frac=("is_inside", "mean"),
        )
        for row in table.reset_index().to_dict("records"):
            source = Source(row.pop("source")).name.lower()
            rows_text = _SEEN_TEXT[Seen(row.pop("seen"))]
            head = {"family": priced.family, "dtype": row.pop("dtype"), "price": source, "rows": rows_text}
            rows.append(head | {str(name): value for name, value in row.items()})
    return rows


def worst_rows(found: Sequence[PricedRows], count: int) -> list[dict[str, Any]]:
    """Return the ``count`` rows per family that are priced worst, worst first."""
    rows: list[dict[str, Any]] = []
    for priced in (whole.judged() for whole in found):
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


def seen_notes(found: Sequence[PricedRows]) -> list[str]:
    """Say of each family how many rows the fit was made from."""
    notes = []
    for priced in found:
        held, alone = (int(np.count_nonzero(priced.seen == seen)) for seen in (Seen.HELD_OUT, Seen.ALONE))
        if held or alone:
            left_out = f"; {alone:,} more have no measured neighbours on both sides and are not judged" if alone else ""
            notes.append(f"{priced.family}: {held:,} of {len(priced.seen):,} rows seen, priced held out{left_out}")
    return notes


def _named(key: Mapping[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in key.items())
