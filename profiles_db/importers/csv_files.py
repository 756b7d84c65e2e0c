"""Reads another tool's CSV by column names, never by position."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv

from profiles_db.errors import ProfilesError


def read_csv(path: Path, required: Sequence[str] = ()) -> pa.Table:
    """Read a CSV file with a header; raises ``ProfilesError`` naming the file and what is wrong with it."""
    try:
        table = pacsv.read_csv(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ProfilesError(f"{path}: cannot be read as CSV: {str(error).splitlines()[0]}") from error
    if len(set(table.column_names)) < len(table.column_names):
        raise ProfilesError(f"{path}: the header names a column twice")
    missing = [name for name in required if name not in table.column_names]
    if missing:
        found = ", ".join(table.column_names[:12])
        raise ProfilesError(f"{path}: column {missing[0]!r} is missing", hint=f"columns found: {found}")
    return table


def numbers(table: pa.Table, name: str, path: Path) -> pa.ChunkedArray:
    """Column as float64, empty cells null; raises ``ProfilesError`` where it holds text."""
    try:
        return table[name].cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ProfilesError(f"{path}: column {name!r} must hold numbers: {str(error).splitlines()[0]}") from error


def csv_files(root: Path) -> list[Path]:
    """Return CSV files under a folder, or the file itself; raises ``ProfilesError`` when there is none."""
    if root.is_file():
        return [root]
    found = sorted(root.rglob("*.csv"))
    if not found:
        raise ProfilesError(f"{root}: no CSV files there")
    return found
