"""One Parquet file of the store: written whole or not at all, read whole or refused.

Page checksums make flipped bits as visible as a missing tail.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.files.whole import write_whole
from profiles_db.schema import SCHEMA_VERSION
from profiles_db.validation import conform

_ROWS_WORTH_THREADS: Final = 10_000

_ARROW_SCHEMA: Final = b"ARROW:schema"
_VERSION_KEY: Final = "apex_schema_version"
_FAMILY_KEY: Final = "apex_family"
_VERSION_DIGITS: Final = 9

# All public tables of one family of one device have 0.55 M rows; in memory a row takes some 300 bytes.
MOST_ROWS: Final = 2_000_000
_MOST_BYTES: Final = 2**30
_SPLIT: Final = "a measured or fitted table is far smaller: is this the right file?"


class DamagedFileError(UserError):
    """A file that is cut short, overwritten or otherwise not Parquet any more."""


def write_parquet(
    table: pa.Table,
    path: Path,
    *,
    compression_level: int | None = None,
    encodings: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
    hint: str = "",
) -> None:
    """Write ``table`` to ``path`` whole or not at all; raises ``OutputError`` when the disk refuses.

    Arrow keeps the metadata of a schema twice, the second time a third larger, and unpacks both when it opens the file:
    long texts are better given as ``metadata``, which only the file holds. `read_table` finds both. Columns without one
    of ``encodings`` are written with a dictionary.
    """
    chosen = dict(encodings or {})
    by_dictionary = [name for name in table.column_names if name not in chosen] if chosen else True

    def fill(stream: BinaryIO) -> None:
        with pq.ParquetWriter(
            stream,
            table.schema,
            compression="zstd",
            compression_level=compression_level,
            use_dictionary=by_dictionary,
            column_encoding=chosen or None,
            write_page_checksum=True,
        ) as writer:
            writer.write_table(table)
            if metadata:
                writer.add_key_value_metadata(metadata)

    write_whole(path, fill, **({"hint": hint} if hint else {}))


def read_table(
    path: Path, *, columns: Sequence[str] | None = None, most_rows: int = MOST_ROWS, verify_pages: bool = False
) -> pa.Table:
    """Read a Parquet file whole, or those of ``columns`` it has; what it would take is read from its metadata first.

    Raises ``DamagedFileError`` for a file that cannot be read to its end, ``UserError`` for one that names a column
    twice or states more rows or bytes than such a file can have, ``FileNotFoundError`` for none.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=verify_pages, pre_buffer=False) as file:
            _refuse_excess(path, file.metadata, most_rows)
            # Starting threads costs more than reading a few rows.
            table = file.read(columns, use_threads=file.metadata.num_rows > _ROWS_WORTH_THREADS)
            _refuse_twice(path, table.schema)  # a name that is no text shows only here
            table.validate(full=True)  # texts are UTF-8, dictionary codes within the dictionary
            of_file, of_schema = file.metadata.metadata or {}, table.schema.metadata or {}
            if of_file.keys() <= {_ARROW_SCHEMA, *of_schema}:
                return table
            more = {key: text for key, text in of_file.items() if key != _ARROW_SCHEMA}
            return table.replace_schema_metadata({**more, **of_schema})
    except (FileNotFoundError, UserError):
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = shown_reason(error)
        # Arrow's own complaints about content have no number; those of the operating system say nothing about it.
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{path}: cannot be read: {reason}") from error
        raise DamagedFileError(f"{path}: damaged or not Parquet: {reason}") from error


def shown_reason(error: BaseException) -> str:
    """Return the first line of what a library says, no longer than a message takes."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200]


def metadata_of(table: pa.Table) -> dict[str, str]:
    """Return a table's metadata as text; bytes that are no text are shown as such."""
    found: Mapping[bytes, bytes] = table.schema.metadata or {}
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in found.items()}


def version_in(text: str) -> int | None:
    """Return the schema version a file states, None where that is no number from 1 on."""
    is_number = text.isascii() and text.isdigit() and len(text) < _VERSION_DIGITS
    return int(text) if is_number and int(text) > 0 else None


def _refuse_excess(path: Path, metadata: pq.FileMetaData, most_rows: int) -> None:
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    rows = max(metadata.num_rows, sum(group.num_rows for group in groups))
    if rows > most_rows:
        raise UserError(f"{path}: states {rows} rows, at most {most_rows} are read of such a file", hint=_SPLIT)
    size = sum(group.total_byte_size for group in groups)
    if size > _MOST_BYTES:
        raise UserError(f"{path}: states {size} bytes, at most {_MOST_BYTES} are read of such a file", hint=_SPLIT)
    _refuse_twice(path, metadata.schema.to_arrow_schema())


def _refuse_twice(path: Path, schema: pa.Schema) -> None:
    """Refuse a column that is there twice; raises ``UnicodeDecodeError`` for a name that is no text."""
    if twice := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise UserError(f"{path}: column {shown(twice[0])} is there twice", hint="write it with each column once")


def read_conforming(path: Path, family: str) -> pa.Table:
    """Read one file of ``family``, upgraded to this schema version; its values are not checked yet.

    Raises ``DamagedFileError`` for a file that cannot be read to its end, ``UserError`` for one that breaks the
    contract (size, family, newer version, columns, types, units).
    """
    place = str(path)
    return conform(_upgraded(read_table(path, verify_pages=True), family, place), family, place, stored=True)


def replaced_names(path: Path) -> frozenset[str]:
    """Names of the files that this one was compacted from, empty for a damaged file (reading it will name it)."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (pa.ArrowException, OSError, ValueError):
        return frozenset()
    listed = metadata.get(REPLACES_KEY, b"").decode(errors="replace")
    return frozenset(listed.split("\n")) if listed else frozenset()


REPLACES_KEY: Final = b"apex_replaces"


def _upgraded(table: pa.Table, family: str, place: str) -> pa.Table:
    metadata = metadata_of(table)
    found = metadata.get(_FAMILY_KEY, "")
    if found != family:
        raise UserError(
            f"{place}: holds family {shown(found or 'unknown')}, expected {family!r}",
            hint="profile files are written by apex; other tools' tables go through `apex import`",
        )
    text = metadata.get(_VERSION_KEY, "")
    version = version_in(text)
    if version is None:
        raise UserError(
            f"{place}: apex_schema_version is {shown(text)}, must be a number from 1 to {SCHEMA_VERSION}",
            hint="profile files are written by apex; other tools' tables go through `apex import`",
        )
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{place}: schema version {version} is newer than this apex understands ({SCHEMA_VERSION})",
            hint="upgrade apex-planner",
        )
    for step in range(version, SCHEMA_VERSION):
        table = _UPGRADES[step](table, family)
    return table


def _add_framework(table: pa.Table, family: str) -> pa.Table:
    """Version 1 did not record the engine a kernel was run through."""
    if family == "run":
        return table
    return table.append_column(pa.field("framework", pa.string()), pa.nulls(table.num_rows, pa.string()))


def _add_conditions(table: pa.Table, family: str) -> pa.Table:
    """Version 2 did not record what NCCL was told, nor clocks under seconds of load."""
    if family == "run":
        for name in ("nccl_environment", "sustained_clocks"):
            table = table.append_column(pa.field(name, pa.string()), pa.nulls(table.num_rows, pa.string()))
    return table


# From version v to v + 1.
_UPGRADES: Final[Mapping[int, Callable[[pa.Table, str], pa.Table]]] = {1: _add_framework, 2: _add_conditions}
