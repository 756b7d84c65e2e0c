"""The wheel's gated-delta tables: prompts and steps of the scan alone, and no row whose state's format is a guess."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from profiles_db.importers.aiconfigurator import import_tables
from profiles_db.importers.aiconfigurator_wheel import open_wheel, select_tables
from profiles_db.importers.counting import TableCount
from profiles_db.store import Store

_HEADS = {"num_k_heads": 4, "head_k_dim": 128, "num_v_heads": 16, "head_v_dim": 64, "d_model": 2048, "d_conv": 4}


def _rows(framework: str) -> list[dict[str, Any]]:
    kernels = [
        ("context", "causal_conv1d_fn", 2, 512, 0.01),
        ("context", "chunk_gated_delta_rule", 2, 512, 0.08),
        ("generation", "causal_conv1d_update", 8, 1, 0.002),
        ("generation", "fused_recurrent_gated_delta_rule", 8, 1, 0.005),
    ]
    context = {"framework": framework, "version": "1.0", "device": "H100", "op_name": "gdn"}
    return [
        {**context, **_HEADS, "phase": phase, "kernel_source": kernel, "batch_size": batch, "seq_len": tokens}
        | {"num_tokens": batch * tokens, "model_name": "Qwen", "latency": latency}
        for phase, kernel, batch, tokens, latency in kernels
    ]


def _import(root: Path, store: Store, framework: str, *, include_unfit: bool = False) -> TableCount:
    path = root / "h100_sxm" / "linear_attention" / framework / "1.0" / "gdn_perf.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(_rows(framework)), path)
    wheel = open_wheel(root)
    picked = select_tables(wheel, "h100_sxm", [framework], ["all"])
    (count,) = import_tables(wheel, picked, store, include_unfit=include_unfit)
    return count


def test_both_phases_arrive_in_our_columns(tmp_path: Path, store: Store) -> None:
    """Value heads are heads, key heads are groups; a context row is prompts, a generation row is sequences."""
    count = _import(tmp_path / "wheel", store, "vllm")
    assert (count.rows_in, count.kept) == (4, 2)
    prompt, step = sorted(store.read("scan").to_pylist(), key=lambda row: row["num_decode"])
    shape = {"variant": "gated_delta", "num_heads": 16, "num_groups": 4, "head_dim": 64, "state_dim": 128, "chunk": 64}
    shape |= {"state_dtype": "fp32", "dtype": "bf16", "framework": "vllm-1.0", "cache": "hot"}
    assert {**prompt, **shape} == prompt
    assert {**step, **shape} == step
    assert (prompt["phase"], prompt["num_prefill"], prompt["prefill_q"]) == ("prefill", 2, 512)
    assert prompt["latency_s"] == pytest.approx(8e-5)
    assert (step["phase"], step["num_decode"], step["decode_q"]) == ("decode", 8, 1)
    assert step["backend"] == "vllm.fused_recurrent_gated_delta_rule"


def test_steps_faster_than_an_fp32_state_are_left_out_by_name(tmp_path: Path, store: Store) -> None:
    """TensorRT-LLM's tables say nothing of the state's format; who wants them gets them all the same."""
    count = _import(tmp_path / "wheel", store, "trtllm")
    assert count.kept == 0
    assert any("format of the state not recorded" in reason for reason in count.dropped)
    assert _import(tmp_path / "other", store, "trtllm", include_unfit=True).kept == 2
