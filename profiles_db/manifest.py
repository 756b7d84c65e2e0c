"""The shape manifest: exactly the op shapes that a search will ask for, handed from the planner to the profiler.

One JSON document, so that a person can read and edit it: per op family a list of column names and a list of rows.

    {"apex_shape_manifest": 1, "families": {"gemm": {"columns": ["m", "n", ..., "dtype"], "rows": [[1, ...], ...]}}}

A family's columns are its shape columns and ``dtype``; units are those of the column names, as in the store. Beside
``families`` there may be ``shares``, of the same form with two more columns: which share of a prefill step and of a
decode step of the models the shape takes. Manifests of before there were shares are read without.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Final

import pyarrow as pa

from cluster_specs.errors import UserError
from cluster_specs.files.json_text import parse_json
from cluster_specs.files.reading import read_document
from cluster_specs.files.shown import shown
from cluster_specs.files.whole import write_text
from cluster_specs.lazy_dataclass import dataclass
from profiles_db.parquet_files import shown_reason
from profiles_db.schema import FAMILIES, Family
from profiles_db.validation import MOST_COUNT

MANIFEST_VERSION: Final = 1
SHARES: Final = ("prefill_frac", "decode_frac")

_VERSION_KEY: Final = "apex_shape_manifest"
# Kernels index a tensor's sides with 32 bits; 2^50 bytes are more than a thousand devices hold.
_MOST_SIZE: Final = 2**31 - 1
_MOST_BYTES: Final = 2**50


def manifest_schema(family: Family) -> pa.Schema:
    """Columns of one family in a manifest: its shape columns and the compute format."""
    return pa.schema([*family.shape, pa.field("dtype", pa.string(), nullable=False)])


def shares_schema(family: Family) -> pa.Schema:
    """Columns of one family's shares: those of its shapes, and the shares of a prefill and of a decode step."""
    shares = [pa.field(name, pa.float64(), nullable=False) for name in SHARES]
    return pa.schema([*manifest_schema(family), *shares])


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeManifest:
    """Shapes to measure, one table per op family; rows are distinct and keep their order.

    ``shares`` are fractions of 1 of a step's time by shape, empty where nobody has said them.
    """

    tables: Mapping[str, pa.Table]
    shares: Mapping[str, pa.Table] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Give every table exactly its family's columns; raises ``UserError`` where it has others."""
        place = "shape manifest"
        checked = {name: _checked(table, name, place, manifest_schema) for name, table in self.tables.items()}
        object.__setattr__(self, "tables", checked)
        shares = {name: _checked(table, name, f"{place} shares", shares_schema) for name, table in self.shares.items()}
        object.__setattr__(self, "shares", shares)

    @property
    def num_shapes(self) -> int:
        """Shapes of all families together."""
        return sum(table.num_rows for table in self.tables.values())

    def save(self, path: Path) -> None:
        """Write the manifest whole or not at all; raises ``OutputError`` when the disk refuses."""
        document = {_VERSION_KEY: MANIFEST_VERSION, "families": _lists(self.tables)}
        if self.shares:
            document["shares"] = _lists(self.shares)
        write_text(path, json.dumps(document) + "\n")


def _lists(tables: Mapping[str, pa.Table]) -> dict[str, object]:
    return {
        name: {"columns": table.column_names, "rows": [list(row.values()) for row in table.to_pylist()]}
        for name, table in tables.items()
    }


def load_manifest(path: Path) -> ShapeManifest:
    """Read a manifest; raises ``UserError`` naming file, family and column for anything but this version's form."""
    hint = "write a manifest with `apex shapes`"
    document = parse_json(read_document(path, hint=hint), str(path), hint=hint)
    version = document.get(_VERSION_KEY) if isinstance(document, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise UserError(f"{path}: no {_VERSION_KEY} version in it", hint=hint)
    if version != MANIFEST_VERSION:
        raise UserError(
            f"{path}: manifest version {shown(version)}, this apex reads version {MANIFEST_VERSION}",
            hint="write it again with this version's `apex shapes`",
        )
    return ShapeManifest(
        tables=_tables(document.get("families"), f"{path}: families", manifest_schema),
        shares=_tables(document.get("shares", {}), f"{path}: shares", shares_schema),
    )


def _tables(entries: object, place: str, schema_of: Callable[[Family], pa.Schema]) -> dict[str, pa.Table]:
    if not isinstance(entries, dict):
        raise UserError(f"{place} must be an object of op families")
    return {name: _parsed(entry, name, f"{place}.{name[:40]}", schema_of) for name, entry in entries.items()}


def _parsed(entry: object, family: str, place: str, schema_of: Callable[[Family], pa.Schema]) -> pa.Table:
    columns = entry.get("columns") if isinstance(entry, dict) else None
    rows = entry.get("rows") if isinstance(entry, dict) else None
    if not isinstance(columns, list) or not isinstance(rows, list):
        raise UserError(f"{place}: must have a list of columns and a list of rows")
    for name in columns:
        if not isinstance(name, str) or columns.count(name) > 1:
            raise UserError(f"{place}: column {shown(name)} must be a name that is there once")
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(columns):
            raise UserError(f"{place}: row {index} must be a list of {len(columns)} values")
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    try:
        table = pa.table({name: pa.array(column) for name, column in zip(columns, values, strict=True)})
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{place}: {shown_reason(error)}") from error
    return _checked(table, family, place, schema_of)


def _checked(table: pa.Table, family: str, place: str, schema_of: Callable[[Family], pa.Schema]) -> pa.Table:
    if family not in FAMILIES:
        raise UserError(f"{place}: unknown op family {shown(family)}", hint=f"one of {', '.join(FAMILIES)}")
    schema = schema_of(FAMILIES[family])
    if set(table.column_names) != set(schema.names):
        wrong = sorted(set(table.column_names) ^ set(schema.names))[0]
        state = "missing" if wrong in schema.names else "not part of the family"
        raise UserError(f"{place}: {family} column {wrong[:40]} is {state}", hint=f"columns: {', '.join(schema.names)}")
    arrays = []
    for of_column in schema:
        column = table[of_column.name]
        if column.null_count:
            raise UserError(f"{place}: {family} column {of_column.name} has an empty value")
        try:
            arrays.append(column.cast(of_column.type))
        except (pa.ArrowException, ValueError) as error:
            raise UserError(f"{place}: {family} column {of_column.name}: {shown_reason(error)}") from error
        if pa.types.is_integer(of_column.type):
            _refuse_sizes(arrays[-1].to_pylist(), of_column.name, f"{place}: {family}")
        elif pa.types.is_floating(of_column.type) and of_column.name not in SHARES:
            _refuse_counts(arrays[-1].to_pylist(), of_column.name, f"{place}: {family}")
        elif of_column.name in SHARES:
            _refuse_shares(arrays[-1].to_pylist(), of_column.name, f"{place}: {family}")
    return _distinct(pa.table(arrays, schema=schema))


def _refuse_sizes(values: list[int], column: str, place: str) -> None:
    """Refuse sizes that are negative or that no tensor of any device has."""
    most = _MOST_BYTES if column.endswith("_bytes") else _MOST_SIZE
    for row, value in enumerate(values):
        if not 0 <= value <= most:
            raise UserError(f"{place} column {column}, row {row}: {value} must be from 0 to {most}")


def _refuse_counts(values: list[float], column: str, place: str) -> None:
    for row, value in enumerate(values):
        if not 0.0 <= value <= MOST_COUNT:
            raise UserError(f"{place} column {column}, row {row}: {value} must be from 0 to {MOST_COUNT}")


def _refuse_shares(values: list[float], column: str, place: str) -> None:
    for row, value in enumerate(values):
        if not 0.0 <= value <= 1.0:
            raise UserError(f"{place} column {column}, row {row}: {value} must be from 0 to 1")


def _distinct(table: pa.Table) -> pa.Table:
    """Drop rows that ask for a shape a second time, keeping the order of the first."""
    seen: dict[tuple[object, ...], int] = {}
    for index, row in enumerate(zip(*(column.to_pylist() for column in table.columns), strict=True)):
        seen.setdefault(row, index)
    return table if len(seen) == table.num_rows else table.take(pa.array(list(seen.values()), pa.int64()))
