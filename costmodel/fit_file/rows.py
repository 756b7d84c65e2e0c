"""The rows of a fit's Parquet file: a row per knot, families one behind the other, each shape's rows together."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from costmodel.fitted.held_out import QUESTIONS
from costmodel.fitted.knots import FamilyKnots

_MAX_FEATURES: Final = 6
_NEVER_NULL: Final = frozenset({"family", "label", "shape", "x", "y", "log_residual"})
# ln(predicted / measured) of a measured point that was left out, of labels completed by estimates.
_ERRORS: Final = {question: f"log_error_{question}" for question in QUESTIONS}
# Neighbours share their first bytes, hardly ever a value.
ENCODINGS: Final = dict.fromkeys(("log_residual", *_ERRORS.values()), "BYTE_STREAM_SPLIT")


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
    log_errors: Mapping[str, NDArray[np.float64]]  # by question; none where they were not read


def table_schema(*, with_errors: bool = True) -> pa.Schema:
    """Columns of the file, those of held-out errors the last. Logarithms are multiples of steps that 24 bits hold."""
    features = [pa.field(f"feature_{index}", pa.float64()) for index in range(_MAX_FEATURES)]
    errors = [pa.field(name, pa.float32(), metadata={"unit": "1"}) for name in _ERRORS.values()]
    return pa.schema(
        [
            pa.field("family", pa.dictionary(pa.int32(), pa.string())),
            pa.field("label", pa.dictionary(pa.int32(), pa.string())),
            pa.field("shape", pa.int32()),
            *features,
            pa.field("x", pa.float64()),
            pa.field("y", pa.float64()),
            pa.field("latency_s", pa.float64(), metadata={"unit": "s"}),
            pa.field("log_residual", pa.float32(), metadata={"unit": "1"}),
            *(errors if with_errors else []),
        ]
    )


def schema_before_errors() -> pa.Schema:
    """Columns of schema 4 and older."""
    schema = table_schema(with_errors=False)
    place = schema.get_field_index("log_residual")
    return schema.set(place, schema.field(place).with_type(pa.float64()))


def knots_table(knots: FamilyKnots, log_errors: Mapping[str, NDArray[np.float64]]) -> pa.Table:
    """Lay out a family as rows; ``log_errors`` [rows] of each question are NaN where there is none."""
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
    columns = [family, label, pa.array(shape), *features, pa.array(knots.x), pa.array(knots.y)]
    columns += [pa.array(knots.latency_s, mask=np.isnan(knots.latency_s)), pa.array(knots.residual, pa.float32())]
    columns += [pa.array(log_errors[name], pa.float32(), mask=np.isnan(log_errors[name])) for name in _ERRORS]
    return pa.table(columns, schema=table_schema())


_KINDS: Final[Mapping[pa.DataType, Any]] = {
    pa.int32(): np.int32,
    pa.float32(): np.float32,
    pa.float64(): np.float64,
}


def _values(column: pa.Array) -> NDArray[Any]:
    """Share an Arrow array's numbers, nulls as NaN; Arrow's own conversions import pandas where it is installed."""
    kind = _KINDS[column.type]
    if not len(column):
        return np.zeros(0, dtype=kind)
    if column.null_count == len(column):
        return np.broadcast_to(np.float64(np.nan), len(column))
    validity, data = column.buffers()
    own = slice(column.offset, column.offset + len(column))
    values = np.frombuffer(data, dtype=kind)[own]
    if not column.null_count:
        return values
    known = np.unpackbits(np.frombuffer(validity, dtype=np.uint8), bitorder="little")[own]
    return np.where(known, values, np.nan)


def wrong_column(table: pa.Table, schema: pa.Schema) -> str:
    """Say which column is missing or holds another type than its numbers are read as; empty where none."""
    for wanted in schema:
        if wanted.name not in table.column_names:
            return f"column {wanted.name} is missing"
        found = table.schema.field(wanted.name).type
        if found != wanted.type:
            return f"column {wanted.name} is {shown(str(found))}, must be {wanted.type}"
        if table[wanted.name].null_count and wanted.name in _NEVER_NULL:
            row = pc.index(pc.is_null(table[wanted.name]), value=True).as_py()
            return f"row {row}: {wanted.name} is null"
    return ""


def family_rows(table: pa.Table, schema: pa.Schema) -> dict[str, FamilyRows]:
    """Split a table into its families; raises ``RowsFault`` where rows are not where they were written."""
    columns = {name: table[name].combine_chunks() for name in schema.names}
    family, label = columns.pop("family"), columns.pop("label")
    names, codes = family.dictionary.to_pylist(), _values(family.indices)
    label_names, label_codes = label.dictionary.to_pylist(), _values(label.indices)
    found: dict[str, FamilyRows] = {}
    for own in _runs(codes):
        name = names[codes[own.start]]
        if name in found:
            raise RowsFault(f"row {own.start}: family {shown(name)} begins again: its rows are not in their order")
        # Family by family: of most, some columns have no number at all and others no null.
        arrays = {column: _values(values.slice(own.start, own.stop - own.start)) for column, values in columns.items()}
        shape = arrays["shape"]
        first = np.array([run.start for run in _runs(shape)], dtype=np.int64)
        if not np.array_equal(shape[first], np.arange(len(first))):
            raise RowsFault(f"{name}: its rows are not in the order they were written in")
        _refuse_mixed_shapes(name, {"label": label_codes[own], **arrays}, own.start, first)
        found[name] = FamilyRows(
            first_row=own.start,
            label=tuple(label_names[code] for code in label_codes[own][first].tolist()),
            shape=np.column_stack([arrays[f"feature_{index}"][first] for index in range(_MAX_FEATURES)]),
            start=np.append(first, len(shape)).astype(np.int64),
            x=arrays["x"],
            y=arrays["y"],
            latency_s=arrays["latency_s"],
            residual=arrays["log_residual"].astype(np.float64),
            log_errors={
                name: arrays[column].astype(np.float64) for name, column in _ERRORS.items() if column in arrays
            },
        )
    return found


def _runs(codes: NDArray[Any]) -> Iterator[slice]:
    """Stretches of equal values."""
    if len(codes):
        starts = [0, *(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist(), len(codes)]
        yield from (slice(*ends) for ends in pairwise(starts))


def _refuse_mixed_shapes(family: str, arrays: Mapping[str, NDArray[Any]], begin: int, first: NDArray[np.int64]) -> None:
    """Refuse rows whose label or features are not those of their shape's first row."""
    for name in ("label", *(f"feature_{index}" for index in range(_MAX_FEATURES))):
        values = arrays[name]
        if not any(values.strides):
            continue  # one value, repeated
        values = values.view(np.int64) if values.dtype == np.float64 else values  # NaN equals NaN
        differs = values[1:] != values[:-1]
        differs[first[1:] - 1] = False
        if differs.any():
            row = begin + int(np.argmax(differs)) + 1
            raise RowsFault(f"{family}, row {row}: {name} is not that of its shape")
