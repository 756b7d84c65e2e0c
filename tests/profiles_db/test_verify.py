"""What ``verify`` reports, and what it leaves alone."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles_db.doubles import doubled_rows
from profiles_db.merging import compact_files
from profiles_db.outliers import OUTLIER_FACTOR, slower_than_larger
from profiles_db.schema import FAMILIES
from profiles_db.store import Store
from profiles_db.verify import verify

GemmRow = Callable[..., dict[str, Any]]

ALL_REDUCE = {"kind": "all_reduce", "ranks": 8, "nodes": 1, "level": "nvlink", "message_bytes": 2**30}
ATTENTION = {"phase": "mixed", "variant": "gqa", "num_heads": 64, "num_kv_heads": 8, "head_dim": 128, "v_head_dim": 128}
ATTENTION |= {"window": 0, "kv_dtype": "bf16", "num_prefill": 1, "prefill_q": 8192, "prefill_kv": 16384}
ATTENTION |= {"num_decode": 8, "decode_q": 1, "decode_kv": 1000, "decode_kv_max": 2000}
SHAPES: dict[str, dict[str, object]] = {
    "gemm": {"m": 16384, "n": 16384, "k": 16384, "scaling": "none", "quantise": False},
    "collective": ALL_REDUCE,
    "attention": ATTENTION,
    "scan": {"phase": "prefill", "variant": "mamba2", "num_heads": 128, "num_groups": 8, "head_dim": 64, "chunk": 128}
    | {"state_dim": 128, "state_dtype": "fp32", "num_prefill": 64, "prefill_q": 8192, "num_decode": 0, "decode_q": 1},
    "elementwise": {"op": "add", "rows": 4096, "width": 8192, "io_bytes": 2**28},
    "moe": {"num_tokens": 16384, "hidden": 7168, "inter": 2048, "num_experts": 256, "topk": 8, "tp": 1, "ep": 1}
    | {"routing": "balanced"},
}


def _record(store: Store) -> None:
    run = {"run_id": "a", "device": "h100-sxm", "origin": "measured", "world_size": 1}
    store.append_run({**run, "started_at": datetime(2026, 1, 1, tzinfo=UTC)})


def test_a_sound_store_has_no_findings(store: Store, gemm_row: GemmRow) -> None:
    """Plausible rows of a recorded run give nothing to report."""
    _record(store)
    store.append("gemm", [gemm_row(m=m, latency_s=1e-5 * m, latency_p10_s=9e-6 * m) for m in (1, 2, 4)], "a")
    assert verify(store) == []


@pytest.mark.parametrize("family", SHAPES)
def test_rates_beyond_any_device_are_impossible(family: str, store: Store, gemm_row: GemmRow) -> None:
    """A large op in a microsecond is reported as serious, with the row; the same op in a second is not."""
    _record(store)
    context = {name: value for name, value in gemm_row().items() if name not in SHAPES["gemm"]}
    store.append(family, [{**context, **SHAPES[family], "latency_s": 1.0, "backend": "slow"}], "a")
    assert verify(store) == []
    store.append(family, [{**context, **SHAPES[family], "latency_s": 1e-6}], "a")
    (finding,) = verify(store)
    assert (finding.kind, finding.is_serious, finding.rows) == ("impossible", True, 1)
    assert "latency_s 1e-06" in finding.detail


def test_shorter_than_any_kernel_is_impossible(store: Store, gemm_row: GemmRow) -> None:
    """A latency of nanoseconds is a unit mistake, whatever the op."""
    _record(store)
    store.append("gemm", [gemm_row(m=1, n=1, k=1, latency_s=1e-8)], "a")
    assert [finding.kind for finding in verify(store)] == ["impossible"]


def test_a_mean_above_the_maximum_is_impossible(store: Store, gemm_row: GemmRow) -> None:
    """Decoded lengths cannot average more than the longest."""
    _record(store)
    context = {name: value for name, value in gemm_row().items() if name not in SHAPES["gemm"]}
    store.append("attention", [{**context, **ATTENTION, "latency_s": 1.0, "decode_kv": 3000}], "a")
    (finding,) = verify(store)
    assert "above their maximum" in finding.detail


def test_quantiles_must_surround_the_median(store: Store, gemm_row: GemmRow) -> None:
    """A tenth percentile above the median is reported."""
    _record(store)
    store.append("gemm", [gemm_row(latency_s=1e-5, latency_p10_s=2e-5)], "a")
    (finding,) = verify(store)
    assert "latency_p10_s" in finding.detail


def test_repeats_and_runs_without_record_are_mentioned(store: Store, gemm_row: GemmRow) -> None:
    """Repeats come with their spread; rows of an unrecorded run are counted; neither is serious."""
    store.append("gemm", [gemm_row(latency_s=t) for t in (1e-5, 1.1e-5)], "a")
    found = {finding.kind: finding for finding in verify(store)}
    assert set(found) == {"repeats", "no run record"}
    assert "median 9.5%" in found["repeats"].detail
    assert not any(finding.is_serious for finding in found.values())


def test_damaged_and_foreign_files_are_serious_and_stay(store: Store, gemm_row: GemmRow) -> None:
    """Verify names bad files without moving them, and goes on to the others."""
    _record(store)
    (cut,) = store.append("gemm", [gemm_row()], "a")
    cut.write_bytes(cut.read_bytes()[:80])
    (foreign,) = store.append("gemm", [gemm_row(m=2)], "a")
    pq.write_table(pa.table({"m": [1]}), foreign)
    store.append("gemm", [gemm_row(m=3, n=1, k=1, latency_s=1e-9)], "a")
    kinds = [finding.kind for finding in verify(store) if finding.is_serious]
    assert kinds == ["contract", "damaged", "impossible"]
    assert cut.exists()
    assert foreign.exists()


@given(
    points=st.lists(
        st.tuples(st.integers(1, 6), st.sampled_from(["x", "y"]), st.floats(min_value=1e-6, max_value=1e-4)),
        max_size=25,
    )
)
def test_outliers_are_those_slower_than_twice_a_larger_point(points: list[tuple[int, str, float]]) -> None:
    """A row is marked exactly when a row of its curve with more work took less than half its time."""
    family = FAMILIES["gemm"]
    common = {"n": 1, "k": 1, "scaling": "none", "quantise": False, "device": "d", "dtype": "bf16"}
    common |= {"launch": "graph", "cache": "hot", "status": "ok", "origin": "measured", "run_id": "a"}
    rows = [{**common, "m": m, "backend": backend, "latency_s": latency} for m, backend, latency in points]
    marked = slower_than_larger(pa.Table.from_pylist(rows, schema=family.schema), "gemm")
    for row, is_marked in zip(rows, marked, strict=True):
        larger = [other["latency_s"] for other in rows if other["m"] > row["m"] and other["backend"] == row["backend"]]
        assert is_marked == (bool(larger) and row["latency_s"] > OUTLIER_FACTOR * min(larger))


def test_rows_stored_twice_are_serious_and_told_from_repeats(store: Store, gemm_row: GemmRow) -> None:
    """A file that is there twice doubles its rows; verify says so, counts no repeats, and names the way out."""
    _record(store)
    (path,) = store.append("gemm", [gemm_row(m=m, latency_s=1e-5 * m) for m in (1, 2, 4)], "a")
    path.with_name("copy.parquet").write_bytes(path.read_bytes())
    (finding,) = verify(store)
    assert (finding.kind, finding.rows, finding.is_serious) == ("doubled", 3, True)
    assert "apex db merge --compact" in finding.detail
    (folded,) = compact_files(store)
    assert (folded["rows"], folded["doubled"]) == (3, 3)
    assert verify(store) == []


def test_doubles_that_were_folded_into_one_file_are_found(store: Store, gemm_row: GemmRow) -> None:
    """A run all of whose rows are there three times was stored three times, and is folded to one."""
    _record(store)
    rows = [gemm_row(m=m, latency_s=1e-5 * m) for m in range(1, 10)]
    store.append("gemm", [*rows, *rows, *rows], "a")
    assert [(finding.kind, finding.rows) for finding in verify(store)] == [("doubled", 18)]
    compact_files(store)
    assert store.read("gemm").num_rows == 9
    assert verify(store) == []


def test_equal_times_of_one_table_are_repeats(store: Store, gemm_row: GemmRow) -> None:
    """Short times in whole microseconds agree by chance: within a file that is no double."""
    _record(store)
    rows = [gemm_row(m=m, latency_s=1e-6 * m) for m in range(1, 20)]
    store.append("gemm", [*rows, *rows[:5]], "a")
    assert [(finding.kind, finding.is_serious) for finding in verify(store)] == [("repeats", False)]
    compact_files(store)
    assert store.read("gemm").num_rows == 24


@given(data=st.data())
def test_doubles_are_what_files_hold_beyond_any_one_of_them(data: st.DataObject) -> None:
    """Of equal rows spread over files as many are kept as the file with the most of them holds."""
    counts = data.draw(st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=4))
    points = [(file, point) for file, of_file in enumerate(counts) for point, n in enumerate(of_file) for _ in range(n)]
    table = pa.table({"m": [point for _, point in points], "run_id": ["a"] * len(points)})
    doubled = doubled_rows(table, np.array([file for file, _ in points], dtype=np.int64))
    for point in range(3):
        kept = sum(not is_double for (_, of), is_double in zip(points, doubled, strict=True) if of == point)
        assert kept == max(of_file[point] for of_file in counts)
