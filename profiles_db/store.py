"""The layered store: the user's own measurements above, the bundled read-only ones beneath.

A layer is a folder of ``<device>/<family>/*.parquet``; any outside tool reads the files directly. Files are only ever
added (or compacted into one that names what it replaces), under names no two writers can share, so concurrent writers
never lose each other's rows; whoever writes what it has first looked up holds the layer's lock meanwhile. Rows with
equal keys are repeats of one measurement: all are kept, and a reader may ask for their median. A key the user has
measured, with whatever status, hides the bundled rows of that key.
"""

import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc

from cluster_specs.errors import OutputError, UserError
from cluster_specs.files.lock import locked
from cluster_specs.files.shown import shown
from cluster_specs.files.whole import make_folder
from profiles_db.layers import QUARANTINE, Layer, StoredFile
from profiles_db.parquet_files import shown_reason, write_parquet
from profiles_db.repeats import median_of_repeats, without_keys_of
from profiles_db.schema import FAMILIES
from profiles_db.validation import check_rows, conform, schema_of

BUNDLED: Final = Path(__file__).parent / "data"
_LOCK: Final = ".lock"
_MOST_NAME: Final = 80  # characters of a folder's or a file's name that comes from outside
_HINT: Final = "give a writable place (a profile database: --db DIR or APEX_DB)"


def default_folder() -> Path:
    """Platform's data folder for the user's own measurements."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "apex" / "profiles"


def open_store(db: Path | None = None, *, bundled: Path | None = BUNDLED) -> "Store":
    """Open the user's layer (``db``, else ``$APEX_DB``, else the platform's data folder) above the bundled one.

    Nothing is created until the first append. Raises ``UserError`` when the user's layer is not a folder.
    """
    root = db or (Path(os.environ["APEX_DB"]) if os.environ.get("APEX_DB") else default_folder())
    if root.exists() and not root.is_dir():
        raise UserError(f"{root}: is a file, the profile database is a folder", hint="give a folder with --db DIR")
    layers = [Layer(root=root, is_writable=True)]
    if bundled is not None and bundled.is_dir() and bundled.resolve() != root.resolve():
        layers.append(Layer(root=bundled, is_writable=False))
    return Store(tuple(layers))


class Store:
    """Measurements of all layers as one; the first layer is the user's and the only one written to."""

    __slots__ = ("_is_locked", "layers")

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self.layers = layers
        self._is_locked = False

    @property
    def root(self) -> Path:
        """Folder of the user's own layer."""
        return self.layers[0].root

    def iter_files(self, family: str | None = None, device: str | None = None) -> Iterator[StoredFile]:
        """Files in force, by layer, device, family and name; compacted-away files and temporary ones are left out."""
        for layer in self.layers:
            yield from layer.iter_files(family, device)

    def devices(self) -> tuple[str, ...]:
        """Devices that have at least one file."""
        return tuple(sorted({file.device for file in self.iter_files()}))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other processes from writing to the user's layer within the block; waits for one that does.

        Rows that are added only where they are missing are looked up and added in one such block. Blocks may be
        nested. Raises ``OutputError`` where the layer cannot be written.
        """
        if self._is_locked:
            yield
            return
        with locked(self.root / _LOCK, wait=True, hint=_HINT):
            self._is_locked = True
            try:
                yield
            finally:
                self._is_locked = False

    def append(self, family: str, rows: pa.Table | Sequence[Mapping[str, object]], run_id: str) -> tuple[Path, ...]:
        """Add rows to the user's layer, one new file per device; returns the files (none for no rows).

        Every row is checked before anything is written; ``run_id`` is filled in where the rows leave it out. Raises
        ``UserError`` naming family, row, column and value, ``OutputError`` where the disk refuses.
        """
        place = f"append to {family}"
        schema = schema_of(family)
        table = rows if isinstance(rows, pa.Table) else _table_of(rows, schema, run_id, place)
        if "run_id" not in table.column_names:
            table = table.append_column("run_id", pa.array([run_id] * table.num_rows, pa.string()))
        table = conform(table, family, place, stored=False)
        check_rows(table, family, place)
        foreign = pc.index(pc.not_equal(table["run_id"], run_id), pa.scalar(value=True)).as_py()
        if foreign >= 0:
            found = table["run_id"][foreign].as_py()
            raise UserError(f"{place}: row {foreign}: run_id is {shown(found)}, must be {shown(run_id)}")
        devices = pc.unique(table["device"]).to_pylist()
        for device in devices:
            check_device_name(device, place)
        written: list[Path] = []
        with self.writing():
            for device in devices:
                part = table.filter(pc.equal(table["device"], device))
                path = self.root / device / family / f"{_file_stem(run_id)}-{uuid.uuid4().hex}.parquet"
                try:
                    make_folder(path.parent, hint=_HINT)
                    write_parquet(part, path, hint=_HINT)
                except OutputError:  # rows of all devices or of none
                    for earlier in written:
                        earlier.unlink(missing_ok=True)
                    raise
                written.append(path)
        return tuple(written)

    def read(
        self,
        family: str,
        *,
        device: str | None = None,
        columns: Sequence[str] | None = None,
        statuses: Sequence[str] | None = ("ok",),
        where: Mapping[str, object] | None = None,
        repeats: Literal["keep", "median"] = "keep",
    ) -> pa.Table:
        """Rows of ``family`` across layers, the user's winning on equal keys.

        ``statuses`` None takes every status; ``where`` keeps rows whose column equals the value, or is one of the
        values of a tuple or list (None matches null). ``repeats="median"`` folds rows of equal key into one, with an
        extra column ``repeats`` that counts them. Raises ``UserError`` for a file that breaks the contract; damaged
        files of the user's layer are moved aside first, so that the next call goes on without them.
        """
        schema = schema_of(family)
        tables: list[pa.Table] = []
        for layer in self.layers:
            table = layer.read(family, device)
            for above in tables:
                table = without_keys_of(table, above, FAMILIES[family].key_columns) if family != "run" else table
            tables.append(table)
        table = pa.concat_tables(tables)
        if statuses is not None and family != "run":
            table = table.filter(pc.is_in(table["status"], value_set=pa.array(statuses, pa.string())))
        for column, wanted in (where or {}).items():
            table = table.filter(_matches(table, column, wanted))
        extra: tuple[str, ...] = ()
        if repeats == "median" and family != "run":
            table = median_of_repeats(table, FAMILIES[family].key_columns)
            extra = ("repeats",)
        if columns is None:
            return table
        unknown = [name for name in columns if name not in schema.names]
        if unknown:
            raise UserError(
                f"column {unknown[0]} is not part of the {family} schema", hint=f"columns: {', '.join(schema.names)}"
            )
        return table.select([*columns, *extra])

    def keys(
        self, family: str, device: str | None = None, *, statuses: Sequence[str] | None = None
    ) -> set[tuple[object, ...]]:
        """Keys (``Family.key_columns``) already in the user's own layer, so that a run can resume."""
        table = self.layers[0].read(family, device)
        if statuses is not None:
            table = table.filter(pc.is_in(table["status"], value_set=pa.array(statuses, pa.string())))
        columns = [table[name].to_pylist() for name in FAMILIES[family].key_columns]
        return set(zip(*columns, strict=True))

    def append_run(self, run: Mapping[str, object]) -> Path:
        """Record one profiling run; append it again with ``ended_at`` to close it."""
        (path,) = self.append("run", [run], str(run.get("run_id", "")))
        return path

    def runs(self, device: str | None = None) -> pa.Table:
        """One row per run, the closed record where there is one."""
        table = self.read("run", device=device)
        latest: dict[str, int] = {}
        ended = table["ended_at"].to_pylist()
        for index, run_id in enumerate(table["run_id"].to_pylist()):
            if run_id not in latest or ended[latest[run_id]] is None:
                latest[run_id] = index
        return table.take(pa.array(sorted(latest.values()), pa.int64()))


def _matches(table: pa.Table, column: str, wanted: object) -> pa.ChunkedArray:
    if column not in table.column_names:
        raise UserError(f"cannot filter by {column}: no such column")
    values = list(wanted) if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
    kind = table.schema.field(column).type
    try:
        return pc.is_in(table[column], value_set=pa.array(values, kind))
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"cannot filter by {column}: {shown(values)} are not values of type {kind}") from error


def _table_of(rows: Sequence[Mapping[str, object]], schema: pa.Schema, run_id: str, place: str) -> pa.Table:
    """Rows as a table; a non-nullable column that a row leaves out becomes a null and is refused by row later."""
    unknown = {name for row in rows for name in row} - set(schema.names)
    if unknown:
        raise UserError(f"{place}: column {min(unknown)} is not part of the schema")
    arrays = []
    for field in schema:
        values = [row.get(field.name, run_id if field.name == "run_id" else None) for row in rows]
        try:
            arrays.append(pa.array(values, field.type))
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise UserError(f"{place}: column {field.name}: {shown_reason(error)}") from error
    return pa.table(arrays, schema=schema)


def check_device_name(device: str, place: str) -> None:
    """Refuse a device name that cannot be a folder of the store; ``UserError`` starts with ``place``."""
    is_plain = all(char.isascii() and (char.isalnum() or char in "-._") for char in device)
    if not is_plain or not 0 < len(device) <= _MOST_NAME or device[0] == "." or device == QUARANTINE:
        raise UserError(
            f"{place}: device is {shown(device)}, must be at most {_MOST_NAME} letters, digits, '-', '.' and '_'",
            hint="for example h100-sxm",
        )


def _file_stem(run_id: str) -> str:
    plain = "".join(char if char.isascii() and (char.isalnum() or char in "-_.") else "_" for char in run_id)
    return plain[:_MOST_NAME].lstrip(".") or "run"
