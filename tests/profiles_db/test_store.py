"""The layered store: what goes in comes out, the user's rows win, repeats are kept."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from profiles_db.schema import FAMILIES
from profiles_db.store import Store, default_folder, open_store

GemmRow = Callable[..., dict[str, Any]]

POSITIVE = st.floats(min_value=1e-9, max_value=1e3, allow_nan=False)
SIZE = st.integers(min_value=1, max_value=2**40)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"m": SIZE, "n": SIZE, "k": SIZE, "latency_s": POSITIVE},
        optional={
            "clock_mhz": POSITIVE,
            "latency_p10_s": POSITIVE,
            "energy_j": POSITIVE,
            "temperature_c": st.floats(min_value=-40, max_value=120),
            "note": st.text(max_size=20),
            "framework": st.sampled_from(["vllm-0.24.0", "sglang-0.5.14"]),
            "quantise": st.booleans(),
        },
    ),
    min_size=1,
    max_size=20,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(changes=ROWS)
def test_rows_come_back_bit_for_bit(
    changes: list[dict[str, Any]], gemm_row: GemmRow, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever valid rows are appended are read back exactly, nulls as nulls."""
    store = open_store(tmp_path_factory.mktemp("db"), bundled=None)
    rows = [gemm_row(**change) for change in changes]
    store.append("gemm", rows, "run-1")
    names = FAMILIES["gemm"].schema.names
    assert store.read("gemm").to_pylist() == [{**dict.fromkeys(names), **row, "run_id": "run-1"} for row in rows]


def test_files_lie_where_outside_tools_look(store: Store, gemm_row: GemmRow) -> None:
    """A file is at device/family/*.parquet, one per device, and plain Parquet with units."""
    written = store.append("gemm", [gemm_row(), gemm_row(device="cpu")], "run-1")
    assert {path.relative_to(store.root).parts[:2] for path in written} == {("h100-sxm", "gemm"), ("cpu", "gemm")}
    schema = pq.read_schema(written[0])
    assert schema.field("latency_s").metadata[b"unit"] == b"s"
    assert schema.metadata[b"apex_family"] == b"gemm"


def test_reading_an_empty_store_gives_the_schema(store: Store) -> None:
    """No rows is an answer, with all columns, and creates nothing."""
    assert store.read("attention").schema.names == FAMILIES["attention"].schema.names
    assert not store.root.exists()


def test_user_rows_hide_bundled_rows_of_equal_key(tmp_path: Path, gemm_row: GemmRow) -> None:
    """A key the user measured comes from the user's layer alone, whatever its status; others stay."""
    bundled = open_store(tmp_path / "bundled", bundled=None)
    bundled.append("gemm", [gemm_row(m=m, latency_s=1.0) for m in (1, 2, 3)], "vendor")
    store = open_store(tmp_path / "own", bundled=tmp_path / "bundled")
    store.append("gemm", [gemm_row(m=1, latency_s=2.0), gemm_row(m=2, status="oom", latency_s=None)], "mine")
    assert {row["m"]: row["latency_s"] for row in store.read("gemm").to_pylist()} == {1: 2.0, 3: 1.0}
    assert store.read("gemm", statuses=None).num_rows == 3


def test_null_and_number_are_different_clocks(tmp_path: Path, gemm_row: GemmRow) -> None:
    """Two unlocked rows have equal keys; a locked one does not hide an unlocked one."""
    open_store(tmp_path / "bundled", bundled=None).append("gemm", [gemm_row()], "vendor")
    store = open_store(tmp_path / "own", bundled=tmp_path / "bundled")
    store.append("gemm", [gemm_row(clock_mhz=1410.0)], "mine")
    assert store.read("gemm").num_rows == 2
    store.append("gemm", [gemm_row()], "mine")
    assert store.read("gemm").num_rows == 2


def test_writes_never_touch_the_bundled_layer(tmp_path: Path, gemm_row: GemmRow) -> None:
    """An append goes to the user's layer only."""
    open_store(tmp_path / "bundled", bundled=None).append("gemm", [gemm_row()], "vendor")
    before = sorted((tmp_path / "bundled").rglob("*"))
    open_store(tmp_path / "own", bundled=tmp_path / "bundled").append("gemm", [gemm_row(m=2)], "mine")
    assert sorted((tmp_path / "bundled").rglob("*")) == before


def test_repeats_are_kept_and_folded_on_request(store: Store, gemm_row: GemmRow) -> None:
    """Equal keys are repeats: all are read, or the row of median latency with their count."""
    store.append("gemm", [gemm_row(latency_s=t, power_w=t * 1e6) for t in (3e-5, 1e-5)], "a")
    store.append("gemm", [gemm_row(latency_s=2e-5, power_w=20.0), gemm_row(m=1)], "b")
    assert store.read("gemm").num_rows == 4
    folded = {row["m"]: row for row in store.read("gemm", repeats="median").to_pylist()}
    assert (folded[16]["latency_s"], folded[16]["power_w"], folded[16]["repeats"]) == (2e-5, 20.0, 3)
    assert folded[1]["repeats"] == 1


def test_keys_let_a_run_resume(store: Store, gemm_row: GemmRow) -> None:
    """Keys of what is stored, failed points included, equal the keys of the rows."""
    rows = [gemm_row(), gemm_row(m=1, status="timeout", latency_s=None)]
    store.append("gemm", rows, "a")
    family = FAMILIES["gemm"]
    assert store.keys("gemm", "h100-sxm") == {family.key_of(row) for row in rows}
    assert store.keys("gemm", "h100-sxm", statuses=("ok",)) == {family.key_of(rows[0])}
    assert store.keys("gemm", "cpu") == set()


def test_filters_and_columns(store: Store, gemm_row: GemmRow) -> None:
    """Rows are chosen by value, by several values, and by null; columns by name."""
    store.append("gemm", [gemm_row(m=1), gemm_row(m=2, framework="vllm-0.24.0"), gemm_row(m=3)], "a")
    assert store.read("gemm", where={"m": (1, 2)}, columns=["m"]).to_pylist() == [{"m": 1}, {"m": 2}]
    assert store.read("gemm", where={"framework": None}, columns=["m"]).num_rows == 2
    with pytest.raises(UserError, match="no such column"):
        store.read("gemm", where={"rows": 1})
    with pytest.raises(UserError, match="are not values of type int64"):
        store.read("gemm", where={"m": "many"})
    with pytest.raises(UserError, match="column rows"):
        store.read("gemm", columns=["rows"])
    with pytest.raises(UserError, match="unknown op family 'gem'"):
        store.read("gem")


def test_closing_a_run_replaces_its_open_record(store: Store) -> None:
    """A run appended at its start and again at its end is one row, with the end."""
    started = datetime(2026, 1, 2, tzinfo=UTC)
    run = {"run_id": "r", "device": "cpu", "origin": "measured", "started_at": started, "world_size": 2}
    store.append_run(run)
    assert store.runs()["ended_at"].to_pylist() == [None]
    store.append_run({**run, "ended_at": datetime(2026, 1, 3, tzinfo=UTC)})
    (row,) = store.runs("cpu").to_pylist()
    assert row["ended_at"].day == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latency_s": 0.0}, "row 1: latency_s is 0.0, must be > 0"),
        ({"latency_s": -1e-6}, "row 1: latency_s is -1e-06, must be > 0"),
        ({"latency_s": float("nan")}, "row 1: latency_s is nan, must be a finite number"),
        ({"latency_s": float("inf")}, "row 1: latency_s is inf, must be a finite number"),
        ({"latency_s": None}, "row 1: latency_s is None, must be given where status is ok"),
        ({"status": "oom"}, "row 1: latency_s is 1e-05, must be null where status"),
        ({"status": "fine"}, "row 1: status is 'fine', must be one of ok, oom"),
        ({"m": 0}, "row 1: m is 0, must be > 0"),
        ({"device": None}, "row 1: device is None, must not be null"),
        ({"backend": ""}, "row 1: backend is '', must not be empty"),
        ({"launch": "lazy"}, "row 1: launch is 'lazy', must be one of graph, eager"),
        ({"origin": "guessed"}, "row 1: origin is 'guessed', must be measured"),
        ({"energy_j": -1.0}, "row 1: energy_j is -1.0, must be >= 0"),
        ({"speed": 1.0}, "column speed is not part"),
        ({"m": "many"}, "column m"),
        ({"run_id": "other"}, "row 1: run_id is 'other', must be 'a'"),
        ({"device": "../../elsewhere"}, "device is '../../elsewhere'"),
    ],
)
def test_bad_rows_are_refused_by_row_column_and_value(
    changes: dict[str, Any], words: str, store: Store, gemm_row: GemmRow
) -> None:
    """A bad row among good ones is named, and nothing at all is written."""
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        store.append("gemm", [gemm_row(), gemm_row(**changes)], "a")
    assert not list(store.root.rglob("*.parquet"))


def test_wrong_unit_of_an_appended_table_is_refused(store: Store, gemm_row: GemmRow) -> None:
    """A table whose metadata says milliseconds is not taken for seconds."""
    table = pa.Table.from_pylist([gemm_row(run_id="a")])
    index = table.schema.get_field_index("latency_s")
    table = table.set_column(index, pa.field("latency_s", pa.float64(), metadata={"unit": "ms"}), table["latency_s"])
    with pytest.raises(UserError, match="latency_s has unit 'ms' in its metadata, must be 's'"):
        store.append("gemm", table, "a")


def test_missing_column_of_an_appended_table_is_named(store: Store, gemm_row: GemmRow) -> None:
    """A table without a required column is refused by the column's name."""
    table = pa.Table.from_pylist([gemm_row(run_id="a")]).drop_columns(["cache"])
    with pytest.raises(UserError, match="column cache is missing"):
        store.append("gemm", table, "a")


def test_place_of_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An explicit folder wins over APEX_DB, and that over the platform's; a file in its place is refused."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("APEX_DB", raising=False)
    assert open_store().root == default_folder()
    monkeypatch.setenv("APEX_DB", str(tmp_path / "env"))
    assert open_store().root == tmp_path / "env"
    assert open_store(tmp_path / "given").root == tmp_path / "given"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        open_store(tmp_path / "file")
