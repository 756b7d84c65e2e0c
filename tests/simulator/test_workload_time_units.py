"""Units of arrival times: known from the file, or asked for; and times counted from the first request."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from simulator.workload.traces.formats import UNITS_PER_SECOND, TimeUnit
from simulator.workload.traces.read_trace import read_trace
from simulator.workload.traces.time_units import unit_of_name
from simulator.workload.workload import Workload

COLUMNS = {"prompt": "in", "output": "out"}
EPOCH_S = 1_762_000_000


def rows(key: str, times: Sequence[Any]) -> list[dict[str, Any]]:
    return [{key: time, "in": 100 + i, "out": 5} for i, time in enumerate(times)]


def write(folder: Path, records: Sequence[Mapping[str, Any]], suffix: str) -> Path:
    path = folder / f"t{suffix}"
    if suffix == ".csv":
        path.write_text("\n".join([",".join(records[0]), *(",".join(map(str, r.values())) for r in records)]) + "\n")
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif suffix == ".json":
        path.write_text(json.dumps(records, indent=1))
    else:
        pq.write_table(pa.Table.from_pylist([dict(record) for record in records]), path)
    return path


SUFFIXES = [".csv", ".jsonl", ".json", ".parquet"]


def read(path: Path, time: str, **options: Any) -> Workload:
    return read_trace(path, columns={**COLUMNS, "time": time}, **options)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("ts_ms", "ms"), ("StartTimeNs", "ns"), ("time (s)", "s"), ("time [ms]", "ms"), ("arrival_s", "s"),
        ("timestampMillis", "ms"), ("created_seconds", "s"), ("t_us", "us"), ("t_µs", "us"), ("tMS", "ms"),
        ("ms_since_start", "ms"), ("elapsed sec", "s"), ("time_nanos", "ns"), ("usec", "us"),
        ("timestamp", None), ("created", None), ("arrivals", None), ("us_east_time", None), ("ms_or_s", None),
        ("s", None), ("items", None), ("bonus", None),
    ],
)  # fmt: skip
def test_a_name_states_its_unit_or_none(name: str, unit: TimeUnit | None) -> None:
    """Only a word that is a unit counts, and two units count as none."""
    assert unit_of_name(name) == unit


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("unit", UNITS_PER_SECOND)
def test_units_by_name_read_alike_from_any_container(tmp_path: Path, suffix: str, unit: TimeUnit) -> None:
    """Three named columns are enough for any container, and the name's unit is taken."""
    times = [UNITS_PER_SECOND[unit] * k // 2 if unit != "s" else k / 2 for k in range(5)]
    workload = read(write(tmp_path, rows(f"t_{unit}", times), suffix), f"t_{unit}")
    assert workload.arrival_s.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert workload.prompt_tokens.tolist() == [100, 101, 102, 103, 104]
    assert workload.notes == ()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("unit", UNITS_PER_SECOND)
def test_times_since_1970_are_known_by_their_size(tmp_path: Path, suffix: str, unit: TimeUnit) -> None:
    """Epoch s, ms, us and ns are told apart by the date they give, to the nanosecond where the file is that exact."""
    gaps_ns = [0, 1_000_000_123, 2_500_000_001]
    per_second = UNITS_PER_SECOND[unit]
    exact = [EPOCH_S * per_second + gap * per_second // 10**9 for gap in gaps_ns]
    workload = read(write(tmp_path, rows("created", exact), suffix), "created")
    assert workload.arrival_s.tolist() == [(time - exact[0]) / per_second for time in exact]
    assert any("since 1970: it starts on 2025-11-01" in note for note in workload.notes)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "form", ["2025-03-01T10:00:0{}.250Z", "2025-03-01 10:00:0{}.250", "2025-03-01T12:00:0{}+02:00"]
)
def test_dates_are_read_from_any_container(tmp_path: Path, suffix: str, form: str) -> None:
    """ISO 8601 with a T or a space, with Z, an offset or none, in CSV, JSON lines, a JSON list and Parquet."""
    path = write(tmp_path, rows("created_at", [form.format(k) for k in (1, 2, 5)]), suffix)
    assert read(path, "created_at").arrival_s.tolist() == [0.0, 1.0, 4.0]
    with pytest.raises(UserError, match="created_at holds dates, which need no unit"):
        read(path, "created_at", time_unit="s")


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_parquet_timestamps_carry_their_unit(tmp_path: Path, unit: str, zone: str | None) -> None:
    """A column of timestamps or durations is read by its type, whatever the type's own unit."""
    start = datetime(2025, 3, 1, tzinfo=UTC if zone else None)
    moments = [start + timedelta(seconds=k) for k in (0, 3, 4)]
    for column in (pa.array(moments, pa.timestamp(unit, zone)), pa.array([0, 3, 4]).cast(pa.duration("s"))):
        path = tmp_path / "t.parquet"
        pq.write_table(pa.table({"when": column, "in": [1, 2, 3], "out": [1, 2, 3]}), path)
        assert read(path, "when").arrival_s.tolist() == [0.0, 3.0, 4.0]


def test_a_unit_nobody_states_is_asked_for(tmp_path: Path) -> None:
    """A column without unit in name, type or size is refused with what it would mean, and read once it is stated."""
    path = write(tmp_path, rows("created", [0, 500, 1000]), ".csv")
    with pytest.raises(UserError, match=r"unit of created is not known.*every 500 s in s|unit of created") as asked:
        read(path, "created")
    assert "--time-unit" in asked.value.hint
    assert read(path, "created", time_unit="ms").arrival_s.tolist() == [0.0, 0.5, 1.0]


def mooncake(times: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"timestamp": time, "input_length": 600, "output_length": 8} for time in times]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0, 0.2, 0.4], "whole ms, so this is another unit"),
        ([0, 2, 3, 5, 9], "read in 'ms' puts one request every 0.00225 s, plausible is 0.01 to 10 s"),
        ([0, 200_000, 400_000], "puts one request every 200 s"),
        ([0, 12, 30.5, 41], "whole ms, so this is another unit"),
    ],
)
def test_shared_keys_have_to_agree_with_their_unit(tmp_path: Path, times: Sequence[Any], message: str) -> None:
    """Mooncake's keys with seconds or microseconds in them are asked for, never read a factor of 1,000 off."""
    path = write(tmp_path, mooncake(times), ".jsonl")
    with pytest.raises(UserError, match=message):
        read_trace(path)
    for unit in UNITS_PER_SECOND:
        assert read_trace(path, time_unit=unit).arrival_s[-1] == times[-1] / UNITS_PER_SECOND[unit]


def test_shared_keys_may_hold_dates(tmp_path: Path) -> None:
    """Mooncake's keys with epoch seconds, milliseconds or a date are read as such."""
    for first, half in ((EPOCH_S + 0.25, 0.5), (EPOCH_S * 1000, 500), (EPOCH_S * 10**6, 500_000)):
        path = write(tmp_path, mooncake([first, first + half]), ".jsonl")
        assert read_trace(path).arrival_s.tolist() == [0.0, 0.5]
    dates = write(tmp_path, mooncake(["2025-03-01T10:00:00Z", "2025-03-01T10:00:01Z"]), ".jsonl")
    assert read_trace(dates).arrival_s.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("key", "times", "message"),
    [
        ("ts_ms", [EPOCH_S + 0.5, EPOCH_S + 1.5], r"by its name 1\.762e\+06 s, by its size 2025-11-01 in s"),
        ("arrival_s", [EPOCH_S * 1000, EPOCH_S * 1000 + 500], r"arrival_s is 1762000000000: by its name"),
        ("t_s", [0, 5e9], r"t\.csv:3: t_s is 5000000000\.0 s, 5e\+09 s: after the year 2100"),
        ("t_s", [0, 9_300_000], r"t\.csv:3: t_s makes the trace 9,300,000 s .* long, the engine's clock holds"),
    ],
)
def test_a_name_that_its_values_contradict_is_refused(
    tmp_path: Path, key: str, times: Sequence[Any], message: str
) -> None:
    """A name is believed only as far as its values can be times in that unit."""
    records = [{**row, "prompt_tokens": 1, "output_tokens": 1} for row in rows(key, times)]
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, records, ".csv"), key)


def test_a_changed_time_column_ends_the_certainty_of_a_format(tmp_path: Path) -> None:
    """The format of the other columns says nothing of the unit of a time column it does not know."""
    records = [{"ts": t, "prompt_tokens": 1, "output_tokens": 1} for t in (0, 500, 1000)]
    path = write(tmp_path, records, ".csv")
    for options in ({"format": "apex-csv"}, {}):
        with pytest.raises(UserError, match="the unit of ts is not known"):
            read_trace(path, columns={"time": "ts"}, **options)


def test_dates_of_one_file_keep_one_form(tmp_path: Path) -> None:
    """A date without an offset from UTC after ones with it is refused by its line, also in a later chunk."""
    texts = ["2025-03-01T10:00:00Z", "2025-03-01T10:00:01Z", "2025-03-01T10:00:02"]
    for count in (3, 70_000):
        times = [*texts[:1], *texts[1:2] * (count - 2), texts[2]]
        path = write(tmp_path, rows("at", times), ".jsonl")
        with pytest.raises(UserError, match=rf"t\.jsonl:{count}: at mixes times with and without an offset"):
            read(path, "at")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(
    gaps=st.lists(st.integers(0, 10**9), min_size=1, max_size=8),
    start=st.sampled_from([0, 43_200 * 10**9, EPOCH_S * 10**9]),
    suffix=st.sampled_from(SUFFIXES),
    is_sorted=st.booleans(),
)
def test_arrivals_count_from_the_first_whatever_the_hour(
    tmp_path: Path, gaps: list[int], start: int, suffix: str, is_sorted: bool
) -> None:
    """The same trace recorded at zero, in the afternoon or by the calendar gives the same arrivals, to the bit."""
    times = np.cumsum([0, *gaps])
    order = np.arange(len(times)) if is_sorted else np.arange(len(times))[::-1]
    records = [{"t_ns": int(start + times[i]), "in": 1 + int(i), "out": 1} for i in order]
    workload = read(write(tmp_path, records, suffix), "t_ns", sort=not is_sorted)
    assert workload.arrival_s[0] == 0.0
    np.testing.assert_allclose(workload.arrival_s, times / 1e9, rtol=0, atol=0 if is_sorted else 2e-9)
