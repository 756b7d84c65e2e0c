"""Arrival times that name a day: ISO 8601 texts, Arrow timestamps, and numbers since 1970."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from simulator.workload.columns import RawChunk, objects, shared
from simulator.workload.traces.formats import UNITS_PER_SECOND, TimeUnit

# Clocks of recorded services read between 2000 and 2100; in s, ms, us and ns these stretches do not meet.
_YEAR_2000_S: Final = 946_684_800
_YEAR_2100_S: Final = 4_102_444_800
_LONG_AFTER_ZERO_S: Final = 86_400.0  # offsets of a recording start sooner after its own zero


def epoch_unit(first: float) -> TimeUnit | None:
    """Return the unit in which a first time reads as a date between 2000 and 2100, None where it does in none."""
    for unit, per_second in UNITS_PER_SECOND.items():
        if _YEAR_2000_S <= first / per_second < _YEAR_2100_S:
            return unit
    return None


def contradicting_epoch(first: float, unit: TimeUnit) -> TimeUnit | None:
    """Another unit in which ``first`` is a date while in ``unit`` it is neither a date nor soon after a zero."""
    other = epoch_unit(first)
    in_unit_s = first / UNITS_PER_SECOND[unit]
    return None if other == unit or in_unit_s <= _LONG_AFTER_ZERO_S else other


def is_beyond_clocks(value: float, unit: TimeUnit) -> bool:
    """Whether a time in ``unit`` lies after the year 2100, whatever it counts from."""
    return value / UNITS_PER_SECOND[unit] >= _YEAR_2100_S


def date_of(first: float, unit: TimeUnit) -> str:
    """Write a time since 1970 as ``YYYY-MM-DD``."""
    return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=first / UNITS_PER_SECOND[unit]):%Y-%m-%d}"


def is_date(value: object) -> bool:
    """Whether a value is an ISO 8601 text."""
    return isinstance(value, str) and not is_numeral(value) and _parsed(_texts([value]), None) is not None


def is_numeral(text: str) -> bool:
    """Whether a text is one number, which no date is: those have dashes between their digits."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def typed_times_ns(chunk: RawChunk, key: str) -> NDArray[np.int64] | None:
    """Column ``key`` in nanoseconds where its Arrow type has a unit (timestamp, date, duration), else None."""
    values = chunk.values[key]
    if isinstance(values, list):
        return None
    import pyarrow as pa

    is_duration = pa.types.is_duration(values.type)
    if not (is_duration or pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)):
        return None
    if values.null_count:
        index = int(np.argmax(np.array(values.is_null().to_pylist())))
        raise chunk.refuse(index, key, None, "a time")
    try:
        in_ns = values.cast(pa.duration("ns") if is_duration else pa.timestamp("ns", tz=_zone(values.type)))
    except pa.ArrowException as error:
        raise UserError(
            f"{chunk.path}: {key} has a time that nanoseconds since 1970 do not hold (years 1677 to 2262)"
        ) from error
    return shared(in_ns.cast(pa.int64()))


def _zone(kind: Any) -> str | None:
    return getattr(kind, "tz", None)


def iso_times_ns(chunk: RawChunk, key: str, *, with_zone: bool | None) -> tuple[NDArray[np.int64], bool]:
    """Column ``key`` of ISO 8601 texts as (nanoseconds since 1970, whether they state an offset from UTC).

    ``with_zone`` is what earlier records of the file do; UserError names the first line that is no date or differs.
    """
    found = _parsed(_texts(chunk.values[key]), with_zone)
    if found is not None:
        return found
    for index, value in enumerate(objects(chunk.values[key])):
        own = _parsed(_texts([value]), None)
        if own is None:
            raise chunk.refuse(
                index, key, value, "a date and time like 2023-11-16 18:17:03.9799600", hint="or pass --time-unit"
            )
        if with_zone is not None and own[1] != with_zone:
            raise UserError(
                f"{chunk.path}:{chunk.line[index]}: {key} mixes times with and without an offset from UTC",
                hint="write all of them in one form",
            )
        with_zone = own[1]
    raise AssertionError("a column of dates that does not parse has a text that does not")


def _texts(values: Any) -> Any:
    """Values as an Arrow column of text, None where one is no text."""
    import pyarrow as pa

    if not isinstance(values, list):
        is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
        return values if is_text and not values.null_count else None
    if not all(isinstance(value, str) for value in values):
        return None
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowException, UnicodeEncodeError):  # half a surrogate pair is no text
        return None


def _parsed(texts: Any, with_zone: bool | None) -> tuple[NDArray[np.int64], bool] | None:
    import pyarrow as pa

    if texts is None:
        return None
    for has_zone, kind in ((False, pa.timestamp("ns")), (True, pa.timestamp("ns", tz="UTC"))):
        if with_zone not in {None, has_zone}:
            continue
        try:
            return shared(texts.cast(kind).cast(pa.int64())), has_zone
        except pa.ArrowException:
            continue
    return None
