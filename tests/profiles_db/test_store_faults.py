"""Files that are cut, flipped, newer, older or foreign are named and never half-read."""

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
from profiles_db.layers import QUARANTINE
from profiles_db.schema import SCHEMA_VERSION
from profiles_db.store import Store, open_store
from profiles_db.verify import verify

GemmRow = Callable[..., dict[str, Any]]


def _rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.ParquetFile(path).read()), path)


def _with_metadata(table: pa.Table, **changes: str) -> pa.Table:
    return table.replace_schema_metadata(
        {**table.schema.metadata, **{key.encode(): text for key, text in changes.items()}}
    )


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(share=st.floats(min_value=0, max_value=0.999))
def test_a_cut_file_is_moved_aside_and_the_rest_stays(
    share: float, gemm_row: GemmRow, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Cut anywhere, a file is named once and quarantined; the next read gives exactly the other files' rows."""
    store = open_store(tmp_path_factory.mktemp("db"), bundled=None)
    store.append("gemm", [gemm_row(m=1)], "good")
    (path,) = store.append("gemm", [gemm_row(m=m) for m in range(2, 50)], "cut")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match="damaged") as caught:
        store.read("gemm")
    assert path.name in str(caught.value)
    assert (store.root / QUARANTINE / "h100-sxm" / "gemm" / path.name).exists()
    assert store.read("gemm")["m"].to_pylist() == [1]


def test_a_flipped_byte_is_noticed(store: Store, gemm_row: GemmRow) -> None:
    """Damage inside a data page fails its checksum instead of becoming a wrong latency."""
    (path,) = store.append("gemm", [gemm_row(latency_s=1e-5 * (1 + m), m=m + 1) for m in range(100)], "a")
    column = pq.ParquetFile(path).metadata.row_group(0).column(store.read("gemm").schema.get_field_index("latency_s"))
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        store.read("gemm")


def test_a_damaged_bundled_file_is_only_named(tmp_path: Path, gemm_row: GemmRow) -> None:
    """The read-only layer is not written to, not even to repair it."""
    (path,) = open_store(tmp_path / "bundled", bundled=None).append("gemm", [gemm_row()], "vendor")
    path.write_bytes(path.read_bytes()[:100])
    store = open_store(tmp_path / "own", bundled=tmp_path / "bundled")
    with pytest.raises(UserError, match="damaged") as caught:
        store.read("gemm")
    assert path.exists()
    assert "reinstall" in caught.value.hint


def test_a_newer_schema_is_refused_in_one_sentence(store: Store, gemm_row: GemmRow) -> None:
    """A file of a later version is neither read nor moved."""
    (path,) = store.append("gemm", [gemm_row()], "a")
    _rewrite(path, lambda table: _with_metadata(table, apex_schema_version=str(SCHEMA_VERSION + 1)))
    with pytest.raises(UserError, match=f"schema version {SCHEMA_VERSION + 1} is newer") as caught:
        store.read("gemm")
    assert "\n" not in str(caught.value)
    assert path.exists()


def test_version_1_is_upgraded_in_memory(store: Store, gemm_row: GemmRow) -> None:
    """A version 1 file, which had no framework column, reads as today's and stays as it is on disk."""
    (path,) = store.append("gemm", [gemm_row(m=7)], "a")
    _rewrite(path, lambda table: _with_metadata(table.drop_columns(["framework"]), apex_schema_version="1"))
    content = path.read_bytes()
    (row,) = store.read("gemm").to_pylist()
    assert (row["m"], row["framework"]) == (7, None)
    assert path.read_bytes() == content


def test_version_2_runs_are_upgraded_in_memory(store: Store) -> None:
    """A run recorded before NCCL's variables and sustained clocks were reads as one that does not know them."""
    started = datetime(2026, 1, 1, tzinfo=UTC)
    run = {"run_id": "a", "device": "h100-sxm", "origin": "measured", "started_at": started, "world_size": 1}
    path = store.append_run(run)
    added = ["nccl_environment", "sustained_clocks"]
    _rewrite(path, lambda table: _with_metadata(table.drop_columns(added), apex_schema_version="2"))
    (row,) = store.runs().to_pylist()
    assert (row["run_id"], *(row[name] for name in added)) == ("a", None, None)


def _without_unit(table: pa.Table) -> pa.Table:
    index = table.schema.get_field_index("latency_s")
    return table.set_column(index, pa.field("latency_s", pa.float64()), table["latency_s"])


def _in_milliseconds(table: pa.Table) -> pa.Table:
    index = table.schema.get_field_index("latency_s")
    return table.set_column(index, pa.field("latency_s", pa.float64(), metadata={"unit": "ms"}), table["latency_s"])


def _with_latency(value: float) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index("latency_s")
        return table.set_column(index, table.schema.field("latency_s"), pa.array([value]))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without_unit, "latency_s has unit None"),
        (_in_milliseconds, "latency_s has unit 'ms'"),
        (lambda table: table.drop_columns(["n"]), "column n is missing"),
        (lambda table: _with_metadata(table, apex_family="moe"), "holds family 'moe', expected 'gemm'"),
        (lambda table: table.replace_schema_metadata({}), "holds family 'unknown'"),
        (lambda table: _with_metadata(table, apex_schema_version="next"), "apex_schema_version is 'next'"),
        (_with_latency(float("nan")), "row 0: latency_s is nan"),
        (_with_latency(0.0), r"row 0: latency_s is 0\.0"),
        (_with_latency(-1.0), r"row 0: latency_s is -1\.0"),
    ],
)
def test_a_stored_file_that_breaks_the_contract_is_named_and_left(
    change: Callable[[pa.Table], pa.Table], words: str, store: Store, gemm_row: GemmRow
) -> None:
    """A readable file that is wrong is refused by file, place and value, and not moved: it may be someone's work."""
    (path,) = store.append("gemm", [gemm_row()], "a")
    _rewrite(path, change)
    with pytest.raises(UserError, match=words) as caught:
        store.read("gemm")
    assert str(path) in str(caught.value)
    assert path.exists()


def test_a_row_of_another_device_is_refused(store: Store, gemm_row: GemmRow) -> None:
    """A file copied into another device's folder does not lend it its numbers."""
    (path,) = store.append("gemm", [gemm_row()], "a")
    target = store.root / "l40s" / "gemm" / path.name
    target.parent.mkdir(parents=True)
    path.rename(target)
    with pytest.raises(UserError, match="device is 'h100-sxm', the folder says 'l40s'"):
        store.read("gemm")


def test_an_unwritable_folder_is_one_sentence(tmp_path: Path, gemm_row: GemmRow) -> None:
    """Where the database cannot be written, the path and what to do are said."""
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "h100-sxm").write_text("a file where a folder should be")
    store = open_store(tmp_path / "db", bundled=None)
    with pytest.raises(UserError, match="cannot be written") as caught:
        store.append("gemm", [gemm_row()], "a")
    assert "--db" in caught.value.hint


def test_a_file_the_system_will_not_open_is_not_called_damaged(store: Store, gemm_row: GemmRow) -> None:
    """The operating system's complaint (here: a link to itself) is passed on and the file left where it is."""
    (path,) = store.append("gemm", [gemm_row()], "a")
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(UserError, match="cannot be read"):
        store.read("gemm")
    assert path.is_symlink()


def test_a_link_to_nothing_is_named(store: Store, gemm_row: GemmRow) -> None:
    """A broken link does not send the reader round in circles."""
    (path,) = store.append("gemm", [gemm_row()], "a")
    path.unlink()
    path.symlink_to(store.root / "nowhere.parquet")
    with pytest.raises(UserError, match="is a link to a file that does not exist"):
        store.read("gemm")


def _replaced(table: pa.Table, column: str, values: pa.Array) -> pa.Table:
    index = table.schema.get_field_index(column)
    return table.set_column(index, pa.field(column, values.type, metadata=table.schema.field(column).metadata), values)


LIES: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "a column twice": (lambda t: t.append_column("launch", t["launch"]), "column 'launch' is there twice"),
    "version ²": (lambda t: _with_metadata(t, apex_schema_version="²"), "apex_schema_version is '²'"),
    "version of digits": (lambda t: _with_metadata(t, apex_schema_version="9" * 5000), "apex_schema_version is"),
    "no text": (lambda t: t.replace_schema_metadata({b"apex_family": b"\xff", b"\xfe": b"\xff"}), "holds family"),
    "m as text": (lambda t: _replaced(t, "m", pa.array(["16"] * t.num_rows)), "column m holds 'string'"),
    "m as lists": (lambda t: _replaced(t, "m", pa.array([[16]] * t.num_rows)), "column m holds"),
    "m of floats": (lambda t: _replaced(t, "m", pa.array([16.5] * t.num_rows)), "column m holds 'double'"),
    "device as number": (lambda t: _replaced(t, "device", pa.array([7] * t.num_rows)), "column device holds 'int64'"),
    "latency as structs": (lambda t: _replaced(t, "latency_s", pa.array([{"s": 1.0}] * t.num_rows)), "latency_s holds"),
    "latency as text": (lambda t: _replaced(t, "latency_s", pa.array(["1e-5"] * t.num_rows)), "latency_s holds"),
    "k of 2^62": (lambda t: _replaced(t, "k", pa.array([2**62] * t.num_rows)), "row 0: k is 4611686018427387904"),
    "latency NaN": (lambda t: _replaced(t, "latency_s", pa.array([float("nan")] * t.num_rows)), "must be a finite"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_named_by_reading_and_by_verifying(lie: str, store: Store, gemm_row: GemmRow) -> None:
    """Wrong types, columns, metadata and values end in one message; ``verify`` finds the file and goes on."""
    (path,) = store.append("gemm", [gemm_row(m=m) for m in (1, 2)], "a")
    change, reason = LIES[lie]
    _rewrite(path, change)
    with pytest.raises(UserError) as caught:
        store.read("gemm")
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 500
    (found,) = [finding for finding in verify(store) if finding.is_serious]
    assert (found.kind, found.place) == ("contract", str(path))


@pytest.mark.parametrize("kind", [pa.int32(), pa.dictionary(pa.int8(), pa.int64())])
def test_other_forms_of_the_same_values_are_read(kind: pa.DataType, store: Store, gemm_row: GemmRow) -> None:
    """Smaller integers, dictionaries and large strings of another writer keep their meaning."""
    (path,) = store.append("gemm", [gemm_row(m=m) for m in (1, 2)], "a")
    _rewrite(path, lambda table: _replaced(table, "m", pa.array([1, 2], kind)))
    _rewrite(path, lambda table: _replaced(table, "device", pa.array(["h100-sxm"] * 2).dictionary_encode()))
    _rewrite(path, lambda table: _replaced(table, "backend", pa.array(["torch.cublas"] * 2, pa.large_string())))
    assert store.read("gemm")["m"].to_pylist() == [1, 2]


def test_a_bomb_is_refused_by_what_it_states(store: Store, gemm_row: GemmRow) -> None:
    """Millions of repeated rows in a few kilobytes are refused before any of them is read."""
    (path,) = store.append("gemm", [gemm_row()] * 1000, "a")
    _rewrite(path, lambda table: pa.concat_tables([table] * 3000))
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match="states 3000000 rows, at most"):
        store.read("gemm")


@pytest.mark.parametrize("name", ["../../evil", "a/b", "quarantine", ".hidden", "", "x" * 300, "日本", "a\0b"])
def test_a_device_is_a_plain_folder_name(name: str, store: Store, gemm_row: GemmRow) -> None:
    """A name that leads elsewhere is refused before anything is written."""
    with pytest.raises(UserError, match="device"):
        store.append("gemm", [gemm_row(device=name)], "a")
    assert not store.root.exists()


def test_texts_that_are_no_text_are_damage(store: Store, gemm_row: GemmRow) -> None:
    """Bytes that are no UTF-8 in a column of text, which Parquet itself does not check, are named as damage."""
    (path,) = store.append("gemm", [gemm_row()], "a")

    def spoil(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index("backend")
        bad = pa.array([b"torch\xe8"], pa.binary()).view(pa.string())
        return table.set_column(index, table.schema.field(index), bad)

    _rewrite(path, spoil)
    with pytest.raises(UserError, match=r"damaged or not Parquet: .*UTF8"):
        store.read("gemm")
