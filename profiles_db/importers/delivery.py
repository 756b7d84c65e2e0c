"""The last step of every importer: run and rows into the store, once, and the count of what became of a table."""

from collections.abc import Mapping
from datetime import UTC, datetime

import pyarrow as pa

from cluster_specs.errors import OutputError, UserError
from profiles_db.importers.counting import Sieve, TableCount, repeatability
from profiles_db.repeats import without_keys_of
from profiles_db.schema import FAMILIES
from profiles_db.store import Store


def record_run(store: Store, run: Mapping[str, object], started: datetime) -> None:
    """Record an import as a run that ends now, unless an earlier import of the same did."""
    device, run_id = str(run["device"]), run["run_id"]
    with store.writing():
        if run_id not in store.runs(device)["run_id"].to_pylist():
            store.append_run({**run, "started_at": started, "ended_at": datetime.now(UTC)})


def deliver(store: Store, rows: pa.Table, sieve: Sieve, *, label: str, family: str, run_id: str) -> TableCount:
    """Append the rows that ``store`` does not hold from the same run yet, so that an import can be repeated.

    ``rows`` are what is left of ``sieve``'s table, mapped to ``family``. Imports of the same at once wait for one
    another, so that each row is stored by one of them.
    """
    key_columns = FAMILIES[family].key_columns
    repeats = repeatability(rows, key_columns)
    with store.writing():
        fresh = rows
        for device in rows["device"].unique().to_pylist():
            present = store.read(family, device=device, statuses=None, where={"run_id": run_id})
            fresh = without_keys_of(fresh, present, (*key_columns, "latency_s"))
        if fresh.num_rows < rows.num_rows:
            sieve.dropped["already in the store"] += rows.num_rows - fresh.num_rows
        if fresh.num_rows:
            try:
                store.append(family, fresh, run_id)
            except OutputError:
                raise
            except UserError as error:
                raise UserError(f"{label}: {error}", hint=error.hint) from error
    return TableCount(
        table=label,
        family=family,
        rows_in=fresh.num_rows + sum(sieve.dropped.values()),
        kept=fresh.num_rows,
        dropped=dict(sieve.dropped),
        notes=tuple(sieve.notes),
        repeats=repeats,
    )
