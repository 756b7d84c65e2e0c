"""The rows of a fit's Parquet file: a row per knot, families one behind the other, each shape's rows together."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster_specs.files.shown import shown
from costmodel.fitted.knots import FamilyKnots

_MAX_FEATURES: Final = 6
_NEVER_NULL: Final = frozenset({"family", "label", "shape", "x", "y", "log_residual"})


class RowsFault(ValueError):  # noqa: N818 - what is wrong, to be said with the file
    """Rows that no writer of fits leaves so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyRows:
    """One family's rows: ``shape`` [shapes, features] padded with NaN, ``start`` [shapes + 1]; the rest [rows]."""

    first_row: int
    label: tuple[str, ...]  # [shapes]
    shape: NDArray[np.float64]
    start: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    latency_s: NDArray[np.float64]
    residual: NDArray[np.float64]


def table_schema() -> pa.Schema:
    """Columns of the file."""
    features = [pa.field(f"feature_{index}", pa.float64()) for index in range(_MAX_FEATURES)]
    return pa.schema(
        [
            pa.field("family", pa.dictionary(pa.int32(), pa.string())),
            pa.field("label", pa.dictionary(pa.int32(), pa.string())),
            pa.field("shape", pa.int32()),
            *features,
            pa.field("x", pa.float64()),
            pa.field("y", pa.float64()),
            pa.field("latency_s", pa.float64(), metadata={"unit": "s"}),
            pa.field("log_residual", pa.float64(), metadata={"unit": "1"}),
        ]
    )


def knots_table(knots: FamilyKnots) -> pa.Table:
    """Lay out a family as rows."""
    counts = np.diff(knots.start)
    shape = np.repeat(np.arange(knots.num_shapes, dtype=np.int32), counts)
    names = sorted({label.text for label in knots.label})
    codes = np.searchsorted(np.array(names), knots.label_text).astype(np.int32)
    features = [
        pa.array(np.repeat(knots.shape[:, index], counts))
        if index < len(knots.features)
        else pa.nulls(len(shape), pa.float64())
        for index in range(_MAX_FEATURES)
    ]
    family = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(shape), dtype=np.int32)), pa.array([knots.family]))
    label = pa.DictionaryArray.from_arrays(pa.array(codes[shape]), pa.array(names))
    latency = pa.array(knots.latency_s, mask=np.isnan(knots.latency_s))
    columns = [family, label, pa.array(shape), *features, pa.array(knots.x), pa.array(knots.y), latency]
    return pa.table([*columns, pa.array(knots.residual)], schema=table_schema())


def _values(column: pa.Array) -> NDArray[Any]:
    """Share an Arrow array's numbers, nulls as NaN; Arrow's own conversions import pandas where it is installed."""
    kind = np.int32 if pa.types.is_int32(column.type) else np.float64
    if not len(column):
        return np.zeros(0, dtype=kind)
    validity, data = column.buffers()
    own = slice(column.offset, column.offset + len(column))
    values = np.frombuffer(data, dtype=kind)[own]
    if not column.null_count:
        return values
    known = np.unpackbits(np.frombuffer(validity, dtype=np.uint8), bitorder="little")[own]
    return np.where(known, values, np.nan)


def wrong_column(table: pa.Table) -> str:
    """Say which column is missing or holds another type than its numbers are read as; empty where none."""
    for wanted in table_schema():
        if wanted.name not in table.column_names:
            return f"column {wanted.name} is missing"
        found = table.schema.field(wanted.name).type
        if found != wanted.type:
            return f"column {wanted.name} is {shown(str(found))}, must be {wanted.type}"
        if table[wanted.name].null_count and wanted.name in _NEVER_NULL:
            row = pc.index(pc.is_null(table[wanted.name]), value=True).as_py()
            return f"row {row}: {wanted.name} is null"
    return ""


def family_rows(table: pa.Table) -> dict[str, FamilyRows]:
    """Split a table into its families; raises ``RowsFault`` where rows are not where they were written."""
    columns = {name: table[name].combine_chunks() for name in table_schema().names}
    family, label = columns.pop("family"), columns.pop("label")
    names, codes = family.dictionary.to_pylist(), _values(family.indices)
    label_names, label_codes = np.array(label.dictionary.to_pylist(), dtype=np.str_), _values(label.indices)
    arrays = {name: _values(column) for name, column in columns.items()}
    found: dict[str, FamilyRows] = {}
    for own in _runs(codes):
        name = names[codes[own.start]]
        if name in found:
            raise RowsFault(f"row {own.start}: family {shown(name)} begins again: its rows are not in their order")
        shape = arrays["shape"][own]
        first = np.array([run.start for run in _runs(shape)], dtype=np.int64)
        if not np.array_equal(shape[first], np.arange(len(first))):
            raise RowsFault(f"{name}: its rows are not in the order they were written in")
        _refuse_mixed_shapes(name, {"label": label_codes, **arrays}, own, first)
        found[name] = FamilyRows(
            first_row=own.start,
            label=tuple(label_names[label_codes[own][first]].tolist()),
            shape=np.column_stack([arrays[f"feature_{index}"][own][first] for index in range(_MAX_FEATURES)]),
            start=np.append(first, len(shape)).astype(np.int64),
            x=arrays["x"][own],
            y=arrays["y"][own],
            latency_s=arrays["latency_s"][own],
            residual=arrays["log_residual"][own],
        )
    return found


def _runs(codes: NDArray[Any]) -> Iterator[slice]:
    """Stretches of equal values."""
    if len(codes):
        starts = [0, *(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist(), len(codes)]
        yield from (slice(*ends) for ends in pairwise(starts))


def _refuse_mixed_shapes(family: str, arrays: Mapping[str, NDArray[Any]], own: slice, first: NDArray[np.int64]) -> None:
    """Refuse rows whose label or features are not those of their shape's first row."""
    for name in ("label", *(f"feature_{index}" for index in range(_MAX_FEATURES))):
        values = arrays[name][own]
        values = values.view(np.int64) if values.dtype == np.float64 else values  # NaN equals NaN
        differs = values[1:] != values[:-1]
        differs[first[1:] - 1] = False
        if differs.any():
            row = own.start + int(np.argmax(differs)) + 1
            raise RowsFault(f"{family}, row {row}: {name} is not that of its shape")
