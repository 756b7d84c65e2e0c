"""Two sets of measurements side by side: the ratio B / A of every point that both measured.

A *side* is a choice of rows: a device, an origin, a framework, a backend, a clock or another database. Points match if
their shape and number format are equal; columns on which two sides may rightly differ (device, backend, framework,
launch, cache, clock) match only when asked. Several rows of one side under one match key are alternatives (two
attention kernels, two frameworks): the fastest stands for the side, and how many keys had alternatives is reported.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.arrays import Array
from profiles_db.repeats import key_ids
from profiles_db.schema import CONTEXT, FAMILIES
from profiles_db.store import Store, open_store

if TYPE_CHECKING:
    import pandas as pd


# Keys of a side's text -> column of the measurements.
_SIDE_COLUMNS: Final[Mapping[str, str]] = {
    "device": "device",
    "origin": "origin",
    "framework": "framework",
    "backend": "backend",
    "dtype": "dtype",
    "clock": "clock_mhz",
    "run": "run_id",
}
# Latency of side A that divides a family's points into regions.
REGIONS: Final[tuple[tuple[str, float], ...]] = (("< 20 us", 20e-6), ("20-200 us", 200e-6), (">= 200 us", np.inf))


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Which rows one side is made of; ``label`` names it in tables and plots."""

    label: str
    db: Path | None
    where: Mapping[str, object]


def parse_side(text: str, db: Path | None) -> Side:
    """Read a side: a device name, a database folder, or ``key=value,...`` with the keys of `_SIDE_COLUMNS` and ``db``.

    Raises UserError naming the key and what is allowed.
    """
    if "=" not in text:
        return (
            Side(label=Path(text).name or text, db=Path(text), where={})
            if Path(text).is_dir()
            else Side(label=text, db=db, where={"device": text})
        )
    where: dict[str, object] = {}
    for item in text.split(","):
        key, _, value = (part.strip() for part in item.partition("="))
        if key == "db" and value:
            db = Path(value)
            if not db.is_dir():
                raise UserError(f"{text}: db is {value!r}, which is not a folder")
        elif key in _SIDE_COLUMNS and value:
            where[_SIDE_COLUMNS[key]] = _clock(text, value) if key == "clock" else value
        else:
            known = ", ".join(f"{name}=" for name in (*_SIDE_COLUMNS, "db"))
            raise UserError(f"{text}: {item!r} does not choose rows", hint=f"choose by {known}")
    return Side(label=text, db=db, where=where)


def _clock(text: str, value: str) -> float | None:
    if value == "unlocked":
        return None
    try:
        return float(value)
    except ValueError:
        raise UserError(f"{text}: clock is {value!r}, must be MHz or 'unlocked'") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyMatch:
    """Points of one family that both sides measured; ``keys`` holds the match columns, one row per point."""

    family: str
    keys: pa.Table
    latency_a_s: Array
    latency_b_s: Array
    only_a: int
    only_b: int
    alternatives_a: int
    alternatives_b: int

    @property
    def ratio(self) -> Array:
        """B / A: above 1, B is slower."""
        return self.latency_b_s / self.latency_a_s

    @property
    def dtypes(self) -> NDArray[np.str_]:
        """Number format of each point."""
        return np.asarray(self.keys["dtype"].to_pylist(), dtype=np.str_)


def match_sides(a: Side, b: Side, *, families: Sequence[str] = (), also: Sequence[str] = ()) -> list[FamilyMatch]:
    """Match the two sides' points family by family; ``also`` names further columns that must be equal.

    Raises UserError when a side has no row at all or the two share no point.
    """
    for column in also:
        if column not in CONTEXT:
            raise UserError(f"--match {column}: no such column", hint=f"choose from {', '.join(CONTEXT)}")
    chosen = families or tuple(FAMILIES)
    for family in chosen:
        if family not in FAMILIES:
            raise UserError(f"family {family!r} is not known", hint=f"choose from {', '.join(FAMILIES)}")
    stores = [open_store(side.db) for side in (a, b)]
    matches, rows = [], [0, 0]
    for family in chosen:
        tables = [read_side(store, side, family) for store, side in zip(stores, (a, b), strict=True)]
        rows = [total + table.num_rows for total, table in zip(rows, tables, strict=True)]
        if all(table.num_rows for table in tables):
            matches.append(_match(family, tables[0], tables[1], also))
    for side, store, count in zip((a, b), stores, rows, strict=True):
        if not count:
            devices = ", ".join(store.devices()) or "none"
            raise UserError(f"{side.label}: no measured row matches", hint=f"devices in {store.root}: {devices}")
    if not any(len(match.ratio) for match in matches):
        raise UserError(
            f"{a.label} and {b.label} share no point", hint="two sides match on equal shape and number format"
        )
    return matches


def read_side(store: Store, side: Side, family: str) -> pa.Table:
    """Return a side's timed rows of one family."""
    where = dict(side.where)
    device = where.pop("device", None)
    return store.read(family, device=None if device is None else str(device), where=where)


def _match(family: str, a: pa.Table, b: pa.Table, also: Sequence[str]) -> FamilyMatch:
    columns = [*FAMILIES[family].shape_columns, "dtype", *(name for name in also if name != "dtype")]
    both = pa.concat_tables([a.select([*columns, "latency_s"]), b.select([*columns, "latency_s"])])
    ids = key_ids(both, columns)
    latency_s = both["latency_s"].combine_chunks().to_numpy(zero_copy_only=False)
    count = int(ids.max()) + 1
    fastest, counts = np.full((2, count), np.inf), np.zeros((2, count), dtype=np.int64)
    side = (np.arange(len(ids)) >= a.num_rows).astype(np.int64)
    np.minimum.at(fastest, (side, ids), latency_s)
    np.add.at(counts, (side, ids), 1)
    shared = np.flatnonzero((counts > 0).all(axis=0))
    first = np.full(count, -1, dtype=np.int64)
    first[ids[::-1]] = np.arange(len(ids))[::-1]
    return FamilyMatch(
        family=family,
        keys=both.select(columns).take(pa.array(first[shared])),
        latency_a_s=fastest[0, shared],
        latency_b_s=fastest[1, shared],
        only_a=int(((counts[0] > 0) & (counts[1] == 0)).sum()),
        only_b=int(((counts[1] > 0) & (counts[0] == 0)).sum()),
        alternatives_a=int((counts[0, shared] > 1).sum()),
        alternatives_b=int((counts[1, shared] > 1).sum()),
    )


def ratio_rows(matches: Sequence[FamilyMatch]) -> list[dict[str, Any]]:
    """Summarise B / A per family, number format and region as rows of a table.

    A format whose points all lie in one region has the row of all points alone.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    edges = [0.0, *(high for _, high in REGIONS)]
    for match in matches:
        points = pd.DataFrame(
            {
                "dtype": match.dtypes,
                "region": pd.cut(match.latency_a_s, edges, right=False, labels=[name for name, _ in REGIONS]),
                "ratio": match.ratio,
            }
        )
        for dtype, own in points.groupby("dtype"):
            rows.append(_ratio_row(match.family, str(dtype), "all", own["ratio"]))
            regions = own.groupby("region", observed=True)["ratio"]
            if regions.ngroups > 1:
                rows += [_ratio_row(match.family, str(dtype), str(region), ratio) for region, ratio in regions]
    return rows


def _ratio_row(family: str, dtype: str, region: str, ratio: "pd.Series[float]") -> dict[str, Any]:
    return {
        "family": family,
        "dtype": dtype,
        "region": region,
        "points": len(ratio),
        **{f"ratio_p{100 * share:.0f}": float(ratio.quantile(share)) for share in (0.1, 0.5, 0.9)},
        "within_5_percent_frac": float(ratio.sub(1).abs().le(0.05).mean()),
    }


def widest_rows(matches: Sequence[FamilyMatch], count: int) -> list[dict[str, Any]]:
    """Return the ``count`` points per family whose B / A is farthest from 1, farthest first."""
    rows: list[dict[str, Any]] = []
    for match in matches:
        order = np.argsort(-np.abs(np.log(match.ratio)), kind="stable")[:count]
        for index, key in zip(order, match.keys.take(pa.array(order)).to_pylist(), strict=True):
            rows.append(
                {
                    "family": match.family,
                    "a_s": float(match.latency_a_s[index]),
                    "b_s": float(match.latency_b_s[index]),
                    "ratio": float(match.ratio[index]),
                    "point": " ".join(f"{name}={value}" for name, value in key.items()),
                }
            )
    return rows


def coverage_notes(a: Side, b: Side, matches: Sequence[FamilyMatch]) -> list[str]:
    """Say what did not match and where a side had alternatives, one sentence each."""
    notes = []
    for match in matches:
        notes.append(
            f"{match.family}: {len(match.ratio)} points in both, {match.only_a} only in {a.label}, "
            f"{match.only_b} only in {b.label}"
        )
        for side, alternatives in ((a, match.alternatives_a), (b, match.alternatives_b)):
            if alternatives:
                notes.append(
                    f"{match.family}: {alternatives} points of {side.label} have several rows (repeats, backends, "
                    "frameworks, launch modes); the fastest is shown"
                )
    return notes
