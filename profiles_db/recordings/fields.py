"""Values out of a client's JSON, by strict type and range; every refusal names place, key, value and limit."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown

MOST_TOKENS: Final = 20_000_000  # far beyond any context window
MOST_COUNT: Final = 2**53  # whole numbers beyond are not exact as floats
LONGEST_S: Final = 1e9  # of one request or run
_MISSING: Final = object()


def value_at(record: Mapping[str, Any], key: str) -> object:
    """Return the value under a dotted ``key``, None where a part of the way is missing."""
    found: object = record
    for part in key.split("."):
        found = found.get(part, _MISSING) if isinstance(found, dict) else _MISSING
    return None if found is _MISSING else found


def number_at(record: Mapping[str, Any], key: str, place: str, *, low: float = 0.0, high: float = LONGEST_S) -> float:
    """Return the finite number in [low, high] under a dotted ``key``."""
    value = value_at(record, key)
    if value is None:
        raise UserError(f"{place}: has no {key}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"{place}: {key} is {shown(value)}, must be a number from {low:g} to {high:g}")
    return float(value)


def optional_number_at(
    record: Mapping[str, Any], key: str, place: str, *, low: float = 0.0, high: float = LONGEST_S
) -> float:
    """As `number_at`, NaN where the key is missing or null."""
    return math.nan if value_at(record, key) is None else number_at(record, key, place, low=low, high=high)


def count_at(record: Mapping[str, Any], key: str, place: str, *, low: int = 0, high: int = MOST_TOKENS) -> int:
    """Return the whole number in [low, high] under a dotted ``key``; 12.0 is one."""
    value = value_at(record, key)
    if value is None:
        raise UserError(f"{place}: has no {key}")
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not is_whole or not low <= value <= high:  # type: ignore[operator]  # a number here
        raise UserError(f"{place}: {key} is {shown(value)}, must be a whole number from {low} to {high}")
    return int(value)  # type: ignore[call-overload, no-any-return]  # a number here


def list_at(document: Mapping[str, Any], key: str, place: str, *, hint: str = "") -> Sequence[Any]:
    """Return the list under ``key``."""
    value = document.get(key)
    if not isinstance(value, list):
        raise UserError(f"{place}: {key} must be a list, one entry per request", hint=hint)
    return value


def counts_of(values: Sequence[Any], key: str, place: str) -> NDArray[np.int64]:
    """Return lengths in tokens, one per request."""
    for index, value in enumerate(values):
        if type(value) is not int or not 0 <= value <= MOST_TOKENS:
            raise UserError(
                f"{place}: {key}[{index}] is {shown(value)}, must be a whole number from 0 to {MOST_TOKENS}"
            )
    return np.array(values, dtype=np.int64)


def times_of(
    values: Sequence[Any], key: str, place: str, *, low: float = 0.0, high: float = LONGEST_S
) -> NDArray[np.float64]:
    """Return times in seconds, one per request."""
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise UserError(
                f"{place}: {key}[{index}] is {shown(value)}, must be a number of seconds from {low:g} to {high:g}"
            )
    return np.array(values, dtype=np.float64)
