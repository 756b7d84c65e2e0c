"""Reads another tool's CSV by column names and the types they must have, never by position."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.csv as pacsv

from cluster_specs.errors import UserError
from cluster_specs.files.reading import MOST_DOCUMENT_BYTES
from profiles_db.parquet_files import shown_reason

TEXT: Final = pa.string()
COUNT: Final = pa.int64()
NUMBER: Final = pa.float64()
FLAG: Final = pa.bool_()


def read_csv(
    path: Path, required: Mapping[str, pa.DataType], optional: Mapping[str, pa.DataType] | None = None
) -> pa.Table:
    """Read a CSV file with a header, empty cells as nulls.

    Raises ``UserError`` naming the file and the column that is missing, or the row and value that do not fit.
    """
    kinds = {**required, **(optional or {})}
    options = pacsv.ConvertOptions(column_types=kinds, strings_can_be_null=True)
    try:
        size = path.stat().st_size
        table = pacsv.read_csv(path, convert_options=options) if size <= MOST_DOCUMENT_BYTES else pa.table({})
        names = table.column_names  # decoded only when asked for
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: cannot be read as CSV: {shown_reason(error)}", hint="it must be UTF-8 text with a header"
        ) from error
    if size > MOST_DOCUMENT_BYTES:
        raise UserError(f"{path}: is larger than {MOST_DOCUMENT_BYTES} bytes, the most that is read of such a file")
    if len(set(names)) < len(names):
        raise UserError(f"{path}: the header names a column twice")
    missing = [name for name in required if name not in names]
    if missing:
        found = ", ".join(name[:40] for name in names[:12])
        raise UserError(f"{path}: column {missing[0]!r} is missing", hint=f"columns found: {found}")
    return table


def csv_files(root: Path) -> list[Path]:
    """Return CSV files under a folder, or the file itself; raises ``UserError`` when there is none."""
    if root.is_file():
        return [root]
    found = sorted(root.rglob("*.csv"))
    if not found:
        raise UserError(f"{root}: no CSV files there")
    return found
