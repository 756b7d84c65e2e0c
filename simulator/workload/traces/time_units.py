"""Which unit a column of arrival times is in, and the times as seconds from the first request.

The unit is, in this order, what the user states; what the column's type or text shows (timestamps, ISO 8601); what its
name says (``ts_ms``, ``seconds``); what a date between 2000 and 2100 leaves (epoch s, ms, us, ns); what the format
publishes, where the times agree with it. Otherwise the user is asked: a wrong guess is off by a factor of 1,000.
"""

import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from simulator.workload.columns import RawChunk, numbers, objects
from simulator.workload.traces.calendar_times import (
    contradicting_epoch,
    date_of,
    epoch_unit,
    is_beyond_clocks,
    is_date,
    is_numeral,
    iso_times_ns,
    typed_times_ns,
)
from simulator.workload.traces.formats import UNITS_PER_SECOND, RecordFormat, TimeUnit

# Mean gaps of public traces lie between 0.02 s and 4 s. A stretch of a factor of 1,000 holds any gap in one unit only,
# so it is what keys have to agree with that are written in several units; published layouts get a wider one.
_SHARED_MEAN_GAP_S: Final = (1e-2, 10.0)
_PUBLISHED_MEAN_GAP_S: Final = (1e-4, 600.0)

_LAST_WORDS: Final[dict[str, TimeUnit]] = {"s": "s", "us": "us", "µs": "us", "μs": "us"}
_WORDS: Final[dict[str, TimeUnit]] = {
    **dict.fromkeys(("sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("ms", "msec", "msecs", "milli", "millis", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("usec", "usecs", "micro", "micros", "microsecond", "microseconds"), "us"),
    **dict.fromkeys(("ns", "nsec", "nsecs", "nano", "nanos", "nanosecond", "nanoseconds"), "ns"),
}
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-zµμ]+")
_ASK: Final = "pass --time-unit s, ms, us or ns"


def unit_of_name(key: str) -> TimeUnit | None:
    """Return the unit that a name states (``ts_ms``, ``StartTimeNs``, ``time (seconds)``), None for none or several."""
    words = [word.lower() for word in _WORD.findall(key)]
    found = {_WORDS[word] for word in words if word in _WORDS}
    if len(words) > 1 and words[-1] in _LAST_WORDS:
        found.add(_LAST_WORDS[words[-1]])
    return found.pop() if len(found) == 1 else None


@dataclass(slots=True, kw_only=True)
class ArrivalClock:
    """Turns the time column of chunk after chunk into seconds from the first request of the file."""

    path: str
    fmt: RecordFormat
    note: str = ""
    _unit: TimeUnit | None = None  # of a column of numbers, once the first of them are seen
    _is_sure: bool = False  # the unit needs no agreement of the times
    _origin: int | float | None = None
    _holds_dates: bool | None = None
    _with_zone: bool | None = None

    def seconds(self, chunk: RawChunk) -> NDArray[np.float64]:
        """Return the times of one chunk in seconds from the first record read; whole numbers are subtracted as such."""
        if not len(chunk):
            return np.zeros(0)
        times, unit = self._times(chunk)
        if self._origin is None:
            self._origin = times[0].item()
        if times.dtype.kind == "i" and not isinstance(self._origin, int):
            times = times.astype(np.float64)
        return (times - self._origin) / UNITS_PER_SECOND[unit]

    def _times(self, chunk: RawChunk) -> tuple[NDArray[np.int64] | NDArray[np.float64], TimeUnit]:
        key = self.fmt.time
        typed = typed_times_ns(chunk, key)
        if self._holds_dates is None:
            self._holds_dates = typed is not None or self._looks_dated(objects(chunk.values[key][:1])[0])
            if self._holds_dates and self.fmt.unit_basis == "stated":
                raise UserError(f"{self.path}: {key} holds dates, which need no unit", hint="leave --time-unit out")
        if typed is not None:
            return typed, "ns"
        if self._holds_dates:
            times_ns, self._with_zone = iso_times_ns(chunk, key, with_zone=self._with_zone)
            return times_ns, "ns"
        times = numbers(chunk, key)
        if self._unit is None:
            self._unit = self._decided(chunk, times)
        self._check_values(chunk, times, self._unit)
        return times, self._unit

    def _looks_dated(self, first: object) -> bool:
        """Whether a column is to be read as dates: it is one, or it is no number where no unit is known."""
        return is_date(first) or (self.fmt.time_unit is None and isinstance(first, str) and not is_numeral(first))

    def _decided(self, chunk: RawChunk, times: NDArray[np.int64] | NDArray[np.float64]) -> TimeUnit:
        """Settle the unit of a column of numbers by its name and its first values."""
        key, fmt, first = self.fmt.time, self.fmt, times[0].item()
        named = fmt.time_unit if fmt.unit_basis == "named" else unit_of_name(key) if fmt.time_unit is None else None
        unit = named or fmt.time_unit
        self._is_sure = fmt.unit_basis == "stated" or named is not None
        epoch = epoch_unit(first) if unit is None else contradicting_epoch(first, unit)
        if unit is not None and (epoch is None or fmt.unit_basis == "stated"):
            return unit
        if named is not None and epoch is not None:
            raise UserError(
                f"{self.path}:{chunk.line[0]}: {key} is {first}: by its name {first / UNITS_PER_SECOND[named]:.6g} s, "
                f"by its size {date_of(first, epoch)} in {epoch}",
                hint=_ASK,
            )
        if epoch is None:
            raise self._unknown(times)
        self._is_sure = True
        self.note = f"{self.path}: {key} is read as {epoch} since 1970: it starts on {date_of(first, epoch)}"
        return epoch

    def _unknown(self, times: NDArray[np.int64] | NDArray[np.float64]) -> UserError:
        gap = float(times.max() - times.min()) / max(len(times) - 1, 1)
        readings = ", ".join(f"{gap / per_second:.3g} s in {unit}" for unit, per_second in UNITS_PER_SECOND.items())
        return UserError(
            f"{self.path}: the unit of {self.fmt.time} is not known: its name does not say it, and one request every "
            f"{gap:.6g} units means every {readings}",
            hint=_ASK,
        )

    def _check_values(self, chunk: RawChunk, times: NDArray[np.int64] | NDArray[np.float64], unit: TimeUnit) -> None:
        key = self.fmt.time
        latest = int(np.argmax(times))
        if is_beyond_clocks(float(times[latest]), unit):
            raise UserError(
                f"{self.path}:{chunk.line[latest]}: {key} is {times[latest]} {unit}, "
                f"{float(times[latest]) / UNITS_PER_SECOND[unit]:.3g} s: after the year 2100",
                hint=f"is it in another unit? {_ASK}",
            )
        if self.fmt.whole_times and not self._is_sure and times.dtype.kind == "f" and (times != np.floor(times)).any():
            index = int(np.argmax(times != np.floor(times)))
            raise UserError(
                f"{self.path}:{chunk.line[index]}: {key} is {times[index]}: {self.fmt.name} files hold whole {unit}, "
                "so this is another unit",
                hint=_ASK,
            )

    def check_gap(self, requests: int, span_s: float) -> None:
        """Refuse a mean gap that speaks against a unit nobody stated."""
        gap_s = self._mean_gap_s(requests, span_s)
        if gap_s is None or self._is_sure or self._unit is None:
            return
        low, high = _SHARED_MEAN_GAP_S if self.fmt.unit_basis == "shared" else _PUBLISHED_MEAN_GAP_S
        if not low <= gap_s <= high:
            raise UserError(
                f"{self.path}: {self.fmt.time} read in {self._unit!r} puts one request every {gap_s:.3g} s, "
                f"plausible is {low:g} to {high:g} s",
                hint=f"is it in another unit? {_ASK} (--time-unit {self._unit} if it is right as it is)",
            )

    def gap_note(self, requests: int, span_s: float) -> str:
        """Remark on a gap that no public trace shows, though the unit is stated."""
        gap_s = self._mean_gap_s(requests, span_s)
        if gap_s is None or self._unit is None:
            return ""
        low, high = _PUBLISHED_MEAN_GAP_S
        if low <= gap_s <= high:
            return ""
        return f"{self.path}: one request every {gap_s:.3g} s is unusual; is the time unit right?"

    @staticmethod
    def _mean_gap_s(requests: int, span_s: float) -> float | None:
        return None if requests < 2 or span_s <= 0 else span_s / (requests - 1)
