"""Parquet traces as chunks of Arrow columns; what a file would take is read from its metadata first."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from cluster_specs.errors import UserError
from cluster_specs.files.shown import listed, shown
from simulator.workload.columns import MOST_BLOCK_IDS, RawChunk
from simulator.workload.traces.media_columns import MEDIA_KEYS

# One row group's share of the columns read is in memory at a time.
_MOST_GROUP_BYTES: Final = 2**28
_MOST_TEXT_BYTES: Final = 1_024  # of one date or one name of a request
_AGAIN: Final = "write it again"


def is_parquet(path: Path) -> bool:
    """Whether a file starts as Parquet files do."""
    try:
        with path.open("rb") as stream:
            return stream.read(4) == b"PAR1"
    except OSError:
        return False


@contextmanager
def _file(path: Path, *, text_keys: Sequence[str] = ()) -> Iterator[Any]:
    """Open a Parquet file; every failure of the format, also while reading, is a UserError.

    Columns ``text_keys`` come as dictionaries: one long text in every row is then there once.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, read_dictionary=list(text_keys)) as file:
            yield file
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file", hint="check the path") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged or not a Parquet file: {shown(str(error), 200)}", hint=_AGAIN) from error


def parquet_keys(path: Path) -> list[str]:
    """Return the column names of a Parquet trace."""
    with _file(path) as file:
        return list(file.schema_arrow.names)


def parquet_metadata(path: Path, key: str) -> bytes | None:
    """Return what the file's own metadata holds under ``key``."""
    with _file(path) as file:
        found: bytes | None = (file.schema_arrow.metadata or {}).get(key.encode())
        return found


def count_rows(path: Path) -> int:
    """Return how many rows the file says it has."""
    with _file(path) as file:
        return int(file.metadata.num_rows)


def iter_parquet(
    path: Path, required: Sequence[str], optional: Sequence[str], chunk_requests: int
) -> Iterator[RawChunk]:
    """Yield the rows of a Parquet trace as columns, ``chunk_requests`` at a time."""
    with _file(path) as file:
        keys, text_keys = _columns(path, file.schema_arrow, required, optional)
        _check_size(path, file.metadata, keys)
    first = 1
    with _file(path, text_keys=text_keys) as file:
        for batch in file.iter_batches(batch_size=chunk_requests, columns=keys):
            line = np.arange(first, first + batch.num_rows, dtype=np.int64)
            values = {key: _plain(path, first, key, batch.column(key)) for key in keys}
            yield RawChunk(path=str(path), line=line, values=values)
            first += batch.num_rows


def _columns(path: Path, schema: Any, required: Sequence[str], optional: Sequence[str]) -> tuple[list[str], list[str]]:
    """Columns to read, and those of them that hold text."""
    import pyarrow as pa

    names = schema.names
    for key in required:
        if key not in names:
            raise UserError(f"{path}: has no column {shown(key)}", hint=f"its columns are {listed(names)}")
    keys = [*required, *(key for key in optional if key in names)]
    text_keys = []
    for key in keys:
        if names.count(key) > 1:
            raise UserError(f"{path}: column {shown(key)} appears {names.count(key)} times, must appear once")
        kind = schema.field(key).type
        _check_type(path, key, kind, is_list_allowed=key not in required)
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            text_keys.append(key)
    return keys, text_keys


def _check_type(path: Path, key: str, kind: Any, *, is_list_allowed: bool) -> None:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    holds_media = is_list and key in MEDIA_KEYS  # whose entries their own reader checks
    holds_ids = is_list and pa.types.is_integer(kind.value_type)
    if pa.types.is_nested(kind) and not (is_list_allowed and (holds_ids or holds_media)):
        raise UserError(
            f"{path}: column {shown(key)} is of type {shown(str(kind))}, must hold one number or text per row"
        )


def _check_size(path: Path, metadata: Any, keys: Sequence[str]) -> None:
    """Refuse by its metadata a file that would take far more memory than it takes on disk."""
    elements: dict[str, int] = {}
    for group in range(metadata.num_row_groups):
        own = metadata.row_group(group)
        bytes_of_group = 0
        for number in range(own.num_columns):
            column = own.column(number)
            path_of = column.path_in_schema
            name = next((key for key in keys if path_of == key or path_of.startswith(f"{key}.")), None)
            if name is not None:
                bytes_of_group += column.total_uncompressed_size
                if path_of != name:
                    elements[name] = elements.get(name, 0) + column.num_values
        if bytes_of_group > _MOST_GROUP_BYTES:
            raise UserError(
                f"{path}: row group {group + 1} takes {bytes_of_group} bytes unpacked, at most "
                f"{_MOST_GROUP_BYTES} are read",
                hint="write it in smaller row groups",
            )
    for name, count in elements.items():
        if count > MOST_BLOCK_IDS:
            raise UserError(f"{path}: {shown(name)} holds {count:,} values, at most {MOST_BLOCK_IDS:,} are read")


def _plain(path: Path, first: int, key: str, column: Any) -> Any:
    """Values of one batch without dictionaries and decimals."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_decimal(column.type):
        return column.cast(pa.float64())
    if not pa.types.is_dictionary(column.type):
        return column
    words = column.dictionary
    is_text = pa.types.is_string(words.type) or pa.types.is_large_string(words.type)
    longest = pc.max(pc.binary_length(words)).as_py() if is_text and len(words) else 0
    if longest is not None and longest > _MOST_TEXT_BYTES:
        raise UserError(
            f"{path}: column {shown(key)} holds a text of {longest} bytes from row {first} on, at most "
            f"{_MOST_TEXT_BYTES} are read",
            hint="name another column with --column",
        )
    return column.dictionary_decode()
