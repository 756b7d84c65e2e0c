"""Columns with their units, as every Parquet file of a simulation has them."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cluster_specs.extras import require_extra
from cluster_specs.files.whole import write_whole
from profiles_db.parquet_files import write_parquet
from profiles_db.schema import unit_of

SCHEMA_VERSION: Final = 1
PS: Final = 1e-12  # seconds

Done = TypeVar("Done")


def unit_table(columns: Mapping[str, pa.Array | NDArray[np.generic]], *, kind: str) -> pa.Table:
    """Build a table whose fields carry the unit their name ends in; NaN becomes null. ``kind`` is kept in the file."""
    arrays = [pa.array(column, from_pandas=True) for column in columns.values()]
    fields = []
    for name, array in zip(columns, arrays, strict=True):
        unit = unit_of(name)
        fields.append(pa.field(name, array.type, metadata={"unit": unit} if unit else None))
    metadata = {"apex_table": kind, "apex_schema_version": str(SCHEMA_VERSION)}
    return pa.table(arrays, schema=pa.schema(fields, metadata=metadata))


def as_frame(table: pa.Table) -> Any:
    """Return a pandas DataFrame of ``table``; raises ``UserError`` where pandas is not installed."""
    require_extra("fit", "pandas", what="to_pandas()")
    return table.to_pandas()


def write_table(table: pa.Table, path: Path) -> None:
    """Write Parquet whole or not at all; raises ``OutputError``."""
    write_parquet(table, path)


def write_tables(path: Path, work: Callable[[Callable[[pa.Table], None]], Done]) -> Done:
    """Let ``work`` hand over tables of one schema, each written at once as a row group; return what ``work`` does.

    The file is written whole or not at all; raises ``OutputError``.
    """
    done: list[Done] = []

    def fill(stream: BinaryIO) -> None:
        with ExitStack() as stack:
            writers: list[pq.ParquetWriter] = []

            def write(table: pa.Table) -> None:
                if not writers:
                    writer = pq.ParquetWriter(stream, table.schema, compression="zstd", write_page_checksum=True)
                    writers.append(stack.enter_context(writer))
                if table.num_rows:
                    writers[0].write_table(table)

            done.append(work(write))

    write_whole(path, fill)
    return done[0]
