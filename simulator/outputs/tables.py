"""Columns with their units, as every Parquet file of a simulation has them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from profiles_db.parquet_files import write_parquet
from profiles_db.schema import unit_of

SCHEMA_VERSION: Final = 1
PS: Final = 1e-12  # seconds


def unit_table(columns: Mapping[str, pa.Array | NDArray[np.generic]], *, kind: str) -> pa.Table:
    """Build a table whose fields carry the unit their name ends in; NaN becomes null. ``kind`` is kept in the file."""
    arrays = [pa.array(column, from_pandas=True) for column in columns.values()]
    fields = []
    for name, array in zip(columns, arrays, strict=True):
        unit = unit_of(name)
        fields.append(pa.field(name, array.type, metadata={"unit": unit} if unit else None))
    metadata = {"apex_table": kind, "apex_schema_version": str(SCHEMA_VERSION)}
    return pa.table(arrays, schema=pa.schema(fields, metadata=metadata))


def write_table(table: pa.Table, path: Path) -> None:
    """Write Parquet whole or not at all; raises ``OutputError``."""
    write_parquet(table, path)
