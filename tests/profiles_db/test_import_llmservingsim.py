"""LLMServingSim's tables: shapes from the model's config, units, what is left out and why, and defects."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster_specs.errors import UserError
from profiles_db.importers.counting import TableCount
from profiles_db.importers.llmservingsim import import_llmservingsim
from profiles_db.store import Store

CONFIG = {
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 4096,
    "vocab_size": 32000,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 512,
}
META = "vllm_version: 0.19.0\ncuda_version: '12.8'\ngpu: NVIDIA GeForce RTX 4090\nengine_effective:\n  gpu: other\n"


def _table(
    root: Path, name: str, text: str, *, place: str = "perf/RTX4090/maker/model/bf16/tp1", meta: str = META
) -> Path:
    """Write one table where the repository has it, with its config and, for newer tables, its ``meta.yaml``."""
    config = root / "configs/model/maker/model.json"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps(CONFIG))
    folder = root / "profiler" / place
    folder.mkdir(parents=True, exist_ok=True)
    if meta:
        (folder.parent / "meta.yaml").write_text(meta)
    path = folder / f"{name}.csv"
    path.write_text(text)
    return path


def _dropped(counts: list[TableCount]) -> dict[str, int]:
    return {reason: rows for count in counts for reason, rows in count.dropped.items()}


def test_modules_are_gemms_and_small_ops(tmp_path: Path, store: Store) -> None:
    """Shapes follow from the config and the ranks, microseconds become seconds, module averages are left out."""
    rows = {"qkv_proj": 20.5, "o_proj": 10.0, "gate_up_proj": 30.0, "down_proj": 15.0, "act_fn": 3.0, "rotary_emb": 2.0}
    rows |= {"final_layernorm": 2.5, "layernorm": 2.0, "qk_norm": 1.0, "novelty": 1.0}
    text = "layer,tokens,time_us\n" + "".join(f"{layer},64,{time}\n" for layer, time in rows.items())
    counts = import_llmservingsim(_table(tmp_path, "dense", text, place="perf/RTX4090/maker/model/bf16/tp2"), store)
    shapes = {(row["n"], row["k"]): row for row in store.read("gemm").to_pylist()}
    # 8 query and 2 KV heads of 128 on each of two ranks.
    assert set(shapes) == {(12 * 128, 1024), (1024, 8 * 128), (4096, 1024), (1024, 2048)}
    row = shapes[12 * 128, 1024]
    expected = {"device": "rtx-4090", "dtype": "bf16", "m": 64, "framework": "vllm-0.19.0", "cache": "cold"}
    assert {**row, **expected, "origin": "imported:llmservingsim"} == row
    assert row["latency_s"] == pytest.approx(20.5e-6)
    small = {row["op"]: (row["width"], row["io_bytes"]) for row in store.read("elementwise").to_pylist()}
    assert small == {"silu_mul": (2048, 64 * 2048 * 6), "rope": (10 * 128, 64 * 1280 * 4)}
    assert set(_dropped(counts)) == {
        "mean of a norm that adds a residual and one that does not",
        "mean of the norms of queries and keys",
        "module 'novelty' has no counterpart",
        "copied from tp1",
    }


def test_head_and_sampler_count_sequences(tmp_path: Path, store: Store) -> None:
    """The table over sequences holds the head's GEMM and the sampler."""
    text = "layer,sequences,time_us\nlm_head,8,50\nsampler,8,20\n"
    import_llmservingsim(_table(tmp_path, "per_sequence", text), store)
    (head,), (sampler,) = store.read("gemm").to_pylist(), store.read("elementwise").to_pylist()
    assert (head["m"], head["n"], head["k"]) == (8, 32000, 1024)
    assert (sampler["op"], sampler["rows"], sampler["width"], sampler["io_bytes"]) == ("sampler", 8, 32000, 8 * 320000)


def test_attention_calls_count_what_tokens_see(tmp_path: Path, store: Store) -> None:
    """History is what lies behind: a chunk sees it and itself, a decoded token one more."""
    text = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n512,0,0,0,40\n512,1024,0,0,100\n0,0,4,256,12\n"
    text += "64,128,2,32,30\n0,0,0,0,5\n16,0,0,0,0\n16,0,0,0,nan\n"
    (count,) = import_llmservingsim(_table(tmp_path, "attention", text), store)
    names = ("phase", "num_prefill", "prefill_q", "prefill_kv", "num_decode", "decode_kv", "decode_kv_max")
    found = sorted(tuple(row[name] for name in names) for row in store.read("attention").to_pylist())
    assert found == [
        ("decode", 0, 0, 0, 4, 257, 257),
        ("mixed", 1, 64, 192, 2, 33, 33),
        ("prefill", 1, 512, 512, 0, 0, 0),
        ("prefill", 1, 512, 1536, 0, 0, 0),
    ]
    assert count.dropped == {"call of 0 tokens": 1, "latency zero or negative": 1, "latency missing": 1}


def test_experts_of_balanced_routing_alone(tmp_path: Path, store: Store) -> None:
    """Rows that reach as many experts as balanced tokens do are kept: the schema states no other."""
    text = "tokens,activated_experts,time_us\n1,4,50\n2,4,55\n2,8,90\n64,16,200\n64,8,120\n"
    (count,) = import_llmservingsim(_table(tmp_path, "moe", text), store)
    rows = store.read("moe").to_pylist()
    assert sorted((row["num_tokens"], row["latency_s"]) for row in rows) == [
        (1, pytest.approx(50e-6)),
        (2, pytest.approx(90e-6)),
        (64, pytest.approx(200e-6)),
    ]
    shape = {(row["hidden"], row["inter"], row["num_experts"], row["topk"], row["routing"]) for row in rows}
    assert shape == {(1024, 512, 16, 4, "balanced")}
    assert count.dropped == {"fewer experts than balanced routing reaches": 2}
    assert count.notes


def test_older_tables(tmp_path: Path, store: Store) -> None:
    """Nanoseconds of GEMMs and milliseconds of flash-attn prompts are kept, modules of transformers are not."""
    place = "v0/perf_models/A6000/maker/model/tp1"
    layers = "layer_name,input,kv_cache,tp_size,latency(ns)\nq_proj,16,0,1,49731\nrope,16,0,1,24135\nattn,16,0,1,5310\n"
    _table(tmp_path, "layers", layers, place=place, meta="")
    keys = "time_stats.attn_prefill.median,time_stats.attn_decode.median,num_tensor_parallel_workers,batch_size,"
    calls = keys + "prefill_chunk_size,kv_cache_size\n0.02,,1,1,64,96\n,0.004,1,2,0,32\n0.02,,1,1,64,32\n"
    _table(tmp_path, "attention", calls, place=place, meta="")
    counts = import_llmservingsim(tmp_path / "profiler", store)
    (gemm,), (call,) = store.read("gemm").to_pylist(), store.read("attention").to_pylist()
    assert (gemm["device"], gemm["dtype"], gemm["m"], gemm["n"]) == ("rtx-a6000", "fp16", 16, 2048)
    assert gemm["latency_s"] == pytest.approx(49.731e-6)
    assert (call["prefill_q"], call["prefill_kv"], call["backend"]) == (64, 96, "flash_attn.varlen")
    assert call["latency_s"] == pytest.approx(20e-6)
    assert set(_dropped(counts)) == {
        "module of transformers, which no engine runs",
        "attention of transformers; a table of its own holds flash-attn",
        "decode without a split of the keys, as no engine runs it",
        "chunk longer than what it sees",
    }


def test_what_has_no_place_is_counted_whole(tmp_path: Path, store: Store) -> None:
    """Summaries, variants and hardware nobody knows are left out with all their rows; importing again adds nothing."""
    dense = "layer,tokens,time_us\nqkv_proj,1,20\n"
    _table(tmp_path, "dense", dense)
    _table(tmp_path, "skew", "regime,n\npure,4\npure,8\n")
    _table(tmp_path, "dense", dense, place="perf/RTX4090/maker/model/fp8/tp1")
    _table(tmp_path, "layers", "layer_name\nq_proj\n", place="v0/perf_models/TPU-v6e-1/maker/model/tp1", meta="")
    counts = import_llmservingsim(tmp_path / "profiler", store)
    assert sum(count.kept for count in counts) == 1
    assert _dropped(counts) == {
        "decodes of unequal length, of which the table keeps a summary": 2,
        "variant fp8 has no counterpart": 1,
        "device TPU-v6e-1 is not known here; name it with --device": 1,
    }
    assert sum(count.kept for count in import_llmservingsim(tmp_path / "profiler", store)) == 0


def test_a_slip_of_one_point_is_left_out(tmp_path: Path, store: Store) -> None:
    """A point that takes twice the time of a larger one of its curve is counted, not stored."""
    text = "layer,tokens,time_us\nqkv_proj,1,20\nqkv_proj,2,95\nqkv_proj,4,21\n"
    (count,) = import_llmservingsim(_table(tmp_path, "dense", text), store)
    assert (count.kept, count.dropped) == (2, {"over twice the time of a larger point": 1})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "no configs/model above it has them"),
        ({**CONFIG, "hidden_size": "1024"}, "hidden_size is '1024', must be a whole number"),
        ({**CONFIG, "num_attention_heads": True}, "num_attention_heads is True"),
        ({**CONFIG, "num_attention_heads": 15}, "2 ranks do not share the 15 heads"),
        ([], "is not a config.json"),
    ],
)
def test_sizes_that_cannot_be_had_are_refused(config: Any, words: str, tmp_path: Path, store: Store) -> None:
    """Without the model's sizes no shape is known: the message names the file and what to do."""
    text = "layer,tokens,time_us\nqkv_proj,1,20\n"
    path = _table(tmp_path, "dense", text, place="perf/RTX4090/maker/model/bf16/tp2")
    kept = tmp_path / "configs/model/maker/model.json"
    kept.unlink()
    if config is not None:
        kept.write_text(json.dumps(config))
    with pytest.raises(UserError, match=words) as caught:
        import_llmservingsim(path, store)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.hint


def test_a_named_config_and_device_stand_in(tmp_path: Path, store: Store) -> None:
    """A table outside the repository is read with --config and --device."""
    folder = tmp_path / "somewhere/tp1"
    folder.mkdir(parents=True)
    (folder / "dense.csv").write_text("layer,tokens,time_us\nqkv_proj,1,20\n")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG))
    (folder.parent / "meta.yaml").write_text(META)
    with pytest.raises(UserError, match="no table in a folder tp<N>"):
        import_llmservingsim(config.parent / "config.json", store)
    counts = import_llmservingsim(folder, store, device="lab-card", config=config)
    assert _dropped(counts) == {"variant somewhere has no counterpart": 1}
