"""Columns of a trace as they stand in the file, and their checked conversion to numbers.

Every refusal names file, line, key and value, so that the record can be found with an editor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError

# Far beyond any context window; a larger "length" is a character count, a timestamp or a wrong column.
MAX_PLAUSIBLE_TOKENS: Final = 20_000_000
MAX_EXACT: Final = 2**53  # whole numbers beyond it are not exact as floats


@dataclass(frozen=True, slots=True, kw_only=True)
class RawChunk:
    """Consecutive records of one file; ``values[key]`` is a list of JSON values or a pyarrow array of text/numbers."""

    path: str
    line: NDArray[np.int64]  # [n] 1-based line (record number in Parquet) of each record
    values: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.line)

    def take(self, indices: NDArray[np.int64]) -> "RawChunk":
        """Return the records at ``indices``."""
        values = {
            key: [column[i] for i in indices] if isinstance(column, list) else column.take(indices)
            for key, column in self.values.items()
        }
        return RawChunk(path=self.path, line=self.line[indices], values=values)

    def refuse(self, index: int, key: str, value: object, must: str, *, hint: str = "") -> UserError:
        """Build the error for record ``index``."""
        return UserError(f"{self.path}:{self.line[index]}: {key} is {_shown(value)}, must be {must}", hint=hint)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def objects(values: Any) -> Sequence[object]:
    """Raw values as Python objects."""
    return values if isinstance(values, list) else values.to_pylist()


def _as_array(values: Any) -> NDArray[np.int64] | NDArray[np.float64] | None:
    """Numbers as int64 where all are whole JSON/CSV integers, else float64; None when one is not a number."""
    if isinstance(values, list):
        kinds = set(map(type, values))
        if not kinds <= {int, float}:
            return None
        if kinds <= {int} and max(map(abs, values), default=0) < 2**63:
            return np.array(values, dtype=np.int64)
        try:
            return np.array(values, dtype=np.float64)
        except OverflowError:
            return None
    import pyarrow as pa

    for kind in (pa.int64(), pa.float64()):
        try:
            converted = values.cast(kind)
        except pa.ArrowInvalid:
            continue
        return None if converted.null_count else _shared(converted)
    return None


def _shared(values: Any) -> NDArray[Any]:
    """Numbers of an Arrow column without nulls; Arrow's own conversion imports pandas where it is installed."""
    import pyarrow as pa

    whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return np.from_dlpack(whole)


def _is_number(values: Any, index: int) -> bool:
    """Whether one value of a column is a finite number, by the same conversion as the whole column."""
    array = _as_array(values[index : index + 1])
    return array is not None and bool(np.isfinite(array).all())


def numbers(chunk: RawChunk, key: str, *, minimum: float = 0.0) -> NDArray[np.int64] | NDArray[np.float64]:
    """Column ``key`` as finite numbers >= ``minimum``, whole columns as int64; UserError at the first that is not."""
    array = _as_array(chunk.values[key])
    if array is not None and (array.dtype.kind == "i" or bool(np.isfinite(array).all())):
        low = array < minimum
        if not low.any():
            return array
        index = int(np.argmax(low))
        raise chunk.refuse(index, key, array[index].item(), f">= {minimum:g}")
    values = chunk.values[key]
    index = next(i for i in range(len(values)) if not _is_number(values, i))
    raise chunk.refuse(index, key, objects(values)[index], f"a number >= {minimum:g}")


def whole_numbers(
    chunk: RawChunk, key: str, *, minimum: int, maximum: int = MAX_EXACT, hint: str = ""
) -> NDArray[np.int64]:
    """Column ``key`` as whole numbers within [minimum, maximum]; UserError at the first that is not."""
    array = numbers(chunk, key, minimum=float(minimum))
    if array.dtype.kind == "f":
        broken = array != np.floor(array)
        if broken.any():
            index = int(np.argmax(broken))
            raise chunk.refuse(index, key, float(array[index]), "a whole number")
    if (array > maximum).any():
        index = int(np.argmax(array > maximum))
        raise chunk.refuse(index, key, array[index].item(), f"<= {maximum}", hint=hint)
    return array.astype(np.int64, copy=False)


def token_counts(chunk: RawChunk, key: str, *, minimum: int) -> NDArray[np.int64]:
    """Column ``key`` as plausible lengths in tokens >= ``minimum``; UserError at the first that is not."""
    hint = "no model reads that many tokens; if it counts something else, name another column with --column"
    return whole_numbers(chunk, key, minimum=minimum, maximum=MAX_PLAUSIBLE_TOKENS, hint=hint)


def calendar_ns(chunk: RawChunk, key: str) -> NDArray[np.int64]:
    """Column ``key`` of ISO 8601 times, as nanoseconds since 1970; UserError names the line."""
    import pyarrow as pa

    values = pa.array(objects(chunk.values[key])) if isinstance(chunk.values[key], list) else chunk.values[key]
    for kind in (pa.timestamp("ns"), pa.timestamp("ns", tz="UTC")):
        try:
            parsed = values.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
        if not parsed.null_count:
            return _shared(parsed.cast(pa.int64()))
    for index, value in enumerate(objects(values)):
        if not _is_calendar_time(value):
            raise chunk.refuse(
                index, key, value, "a date and time like 2023-11-16 18:17:03.9799600", hint="or pass --time-unit"
            )
    raise UserError(
        f"{chunk.path}: {key} mixes times with and without an offset from UTC", hint="write all of them in one form"
    )


def _is_calendar_time(value: object) -> bool:
    import pyarrow as pa

    for kind in (pa.timestamp("ns"), pa.timestamp("ns", tz="UTC")):
        try:
            return bool(pa.array([value], pa.string()).cast(kind).null_count == 0)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            continue
    return False


def block_ids(chunk: RawChunk, key: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Column ``key`` of lists of block ids as (counts[n], flat ids); UserError at the first that is none."""
    rows = objects(chunk.values[key])
    if set(map(type, rows)) <= {list}:
        lists = cast("Sequence[list[object]]", rows)
        flat = _as_array(list(chain.from_iterable(lists)))
        if flat is not None and flat.dtype.kind == "i":
            return np.fromiter(map(len, lists), np.int64, len(lists)), flat.astype(np.int64, copy=False)
    for index, row in enumerate(rows):
        own = _as_array(row) if isinstance(row, list) else None
        if own is None or (len(own) and own.dtype.kind != "i"):
            raise chunk.refuse(index, key, row, "a list of whole numbers below 2^63")
    raise AssertionError("a column of lists that is not whole numbers has a row that is not")
