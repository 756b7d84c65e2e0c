"""Writes rows for other tools: CSV, JSON lines of one array, or Parquet, whole or not at all."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.files.whole import write_text, write_whole
from profiles_db.parquet_files import write_parquet


def form_of(output: Path, form: str | None = None) -> str:
    """Return csv, json or parquet: as asked for, else as the suffix says; raises ``UserError`` for any other."""
    chosen = form or output.suffix.removeprefix(".").lower()
    if chosen not in {"csv", "json", "parquet"}:
        raise UserError(f"{output}: cannot export as {shown(chosen)}", hint="use --format csv, json or parquet")
    return chosen


def export(table: pa.Table, output: Path, form: str | None = None) -> None:
    """Write ``table`` in ``form`` (default: the suffix of ``output``).

    Raises ``UserError`` for any other form, ``OutputError`` where the file cannot be written.
    """
    chosen = form_of(output, form)
    if chosen == "parquet":
        write_parquet(table, output)
    elif chosen == "csv":
        write_whole(output, lambda stream: pacsv.write_csv(table, stream))
    else:
        write_text(output, json.dumps(table.to_pylist(), default=str) + "\n")
