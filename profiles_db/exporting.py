"""Writes rows for other tools: CSV, JSON lines of one array, or Parquet, whole or not at all."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv

from cluster_specs.errors import UserError
from profiles_db.parquet_files import write_atomically, write_text_atomically


def export(table: pa.Table, output: Path, form: str | None = None) -> None:
    """Write ``table`` in ``form`` (default: the suffix of ``output``); raises ``UserError`` for any other."""
    chosen = form or output.suffix.removeprefix(".").lower()
    if chosen == "parquet":
        write_atomically(table, output)
    elif chosen == "csv":
        buffer = io.BytesIO()
        pacsv.write_csv(table, buffer)
        write_text_atomically(buffer.getvalue().decode(), output)
    elif chosen == "json":
        write_text_atomically(json.dumps(table.to_pylist(), default=str) + "\n", output)
    else:
        raise UserError(f"{output}: cannot export as {chosen!r}", hint="use --format csv, json or parquet")
