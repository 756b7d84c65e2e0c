"""Merging databases and compacting files keeps every row exactly once."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from profiles_db.merging import compact_files, merge_from
from profiles_db.store import Store, open_store

GemmRow = Callable[..., dict[str, Any]]


def test_merge_copies_rows_and_runs_once(tmp_path: Path, store: Store, gemm_row: GemmRow) -> None:
    """Rows of both databases are in the target afterwards; a second merge copies none."""
    source = open_store(tmp_path / "source", bundled=None)
    run = {"run_id": "theirs", "device": "h100-sxm", "origin": "measured", "world_size": 1}
    source.append_run({**run, "started_at": datetime(2026, 1, 1, tzinfo=UTC)})
    source.append("gemm", [gemm_row(m=m) for m in (1, 2)], "theirs")
    store.append("gemm", [gemm_row(m=1)], "mine")
    assert {count["family"]: count["copied"] for count in merge_from(store, source)} == {"gemm": 2, "run": 1}
    assert store.read("gemm").num_rows == 3
    assert [count["copied"] for count in merge_from(store, source)] == [0, 0]
    assert store.runs()["run_id"].to_pylist() == ["theirs"]


def test_merge_keeps_repeats_of_one_run(tmp_path: Path, store: Store, gemm_row: GemmRow) -> None:
    """Two measurements of one point that differ are repeats, not the same row."""
    source = open_store(tmp_path / "source", bundled=None)
    source.append("gemm", [gemm_row(latency_s=1e-5), gemm_row(latency_s=2e-5)], "a")
    merge_from(store, source)
    assert sorted(store.read("gemm")["latency_s"].to_pylist()) == [1e-5, 2e-5]


def test_compaction_keeps_rows_and_leaves_one_file(store: Store, gemm_row: GemmRow) -> None:
    """Many files become one with the same rows; compacting again does nothing."""
    for m in range(1, 6):
        store.append("gemm", [gemm_row(m=m), gemm_row(m=m, status="oom", latency_s=None)], f"run-{m}")
    before = sorted(store.read("gemm", statuses=None).to_pylist(), key=str)
    (folded,) = compact_files(store)
    assert (folded["rows"], folded["copied"]) == (10, 5)
    assert sorted(store.read("gemm", statuses=None).to_pylist(), key=str) == before
    assert len(list(store.root.rglob("*.parquet"))) == 1
    assert compact_files(store) == []


def test_compaction_after_compaction(store: Store, gemm_row: GemmRow) -> None:
    """A compacted file is folded like any other."""
    for m in range(1, 4):
        store.append("gemm", [gemm_row(m=m)], "a")
        store.append("gemm", [gemm_row(m=m + 10)], "a")
        compact_files(store)
    assert sorted(store.read("gemm")["m"].to_pylist()) == [1, 2, 3, 11, 12, 13]
    assert len(list(store.root.rglob("*.parquet"))) == 1
