"""One Parquet file of the store: written whole or not at all, read whole or refused.

Page checksums make flipped bits as visible as a missing tail.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from cluster_specs.errors import UserError
from cluster_specs.files.whole import write_whole
from profiles_db.schema import SCHEMA_VERSION
from profiles_db.validation import conform

_ROWS_WORTH_THREADS: Final = 10_000

_VERSION_KEY: Final = b"apex_schema_version"
_FAMILY_KEY: Final = b"apex_family"


class DamagedFileError(UserError):
    """A file that is cut short, overwritten or otherwise not Parquet any more."""


def write_parquet(table: pa.Table, path: Path, *, compression_level: int | None = None, hint: str = "") -> None:
    """Write ``table`` to ``path`` whole or not at all; raises ``OutputError`` when the disk refuses."""

    def fill(stream: BinaryIO) -> None:
        pq.write_table(table, stream, compression="zstd", compression_level=compression_level, write_page_checksum=True)

    write_whole(path, fill, **({"hint": hint} if hint else {}))


def read_conforming(path: Path, family: str) -> pa.Table:
    """Read one file of ``family``, upgraded to this schema version; its values are not checked yet.

    Raises ``DamagedFileError`` for a file that cannot be read to its end, ``UserError`` for one that breaks the
    contract (family, newer version, columns, units).
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            # Starting threads costs more than reading a few rows.
            table = file.read(use_threads=file.metadata.num_rows > _ROWS_WORTH_THREADS)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        # Arrow's own complaints about content have no number; those of the operating system say nothing about it.
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{path}: cannot be read: {reason}") from error
        raise DamagedFileError(f"{path}: damaged or not Parquet: {reason}") from error
    place = str(path)
    return conform(_upgraded(table, family, place), family, place, stored=True)


def replaced_names(path: Path) -> frozenset[str]:
    """Names of the files that this one was compacted from, empty for a damaged file (reading it will name it)."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (pa.ArrowException, OSError, ValueError):
        return frozenset()
    listed = metadata.get(REPLACES_KEY, b"").decode()
    return frozenset(listed.split("\n")) if listed else frozenset()


REPLACES_KEY: Final = b"apex_replaces"


def _upgraded(table: pa.Table, family: str, place: str) -> pa.Table:
    metadata: Mapping[bytes, bytes] = table.schema.metadata or {}
    found = metadata.get(_FAMILY_KEY, b"").decode()
    if found != family:
        raise UserError(
            f"{place}: holds family {found or 'unknown'!r}, expected {family!r}",
            hint="profile files are written by apex; other tools' tables go through `apex import`",
        )
    text = metadata.get(_VERSION_KEY, b"").decode()
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"{place}: apex_schema_version is {text!r}, must be a number from 1 to {SCHEMA_VERSION}")
    version = int(text)
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


# From version v to v + 1.
_UPGRADES: Final[Mapping[int, Callable[[pa.Table, str], pa.Table]]] = {1: _add_framework}
