"""Every row an importer reads is either kept or dropped with a reason, and both are counted.

``rows in = kept + sum of dropped`` holds for every table and is checked when the count is closed.
"""

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from profiles_db.repeats import repeat_spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeatability:
    """How well keys measured more than once agree: (max - min) / median per key, as fractions."""

    keys: int
    rows: int
    median_frac: float
    p90_frac: float
    p99_frac: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCount:
    """What became of one foreign table; ``family`` is None where the schema cannot hold it."""

    table: str
    family: str | None
    rows_in: int
    kept: int
    dropped: Mapping[str, int]
    notes: tuple[str, ...] = ()
    repeats: Repeatability | None = None

    def __post_init__(self) -> None:
        """Rows must be accounted for one by one."""
        assert self.rows_in == self.kept + sum(self.dropped.values()), self


@dataclass(slots=True)
class Sieve:
    """A foreign table losing rows for counted reasons."""

    table: pa.Table
    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def column(self, name: str) -> pa.ChunkedArray:
        """Column of the rows still in."""
        return self.table[name]

    def drop(self, bad: pa.ChunkedArray | NDArray[np.bool_], reason: str) -> None:
        """Take out the rows where ``bad`` is true; a null counts as not bad."""
        mask = pc.fill_null(pa.array(bad) if isinstance(bad, np.ndarray) else bad, False)
        count = pc.sum(mask).as_py() or 0
        if count:
            self.dropped[reason] += count
            self.table = self.table.filter(pc.invert(mask))

    def drop_unfit_latency(self, column: str = "latency") -> None:
        """Take out latencies that no measurement can have."""
        latency = self.column(column)
        self.drop(pc.is_null(latency), "latency missing")
        self.drop(pc.invert(pc.is_finite(self.column(column))), "latency not finite")
        self.drop(pc.less_equal(self.column(column), 0), "latency zero or negative")

    def drop_unfit_sizes(self, *columns: str, least: int = 1) -> None:
        """Take out rows in which a size is missing or too small for any op."""
        for name in columns:
            self.drop(pc.is_null(self.column(name)), f"{name} missing")
            self.drop(pc.less(self.column(name), least), f"{name} below {least}")

    def drop_missing(self, *columns: str) -> None:
        """Take out rows in which a label is missing."""
        for name in columns:
            self.drop(pc.is_null(self.column(name)), f"{name} missing")

    def drop_unknown_formats(self, column: str, names: Container[str]) -> None:
        """Take out number formats that ``names`` does not translate, each counted by its foreign name."""
        self.drop_missing(column)
        for value in pc.unique(self.column(column)).to_pylist():
            if value not in names:
                self.drop(pc.equal(self.column(column), value), f"number format {value} has no counterpart")

    def drop_all(self, reason: str) -> None:
        """Take out everything that is left."""
        self.drop(np.ones(self.table.num_rows, dtype=np.bool_), reason)


def repeatability(table: pa.Table, key_columns: tuple[str, ...]) -> Repeatability | None:
    """Agreement of the repeated keys of ``table``, None where nothing was repeated."""
    repeats = repeat_spread(table, key_columns)
    if not len(repeats.spread):
        return None
    median, p90, p99 = np.percentile(repeats.spread, [50, 90, 99])
    return Repeatability(
        keys=len(repeats.spread),
        rows=repeats.rows,
        median_frac=float(median),
        p90_frac=float(p90),
        p99_frac=float(p99),
    )
