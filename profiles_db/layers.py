"""Files of one layer of the store: which are in force, how they are read, where damaged ones go.

A layer is a folder of ``<device>/<family>/*.parquet``.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from profiles_db.parquet_files import DamagedFileError, read_conforming, replaced_names
from profiles_db.schema import FAMILIES
from profiles_db.validation import check_rows, schema_of

QUARANTINE: Final = "quarantine"
COMPACTED: Final = "compact-"  # file names that start so stand for other files, named in their metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One folder of measurements."""

    root: Path
    is_writable: bool

    def iter_files(self, family: str | None = None, device: str | None = None) -> "Iterator[StoredFile]":
        """Files in force, by device, family and name; compacted-away and temporary ones are left out."""
        for device_folder in _folders(self.root):
            if device_folder.name == QUARANTINE or (device is not None and device_folder.name != device):
                continue
            for family_folder in _folders(device_folder):
                name = family_folder.name
                if (name not in FAMILIES and name != "run") or (family is not None and name != family):
                    continue
                for path in _in_force(family_folder):
                    yield StoredFile(layer=self, device=device_folder.name, family=name, path=path)

    def read(self, family: str, device: str | None = None) -> pa.Table:
        """Rows of ``family`` in this layer, every value checked.

        Raises ``UserError``; damaged files of a writable layer are moved aside first, so that the next call goes on
        without them.
        """
        files, tables, damaged = [], [], []
        for file in self.iter_files(family, device):
            try:
                tables.append(_read_unchecked(file))
                files.append(file)
            except FileNotFoundError:
                if file.path.is_symlink():
                    raise UserError(f"{file.path}: is a link to a file that does not exist") from None
                # Compacted away since it was listed: its rows are in the file that replaces it, so list again.
                return self.read(family, device)
            except DamagedFileError as error:
                damaged.append(quarantine(file, error))
        if damaged:
            raise UserError(
                "\n".join(damaged),
                hint="run the command again to go on without these rows"
                if self.is_writable
                else "the bundled data cannot be repaired in place: reinstall apex-planner",
            )
        return _checked_together(files, tables, family)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One Parquet file of a layer."""

    layer: Layer
    device: str
    family: str
    path: Path


def read_stored(*files: StoredFile) -> pa.Table:
    """Read files of one family, every value checked; raises ``DamagedFileError`` or ``UserError`` at the first."""
    return _checked_together(files, [_read_unchecked(file) for file in files], files[0].family)


def names_stood_for(file: StoredFile) -> frozenset[str]:
    """Names of the files whose rows this one holds, its own included."""
    others = replaced_names(file.path) if file.path.name.startswith(COMPACTED) else frozenset[str]()
    return others | {file.path.name}


def _read_unchecked(file: StoredFile) -> pa.Table:
    table = read_conforming(file.path, file.family)
    stray = pc.index(pc.not_equal(table["device"], file.device), pa.scalar(value=True)).as_py()
    if stray >= 0:
        found = table["device"][stray].as_py()
        raise UserError(f"{file.path}: row {stray}: device is {shown(found)}, the folder says {file.device!r}")
    return table


def _checked_together(files: Sequence[StoredFile], tables: Sequence[pa.Table], family: str) -> pa.Table:
    """Check the values of many files in one pass; only when that fails, file by file to name the one at fault."""
    together = pa.concat_tables([schema_of(family).empty_table(), *tables])
    try:
        check_rows(together, family, family)
    except UserError:
        for file, table in zip(files, tables, strict=True):
            check_rows(table, family, str(file.path))
        raise
    return together


def quarantine(file: StoredFile, error: DamagedFileError) -> str:
    """Move a damaged file of the user's layer aside (a read-only one stays); returns the sentence to show."""
    if not file.layer.is_writable:
        return str(error)
    target = file.layer.root / QUARANTINE / file.device / file.family / file.path.name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file.path.replace(target)
    except FileNotFoundError:
        return f"{error}; another process has moved it"
    except OSError as obstacle:
        return f"{error}; cannot be moved aside: {obstacle.strerror}"
    return f"{error}; moved to {target}"


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def _in_force(folder: Path) -> list[Path]:
    """Parquet files of a folder, less those that a compacted file stands for.

    Of two compacted files, one of which stands for all that the other does, the larger is in force: compactors that ran
    at once never show a row twice.
    """
    listed = _settled_listing(folder)
    named = {path: replaced_names(path) for path in listed if path.name.startswith(COMPACTED)}
    compacted = {path: names for path, names in named.items() if names}
    replaced = frozenset[str]().union(*compacted.values())
    return [
        path
        for path in listed
        if path.name not in replaced
        and not (path in compacted and any(compacted[path] < names for names in compacted.values()))
    ]


def _settled_listing(folder: Path) -> list[Path]:
    """List a folder's Parquet files; twice alike, so that no compaction took place between two parts of a listing."""
    before: list[Path] | None = None
    while True:
        listed = sorted(path for path in folder.glob("*.parquet") if path.name[0] != ".")
        if listed == before:
            return listed
        before = listed
