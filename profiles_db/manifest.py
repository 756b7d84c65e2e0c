"""The shape manifest: exactly the op shapes that a search will ask for, handed from the planner to the profiler.

One JSON document, so that a person can read and edit it: per op family a list of column names and a list of rows.

    {"apex_shape_manifest": 1, "families": {"gemm": {"columns": ["m", "n", ..., "dtype"], "rows": [[1, ...], ...]}}}

A family's columns are its shape columns and ``dtype``; units are those of the column names, as in the store.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from cluster_specs.errors import UserError
from cluster_specs.files.whole import write_text
from profiles_db.schema import FAMILIES, Family

MANIFEST_VERSION: Final = 1

_VERSION_KEY: Final = "apex_shape_manifest"


def manifest_schema(family: Family) -> pa.Schema:
    """Columns of one family in a manifest: its shape columns and the compute format."""
    return pa.schema([*family.shape, pa.field("dtype", pa.string(), nullable=False)])


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeManifest:
    """Shapes to measure, one table per op family; rows are distinct and keep their order."""

    tables: Mapping[str, pa.Table]

    def __post_init__(self) -> None:
        """Give every table exactly its family's columns; raises ``UserError`` where it has others."""
        checked = {name: _checked(table, name, "shape manifest") for name, table in self.tables.items()}
        object.__setattr__(self, "tables", checked)

    @property
    def num_shapes(self) -> int:
        """Shapes of all families together."""
        return sum(table.num_rows for table in self.tables.values())

    def save(self, path: Path) -> None:
        """Write the manifest whole or not at all; raises ``OutputError`` when the disk refuses."""
        families = {
            name: {
                "columns": table.column_names,
                "rows": [list(row.values()) for row in table.to_pylist()],
            }
            for name, table in self.tables.items()
        }
        write_text(path, json.dumps({_VERSION_KEY: MANIFEST_VERSION, "families": families}) + "\n")


def load_manifest(path: Path) -> ShapeManifest:
    """Read a manifest; raises ``UserError`` naming file, family and column for anything but this version's form."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}", hint="write a manifest with `apex shapes`") from error
    version = document.get(_VERSION_KEY) if isinstance(document, dict) else None
    if not isinstance(version, int):
        raise UserError(f"{path}: no {_VERSION_KEY} version in it", hint="write a manifest with `apex shapes`")
    if version != MANIFEST_VERSION:
        raise UserError(
            f"{path}: manifest version {version}, this apex reads version {MANIFEST_VERSION}",
            hint="write it again with this version's `apex shapes`",
        )
    families = document.get("families")
    if not isinstance(families, dict):
        raise UserError(f"{path}: families must be an object of op families")
    tables = {name: _parsed(entry, name, f"{path}: families.{name}") for name, entry in families.items()}
    return ShapeManifest(tables=tables)


def _parsed(entry: object, family: str, place: str) -> pa.Table:
    columns = entry.get("columns") if isinstance(entry, dict) else None
    rows = entry.get("rows") if isinstance(entry, dict) else None
    if not isinstance(columns, list) or not isinstance(rows, list):
        raise UserError(f"{place}: must have a list of columns and a list of rows")
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(columns):
            raise UserError(f"{place}: row {index} must be a list of {len(columns)} values")
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    try:
        table = pa.table({name: pa.array(column) for name, column in zip(columns, values, strict=True)})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(f"{place}: {str(error).splitlines()[0]}") from error
    return _checked(table, family, place)


def _checked(table: pa.Table, family: str, place: str) -> pa.Table:
    if family not in FAMILIES:
        raise UserError(f"{place}: unknown op family {family!r}", hint=f"one of {', '.join(FAMILIES)}")
    schema = manifest_schema(FAMILIES[family])
    if set(table.column_names) != set(schema.names):
        wrong = sorted(set(table.column_names) ^ set(schema.names))[0]
        state = "missing" if wrong in schema.names else "not part of the family"
        raise UserError(f"{place}: {family} column {wrong} is {state}", hint=f"columns: {', '.join(schema.names)}")
    arrays = []
    for field in schema:
        column = table[field.name]
        if column.null_count:
            raise UserError(f"{place}: {family} column {field.name} has an empty value")
        try:
            arrays.append(column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{place}: {family} column {field.name}: {reason}") from error
        if pa.types.is_integer(field.type) and min(arrays[-1].to_pylist(), default=0) < 0:
            raise UserError(f"{place}: {family} column {field.name} holds a negative size")
    return _distinct(pa.table(arrays, schema=schema))


def _distinct(table: pa.Table) -> pa.Table:
    """Drop rows that ask for a shape a second time, keeping the order of the first."""
    seen: dict[tuple[object, ...], int] = {}
    for index, row in enumerate(zip(*(column.to_pylist() for column in table.columns), strict=True)):
        seen.setdefault(row, index)
    return table if len(seen) == table.num_rows else table.take(pa.array(list(seen.values()), pa.int64()))
