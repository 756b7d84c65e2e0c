"""Columns of a trace as they stand in the file, and their checked conversion to numbers.

Every refusal names file, line, key and value, so that the record can be found with an editor.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.files.json_text import parse_json
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass

# Far beyond any context window; a larger "length" is a character count, a timestamp or a wrong column.
MAX_PLAUSIBLE_TOKENS: Final = 20_000_000
MAX_EXACT: Final = 2**53  # whole numbers beyond it are not exact as floats
# What one whole trace may hold: about 100 bytes each while it is read and put in order, so below 1 GB.
MOST_REQUESTS: Final = 8_000_000
MOST_BLOCK_IDS: Final = 16_000_000


class Numerals(list[str]):
    """A column of texts that are all plain decimal numbers, of as many digits as are exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawChunk:
    """Consecutive records of one file; ``values[key]`` is a list of JSON values, `Numerals` or a pyarrow array."""

    path: str
    line: NDArray[np.int64]  # [n] 1-based line (record number in Parquet and JSON lists) of each record
    values: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.line)

    def take(self, indices: NDArray[np.int64]) -> "RawChunk":
        """Return the records at ``indices``."""
        values = {
            key: type(column)(column[i] for i in indices) if isinstance(column, list) else column.take(indices)
            for key, column in self.values.items()
        }
        return RawChunk(path=self.path, line=self.line[indices], values=values)

    def refuse(self, index: int, key: str, value: object, must: str, *, hint: str = "") -> UserError:
        """Build the error for record ``index``."""
        return UserError(f"{self.path}:{self.line[index]}: {key} is {shown(value)}, must be {must}", hint=hint)


def objects(values: Any) -> Sequence[object]:
    """Raw values as Python objects."""
    return values if isinstance(values, list) else values.to_pylist()


def _as_array(values: Any) -> NDArray[np.int64] | NDArray[np.float64] | None:
    """Numbers as int64 where all are whole JSON/CSV integers, else float64; None when one is not a number."""
    if isinstance(values, Numerals):
        return np.array(list(map(int if all(map(str.isdecimal, values)) else float, values)))
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

    if not (_is_text(values) or pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        return None
    for kind in (pa.int64(), pa.float64()):
        try:
            converted = values.cast(kind)
        except pa.ArrowException:
            continue
        return None if converted.null_count else shared(converted)
    return None


def _is_text(values: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(values.type) or pa.types.is_large_string(values.type))


def shared(values: Any) -> NDArray[Any]:
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
    raise chunk.refuse(index, key, objects(values[index : index + 1])[0], f"a number >= {minimum:g}")


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


def identities(chunk: RawChunk, key: str, *, may_lack: bool = False) -> list[int | str | None]:
    """Column ``key`` of texts or whole numbers that name requests; ``may_lack`` lets a null stand for none."""
    found: list[int | str | None] = []
    for index, given in enumerate(objects(chunk.values[key])):
        # A column with a gap is one of floats, as data frames write it.
        value = int(given) if isinstance(given, float) and given.is_integer() else given
        if may_lack and (value is None or value != value):  # noqa: PLR0124 - NaN, what data frames write for none
            found.append(None)
        elif isinstance(value, int | str) and not isinstance(value, bool):
            found.append(value)
        else:
            raise chunk.refuse(index, key, value, "a text or a whole number that names a request")
    return found


def block_ids(chunk: RawChunk, key: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Column ``key`` of lists of block ids as (counts[n], flat ids); UserError at the first that is none."""
    column = chunk.values[key]
    if not isinstance(column, list):
        packed = _packed_lists(column)
        if packed is not None:
            return packed
    rows = [_list_of_text(chunk, key, i, row) if isinstance(row, str) else row for i, row in enumerate(objects(column))]
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


def _packed_lists(column: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Read the lists of an Arrow column without making Python objects of them; None where it holds no plain ones."""
    import pyarrow as pa

    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    is_list = pa.types.is_list(whole.type) or pa.types.is_large_list(whole.type)
    if not is_list or whole.null_count or not pa.types.is_integer(whole.type.value_type):
        return None
    flat = whole.flatten()
    if flat.null_count or pa.types.is_uint64(flat.type):
        return None
    counts = np.diff(shared(whole.offsets)).astype(np.int64)
    return counts, shared(flat.cast(pa.int64()))


def _list_of_text(chunk: RawChunk, key: str, index: int, text: str) -> object:
    """Parse what a CSV file writes of a list: its JSON text."""
    return parse_json(text, f"{chunk.path}:{chunk.line[index]}: {key}") if text.lstrip().startswith("[") else text
