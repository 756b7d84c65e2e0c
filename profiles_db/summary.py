"""What a store holds, in a few lines: counts per group, and the columns worth showing."""

from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from profiles_db.schema import FAMILIES
from profiles_db.store import Store
from profiles_db.validation import schema_of

_GROUP: Final = ("device", "backend", "dtype", "framework", "origin", "status")


def summarise(store: Store, *, device: str | None = None, family: str | None = None) -> list[dict[str, Any]]:
    """Count rows per device, family, backend, dtype, framework, origin and status, the order they are shown in."""
    if family is not None:
        schema_of(family)
    rows: list[dict[str, Any]] = []
    for name in FAMILIES if family is None else [family]:
        if name == "run":
            continue
        table = store.read(name, device=device, columns=_GROUP, statuses=None)
        grouped = table.group_by(list(_GROUP)).aggregate([([], "count_all")])
        order = [(column, "ascending") for column in _GROUP]
        rows += [
            {"family": name, **{key: row[key] for key in _GROUP}, "rows": row["count_all"]}
            for row in grouped.sort_by(order).to_pylist()
        ]
    return sorted(rows, key=lambda row: (row["device"], row["family"]))


def varying_columns(table: pa.Table) -> list[str]:
    """Columns in which the rows differ, all of them when there is at most one row."""
    if table.num_rows <= 1:
        return list(table.column_names)
    return [name for name in table.column_names if pc.count_distinct(table[name], mode="all").as_py() > 1]
