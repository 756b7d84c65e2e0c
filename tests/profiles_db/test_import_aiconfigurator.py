"""aiconfigurator's tables: units, names and every known defect, on small tables of the real form and the real wheel."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from profiles_db.importers.aiconfigurator import import_tables
from profiles_db.importers.aiconfigurator_wheel import Wheel, open_wheel, select_tables
from profiles_db.importers.counting import TableCount
from profiles_db.store import Store, open_store

GEMM = {"op_name": "gemm", "kernel_source": "torch.nn.functional.linear", "gemm_dtype": "bfloat16"}
ATTENTION = {"kernel_source": "vllm_flash_attn_fa3", "num_heads": 8, "num_key_value_heads": 1, "head_dim": 128}
ATTENTION |= {"beam_width": 1, "attn_dtype": "bfloat16", "kv_cache_dtype": "fp8", "window_size": 0}
NCCL = {"op_name": "all_reduce", "kernel_source": "NCCL", "nccl_dtype": "half"}
CUSTOM = {"op_name": "all_reduce", "allreduce_dtype": "bfloat16"}


def _write(root: Path, place: str, rows: list[dict[str, Any]]) -> None:
    """Write a table of the wheel; ``place`` is family/framework/version/table under system h100_sxm."""
    _, framework, version, _ = place.split("/")
    labelled = [{"framework": framework.upper(), "version": version, "device": "H100", **row} for row in rows]
    path = root / "h100_sxm" / f"{place}_perf.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(labelled), path)


def _gemm_rows(count: int = 2, **changes: object) -> list[dict[str, Any]]:
    return [{**GEMM, "m": m, "n": 64, "k": 32, "latency": 0.01 * m, **changes} for m in range(1, count + 1)]


@pytest.fixture
def wheel(tmp_path: Path) -> Wheel:
    """Give a folder that looks like the wheel's, with one GEMM table."""
    _write(tmp_path / "wheel", "gemm/vllm/0.24.0/gemm", _gemm_rows())
    return open_wheel(tmp_path / "wheel")


def _import(wheel: Wheel, store: Store, *, include_unfit: bool = False, **selection: Any) -> dict[str, TableCount]:
    picked = select_tables(wheel, "h100_sxm", **{"frameworks": ["vllm"], "versions": [], **selection})
    counts = import_tables(wheel, picked, store, include_unfit=include_unfit)
    return {count.table.removeprefix("h100_sxm/"): count for count in counts}


def test_gemm_rows_arrive_in_our_units_and_names(wheel: Wheel, store: Store) -> None:
    """Milliseconds become seconds; format, kernel, framework and origin are told apart."""
    _import(wheel, store)
    row = store.read("gemm").to_pylist()[0]
    assert row["latency_s"] == pytest.approx(1e-5)
    expected = {"m": 1, "n": 64, "k": 32, "dtype": "bf16", "scaling": "none", "quantise": False}
    expected |= {"backend": "torch.cublas", "launch": "graph", "cache": "hot", "device": "h100-sxm"}
    assert {**row, **expected} == row
    assert (row["framework"], row["origin"]) == ("vllm-0.24.0", "imported:aiconfigurator-core-unknown")
    (run,) = store.runs("h100-sxm").to_pylist()
    assert (run["run_id"], run["vllm_version"]) == (row["run_id"], "0.24.0")


@settings(max_examples=20)
@given(
    latencies_ms=st.lists(
        st.one_of(st.floats(min_value=1e-4, max_value=1e4), st.sampled_from([0.0, -1.0, float("nan"), None])),
        min_size=1,
        max_size=12,
    )
)
def test_every_row_is_kept_in_seconds_or_counted(
    latencies_ms: list[float | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever the times, rows in are rows kept plus rows dropped, and kept times are a thousandth of those read."""
    root = tmp_path_factory.mktemp("case")
    rows = [{**_gemm_rows(1)[0], "m": m, "latency": value} for m, value in enumerate(latencies_ms, start=1)]
    _write(root / "wheel", "gemm/vllm/0.24.0/gemm", rows)
    store = open_store(root / "db", bundled=None)
    count = _import(open_wheel(root / "wheel"), store)["vllm-0.24.0/gemm"]
    good = {m: value * 1e-3 for m, value in enumerate(latencies_ms, start=1) if value is not None and value > 0}
    assert {row["m"]: row["latency_s"] for row in store.read("gemm").to_pylist()} == pytest.approx(good)
    assert (count.rows_in, count.kept) == (len(latencies_ms), len(good))


def test_eager_block_scaled_rows_are_dropped_or_labelled(wheel: Wheel, store: Store, tmp_path: Path) -> None:
    """VLLM's fp8_block rows carry launch overhead: dropped by default, kept as eager on request."""
    kernel = {"gemm_dtype": "fp8_block", "kernel_source": "CutlassFp8BlockScaledMMKernel"}
    _write(wheel.root, "gemm/vllm/0.24.0/gemm", [*_gemm_rows(2), *_gemm_rows(3, **kernel)])
    count = _import(wheel, store)["vllm-0.24.0/gemm"]
    assert (count.rows_in, count.kept, count.dropped) == (
        5,
        2,
        {"fp8_block timed eagerly (launch overhead in it)": 3},
    )
    other = open_store(tmp_path / "other", bundled=None)
    _import(wheel, other, include_unfit=True)
    assert other.read("gemm", where={"launch": "eager"})["dtype"].to_pylist() == ["fp8_block"] * 3
    assert other.read("gemm", where={"launch": "graph"})["dtype"].to_pylist() == ["bf16"] * 2


def test_block_scaled_rows_of_another_framework_are_kept(wheel: Wheel, store: Store) -> None:
    """The eager defect is vLLM's alone."""
    kernel = {"gemm_dtype": "fp8_block", "kernel_source": "sglang_deepgemm_gemm_nt_f8f8bf16"}
    _write(wheel.root, "gemm/sglang/0.5.14/gemm", _gemm_rows(2, **kernel))
    _import(wheel, store, frameworks=["sglang"])
    row = store.read("gemm").to_pylist()[0]
    assert (row["backend"], row["scaling"], row["quantise"]) == ("sglang.deepgemm_gemm_nt_f8f8bf16", "group128", True)


def test_impossible_latencies_and_unknown_formats_are_counted(wheel: Wheel, store: Store) -> None:
    """Zero, negative, missing and non-finite latencies and formats without a name here go, each counted."""
    bad = [0.0, -0.5, None, float("nan"), float("inf")]
    rows = [{**_gemm_rows(1)[0], "latency": value} for value in bad]
    _write(wheel.root, "gemm/vllm/0.24.0/gemm", [*_gemm_rows(2), *rows, *_gemm_rows(1, gemm_dtype="fp2")])
    assert _import(wheel, store)["vllm-0.24.0/gemm"].dropped == {
        "latency zero or negative": 2,
        "latency missing": 1,
        "latency not finite": 2,
        "number format fp2 has no counterpart": 1,
    }


def test_a_second_import_adds_nothing(wheel: Wheel, store: Store) -> None:
    """Importing again counts the rows as present, so that a broken-off import can be completed."""
    _import(wheel, store)
    assert _import(wheel, store)["vllm-0.24.0/gemm"].dropped == {"already in the store": 2}
    assert store.read("gemm").num_rows == 2
    assert store.runs().num_rows == 1


def test_duplicate_keys_give_a_repeatability_figure(wheel: Wheel, store: Store) -> None:
    """Repeats are kept, and how far they are apart is reported."""
    _write(wheel.root, "gemm/vllm/0.24.0/gemm", [*_gemm_rows(1), *_gemm_rows(1, latency=0.011), *_gemm_rows(1, m=9)])
    repeats = _import(wheel, store)["vllm-0.24.0/gemm"].repeats
    assert repeats is not None
    assert (repeats.keys, repeats.rows) == (1, 2)
    assert repeats.median_frac == pytest.approx(0.001 / 0.0105)
    assert store.read("gemm").num_rows == 3


def test_attention_lengths(wheel: Wheel, store: Store) -> None:
    """A prefill chunk sees itself; a decoded token sees the history before it and itself."""
    prefill = {**ATTENTION, "batch_size": 4, "isl": 512, "step": 0, "latency": 1.0}
    decode = {**ATTENTION, "batch_size": 32, "isl": 1, "step": 1023, "latency": 2.0, "window_size": 128}
    _write(wheel.root, "attention/vllm/0.24.0/context_attention", [prefill])
    _write(wheel.root, "attention/vllm/0.24.0/generation_attention", [decode])
    _import(wheel, store)
    rows = {row["phase"]: row for row in store.read("attention").to_pylist()}
    assert [rows["prefill"][name] for name in ("num_prefill", "prefill_q", "prefill_kv", "num_decode")] == [
        4,
        512,
        512,
        0,
    ]
    assert [rows["decode"][name] for name in ("num_decode", "decode_q", "decode_kv", "decode_kv_max")] == [
        32,
        1,
        1024,
        1024,
    ]
    assert [rows["decode"][name] for name in ("num_prefill", "window", "kv_dtype")] == [0, 128, "fp8"]
    assert rows["prefill"]["backend"] == "vllm.flash_attn_fa3"


def test_mla_kernels_are_absorbed_in_decode_only(wheel: Wheel, store: Store) -> None:
    """Prefill works on full heads (192, 128), decode on the shared latent (576, 512)."""
    row = {"kernel_source": "flash_attention", "mla_dtype": "bfloat16", "kv_cache_dtype": "bfloat16", "num_heads": 16}
    row |= {"batch_size": 2, "tp_size": 8, "latency": 0.1}
    _write(wheel.root, "gemm/sglang/0.5.14/gemm", _gemm_rows(1))
    _write(wheel.root, "mla/sglang/0.5.14/context_mla", [{**row, "isl": 64, "step": 0}])
    _write(wheel.root, "mla/sglang/0.5.14/generation_mla", [{**row, "isl": 1, "step": 63}])
    _import(wheel, store, frameworks=["sglang"])
    sizes = {
        row["phase"]: (row["variant"], row["num_heads"], row["num_kv_heads"], row["head_dim"], row["v_head_dim"])
        for row in store.read("attention").to_pylist()
    }
    assert sizes == {"prefill": ("mla", 16, 16, 192, 128), "decode": ("mla", 16, 1, 576, 512)}


def test_collective_elements_become_bytes(wheel: Wheel, store: Store) -> None:
    """Message sizes are elements of the row's type; NCCL stands under its own version."""
    rows = [{**NCCL, "num_gpus": 8, "message_size": 1024, "latency": 0.02}]
    rows.append(
        {**NCCL, "op_name": "alltoall", "nccl_dtype": "int8", "num_gpus": 4, "message_size": 512, "latency": 0.01}
    )
    _write(wheel.root, "comm/nccl/2.29.2/nccl", rows)
    _import(wheel, store)
    found = {
        (row["kind"], row["ranks"], row["message_bytes"], row["dtype"]) for row in store.read("collective").to_pylist()
    }
    assert found == {("all_reduce", 8, 2048, "fp16"), ("all_to_all", 4, 512, "int8")}
    row = store.read("collective").to_pylist()[0]
    assert (row["backend"], row["framework"], row["level"], row["nodes"]) == ("nccl", "nccl-2.29.2", "nvlink", 1)


def test_only_graph_rows_of_custom_all_reduce_serve(wheel: Wheel, store: Store) -> None:
    """Eager all-reduce rows are dropped; the kernel keeps its engine's name."""
    rows = [
        {**CUSTOM, "kernel_source": f"vLLM_custom_{kind}", "num_gpus": 2, "message_size": 64, "latency": 0.01}
        for kind in ("graph", "eager")
    ]
    _write(wheel.root, "comm/vllm/0.24.0/custom_allreduce", rows)
    count = _import(wheel, store)["vllm-0.24.0/custom_allreduce"]
    assert count.dropped == {"all-reduce timed eagerly (launch overhead in it)": 1}
    (row,) = store.read("collective").to_pylist()
    assert (row["backend"], row["launch"], row["message_bytes"]) == ("vllm.custom_all_reduce", "graph", 128)


def test_relabelled_copies_are_dropped_and_named(wheel: Wheel, store: Store) -> None:
    """A table that says another version and holds that version's rows is a copy; the original stays."""
    rows = [
        {**CUSTOM, "kernel_source": "TRTLLM", "num_gpus": 2, "message_size": 64 * size, "latency": 0.01 * size}
        for size in (1, 2, 3)
    ]
    _write(wheel.root, "comm/trtllm/1.0.0/custom_allreduce", rows)
    _write(wheel.root, "comm/sglang/0.5.9/custom_allreduce", [{**row, "version": "1.0.0"} for row in rows])
    counts = _import(wheel, store, frameworks=["all"], versions=["all"])
    assert counts["sglang-0.5.9/custom_allreduce"].dropped == {"relabelled copy of trtllm 1.0.0": 3}
    assert counts["trtllm-1.0.0/custom_allreduce"].kept == 3


def test_rows_of_another_version_are_labelled_as_they_say(wheel: Wheel, store: Store) -> None:
    """A version column that differs from the folder wins, and is mentioned."""
    _write(wheel.root, "gemm/vllm/0.24.0/gemm", [*_gemm_rows(1), *_gemm_rows(1, m=5, version="0.25.dev1")])
    count = _import(wheel, store)["vllm-0.24.0/gemm"]
    assert set(store.read("gemm")["framework"].to_pylist()) == {"vllm-0.24.0", "vllm-0.25.dev1"}
    assert "1 rows say version 0.25.dev1" in count.notes[0]


def test_a_collapsed_collective_is_dropped_or_marked(wheel: Wheel, store: Store, tmp_path: Path) -> None:
    """Eight ranks at a thirtieth of a pair's bandwidth are no link speed; marked when asked to keep them."""
    speeds = {2: 20e9, 4: 5e9, 8: 0.7e9}
    rows = [
        {**NCCL, "num_gpus": ranks, "message_size": 2**28, "latency": 2**29 / speed * 1e3}
        for ranks, speed in speeds.items()
    ]
    _write(wheel.root, "comm/nccl/2.29.2/nccl", rows)
    count = _import(wheel, store)["nccl-2.29.2/nccl"]
    assert count.dropped == {"collective slower than a tenth of a pair's bandwidth": 1}
    assert sorted(store.read("collective")["ranks"].to_pylist()) == [2, 4]
    other = open_store(tmp_path / "other", bundled=None)
    _import(wheel, other, include_unfit=True)
    notes = {row["ranks"]: row["note"] for row in other.read("collective").to_pylist()}
    assert notes[2] is None
    assert "suspect" in notes[8]


def test_moe_formats_and_ungated_experts(wheel: Wheel, store: Store) -> None:
    """Expert shapes map one to one; experts without a gate would be counted with three projections and go."""
    row = {"kernel_source": "vllm_marlin", "moe_dtype": "int4_wo", "num_tokens": 8, "hidden_size": 64, "inter_size": 32}
    row |= {
        "topk": 2,
        "num_experts": 4,
        "moe_tp_size": 2,
        "moe_ep_size": 1,
        "distribution": "power_law_1.2",
        "latency": 1.0,
    }
    _write(wheel.root, "moe/vllm/0.24.0/moe", [row, {**row, "kernel_source": "moe_nongated"}])
    count = _import(wheel, store)["vllm-0.24.0/moe"]
    assert count.dropped == {"experts without a gate projection": 1}
    (stored,) = store.read("moe").to_pylist()
    names = ("dtype", "num_tokens", "hidden", "inter", "num_experts", "topk", "tp", "ep", "routing", "backend")
    assert [stored[name] for name in names] == ["w4a16", 8, 64, 32, 4, 2, 2, 1, "power_law_1.2", "vllm.marlin"]


def test_tables_without_a_place_are_counted(wheel: Wheel, store: Store) -> None:
    """A table the schema cannot hold is listed with its rows and the reason, not passed over."""
    _write(wheel.root, "gemm/vllm/0.24.0/mla_bmm", [{"num_tokens": 1, "latency": 0.1}] * 3)
    count = _import(wheel, store)["vllm-0.24.0/mla_bmm"]
    assert (count.family, count.dropped) == (None, {"batched GEMM has no columns in the schema": 3})


def test_rounding_that_finds_its_scales_is_both_tables_together(wheel: Wheel, store: Store) -> None:
    """A difference is added to the static kernel's time at its size; without that, or below zero, it is dropped."""
    size = {"m": 4, "k": 256, "quant_dtype": "fp8"}
    static = {**size, "kernel_source": "static_scaled", "latency": 0.002}
    more = {**size, "kernel_source": "dynamic_scaled_minus_static_scaled", "latency": 0.001}
    _write(wheel.root, "quantize/vllm/0.24.0/scale_matrix", [static])
    _write(wheel.root, "quantize/vllm/0.24.0/computescale", [more, {**more, "m": 8}, {**more, "latency": -0.1}])
    count = _import(wheel, store)["vllm-0.24.0/computescale"]
    assert count.dropped == {"latency zero or negative": 1, "difference to a timing that is not in the wheel": 1}
    rows = {row["io_bytes"]: row for row in store.read("elementwise").to_pylist()}
    assert set(rows) == {4 * 3 * 256, 4 * (3 * 256 + 4)}
    found = rows[4 * (3 * 256 + 4)]
    assert (found["op"], found["backend"]) == ("quantise", "vllm.dynamic_scaled")
    assert found["latency_s"] == pytest.approx(3e-6)


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ({"frameworks": ["tgi"]}, "no tables of 'tgi'"),
        ({"versions": ["9.9"]}, "no version '9.9'"),
        ({"tables": ["gem"]}, "no table 'gem'"),
    ],
)
def test_selections_that_miss_say_what_there_is(selection: dict[str, Any], words: str, wheel: Wheel) -> None:
    """A framework, version or table that does not exist is answered with those that do."""
    with pytest.raises(UserError, match=words) as caught:
        select_tables(wheel, "h100_sxm", **{"frameworks": ["vllm"], "versions": [], **selection})
    assert caught.value.hint
    with pytest.raises(UserError, match="unknown system 'tpu'"):
        select_tables(wheel, "tpu", ["vllm"], [])


def test_newest_complete_version_is_the_default(wheel: Wheel) -> None:
    """0.24.0 is newer than 0.9.1, and a newer version without a GEMM table is only a fragment."""
    _write(wheel.root, "gemm/vllm/0.9.1/gemm", _gemm_rows(1))
    _write(wheel.root, "comm/vllm/0.30.0/custom_allreduce", [{**CUSTOM, "latency": 1.0}])
    assert {item.version for item in select_tables(wheel, "h100_sxm", ["vllm"], [])} == {"0.24.0"}


def test_systems_without_a_name_are_listed(wheel: Wheel) -> None:
    """A system of a later wheel is named as left out, not passed over."""
    assert wheel.unknown_systems() == ()
    path = wheel.root / "x100_sxm" / "gemm" / "vllm" / "1.0" / "gemm_perf.parquet"
    path.parent.mkdir(parents=True)
    path.touch()
    assert wheel.unknown_systems() == ("x100_sxm",)


def test_a_damaged_table_is_named(wheel: Wheel, store: Store) -> None:
    """A cut file in the wheel is one sentence."""
    (path,) = wheel.root.rglob("gemm_perf.parquet")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="damaged or not Parquet"):
        _import(wheel, store)


@pytest.mark.parametrize("column", ["latency", "kernel_source", "gemm_dtype", "k"])
def test_a_table_without_a_column_is_named(column: str, wheel: Wheel, store: Store) -> None:
    """A table of another form is refused by file and column, and nothing of it is stored."""
    rows = [{name: value for name, value in row.items() if name != column} for row in _gemm_rows(2)]
    _write(wheel.root, "gemm/vllm/0.24.0/gemm", rows)
    with pytest.raises(UserError, match=f'gemm_perf.parquet: Field "{column}" does not exist'):
        _import(wheel, store)
    assert store.read("gemm").num_rows == 0


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """A place without tables is said."""
    with pytest.raises(UserError, match="no folder of aiconfigurator tables"):
        open_wheel(tmp_path / "none")


@pytest.fixture(scope="module")
def h100(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, TableCount]]:
    """Import the installed wheel's H100 tables of vLLM 0.24.0."""
    if importlib.util.find_spec("aiconfigurator_core") is None:
        pytest.skip("aiconfigurator-core is not installed (extra import-aic)")
    store = open_store(tmp_path_factory.mktemp("db"), bundled=None)
    wheel = open_wheel()
    if wheel.version != "0.12.0":
        pytest.skip(f"figures below are of aiconfigurator-core 0.12.0, installed is {wheel.version}")
    return store, _import(wheel, store, versions=["0.24.0"])


def test_real_tables_are_accounted_for(h100: tuple[Store, dict[str, TableCount]]) -> None:
    """Row counts of the real wheel: what is known about it is what is found."""
    _, counts = h100
    assert counts["vllm-0.24.0/gemm"].rows_in == 107_188
    assert counts["vllm-0.24.0/gemm"].kept == 71_484
    assert counts["vllm-0.24.0/custom_allreduce"].kept == 69
    assert sum(count.rows_in for count in counts.values()) == 360_466
    assert sum(count.kept for count in counts.values()) == 242_717


def test_real_gemm_rates_stay_below_the_peak(h100: tuple[Store, dict[str, TableCount]]) -> None:
    """With units right, the best bf16 GEMM reaches 60-100 % of the H100's stated 989.4 TFLOP/s and fp8 beats it."""
    store, _ = h100
    best = {}
    for dtype in ("bf16", "fp8"):
        table = store.read("gemm", where={"dtype": dtype})
        m, n, k, latency = (table[name].to_numpy() for name in ("m", "n", "k", "latency_s"))
        best[dtype] = float(np.max(2.0 * m * n * k / latency))
    assert 0.6 * 989.4e12 < best["bf16"] < 989.4e12
    assert best["bf16"] < best["fp8"] < 2 * 989.4e12


def test_real_decode_reads_keys_below_memory_bandwidth(h100: tuple[Store, dict[str, TableCount]]) -> None:
    """With lengths right, the largest decodes stream their KV at 50-100 % of 3.35 TB/s."""
    store, _ = h100
    where = {"phase": "decode", "window": 0, "kv_dtype": "bf16", "head_dim": 128, "decode_kv": 131_072}
    table = store.read("attention", where=where)
    kv_bytes = table["num_decode"].to_numpy() * table["decode_kv"].to_numpy() * table["num_kv_heads"].to_numpy() * 512.0
    assert 0.5 * 3.35e12 < float(np.max(kv_bytes / table["latency_s"].to_numpy())) < 3.35e12


def test_real_all_reduce_bandwidth(h100: tuple[Store, dict[str, TableCount]]) -> None:
    """With elements counted right, 512 MiB over 8 ranks move at the 254 GB/s known of this table."""
    store, _ = h100
    where = {"backend": "vllm.custom_all_reduce", "ranks": 8, "message_bytes": 2**29}
    (row,) = store.read("collective", where=where).to_pylist()
    assert 2**29 / row["latency_s"] == pytest.approx(254e9, rel=0.01)
