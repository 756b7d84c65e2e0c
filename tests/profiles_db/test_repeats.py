"""Keys, medians and layers against the plain definition."""

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from profiles_db.repeats import key_ids, median_of_repeats, repeat_spread, without_keys_of

COLUMNS = ("op", "size", "clock")
ROW = st.fixed_dictionaries(
    {
        "op": st.sampled_from(["a", "b"]),
        "size": st.integers(0, 2),
        "clock": st.one_of(st.none(), st.sampled_from([1.0, 2.0])),
        "latency_s": st.floats(min_value=1e-6, max_value=1.0),
    }
)
SCHEMA = pa.schema([("op", pa.string()), ("size", pa.int64()), ("clock", pa.float64()), ("latency_s", pa.float64())])


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _key(row: dict[str, Any]) -> tuple[object, ...]:
    return tuple(row[name] for name in COLUMNS)


def _groups(rows: list[dict[str, Any]]) -> dict[tuple[object, ...], list[float]]:
    groups: dict[tuple[object, ...], list[float]] = {}
    for row in rows:
        groups.setdefault(_key(row), []).append(row["latency_s"])
    return groups


@given(rows=st.lists(ROW, max_size=30))
def test_equal_keys_get_equal_numbers(rows: list[dict[str, Any]]) -> None:
    """Two rows share a number exactly when all key columns agree, null with null included."""
    ids = key_ids(_table(rows), COLUMNS)
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            assert (ids[i] == ids[j]) == (_key(a) == _key(b))


def test_many_wide_columns_do_not_overflow() -> None:
    """Columns whose distinct values multiply beyond 2^63 still number correctly."""
    values = pa.array(range(1000))
    table = pa.table({f"c{index}": values for index in range(12)})
    assert len(np.unique(key_ids(table, table.column_names))) == 1000


@given(rows=st.lists(ROW, max_size=30), above=st.lists(ROW, max_size=10))
def test_rows_below_are_hidden_by_key(rows: list[dict[str, Any]], above: list[dict[str, Any]]) -> None:
    """What is left are the rows whose key does not occur above, in their order."""
    hidden = {_key(row) for row in above}
    left = without_keys_of(_table(rows), _table(above), COLUMNS).to_pylist()
    assert left == [row for row in rows if _key(row) not in hidden]


@given(rows=st.lists(ROW, max_size=30))
def test_median_is_a_measured_row(rows: list[dict[str, Any]]) -> None:
    """Every key appears once, with its lower median and its count."""
    folded = median_of_repeats(_table(rows), COLUMNS).to_pylist()
    expected = {key: (sorted(times)[(len(times) - 1) // 2], len(times)) for key, times in _groups(rows).items()}
    assert {_key(row): (row["latency_s"], row["repeats"]) for row in folded} == expected


@given(rows=st.lists(ROW, max_size=30))
def test_spread_is_range_over_median(rows: list[dict[str, Any]]) -> None:
    """Of every repeated key, the range of its times as a share of their median."""
    repeated = [times for times in _groups(rows).values() if len(times) > 1]
    measured = repeat_spread(_table(rows), COLUMNS)
    expected = sorted((max(times) - min(times)) / float(np.median(times)) for times in repeated)
    np.testing.assert_allclose(np.sort(measured.spread), expected, rtol=1e-12)
    assert measured.rows == sum(map(len, repeated))
