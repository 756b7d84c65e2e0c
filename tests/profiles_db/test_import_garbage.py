"""Whatever a file holds, an importer answers with rows or with one message, never with another exception."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from profiles_db.importers.apex_plus import import_apex_plus
from profiles_db.importers.llmservingsim import import_llmservingsim
from profiles_db.importers.nccl_tests import import_nccl_tests
from profiles_db.importers.vidur import import_vidur
from profiles_db.importers.vllm_forward import import_forward
from profiles_db.importers.vllm_serve import load_json, read_serve
from profiles_db.manifest import load_manifest
from profiles_db.store import Store, open_store

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)
CELL = st.one_of(
    st.sampled_from(["", "1", "-3", "0.5", "nan", "half", "True", "H100-SXM-80GB"]), st.text("ab,\"'\n;", max_size=4)
)


def _answer(call: Callable[[], object]) -> None:
    """Make the call; any exception but the package's own fails the test."""
    with contextlib.suppress(UserError):
        call()


def _filled(keys: list[str], values: Any) -> Any:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(keys, values))


SERVE_KEYS = ["duration", "completed", "total_input_tokens", "total_output_tokens", "failed", "mean_ttft_ms"]
SERVE_KEYS += ["input_lens", "output_lens", "ttfts", "itls", "start_times", "errors"]
LISTS = st.lists(
    st.one_of(st.integers(-2, 5), st.floats(), st.none(), st.text(max_size=2), st.lists(st.floats(), max_size=2))
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give one folder for all examples of this file."""
    return tmp_path_factory.mktemp("garbage")


def _store(folder: Path) -> Store:
    return open_store(folder / "db", bundled=None)


@settings(max_examples=25)
@given(text=st.one_of(st.text(max_size=60), JSON.map(json.dumps)))
def test_json_readers(text: str, folder: Path) -> None:
    """Any text as a manifest, a benchmark result or nccl-tests' JSON."""
    path = folder / "file.json"
    path.write_text(text, encoding="utf-8")
    _answer(lambda: load_manifest(path))
    _answer(lambda: load_json(path))
    _answer(lambda: import_nccl_tests([path], _store(folder)))


@settings(max_examples=25)
@given(document=_filled(SERVE_KEYS, st.one_of(JSON, LISTS, st.just(1.0))))
def test_serve_results(document: dict[str, Any]) -> None:
    """The right keys with any values."""
    _answer(lambda: read_serve(Path("result.json"), document))


@settings(max_examples=25)
@given(
    document=_filled(
        ["model", "device", "vllm_version", "dtype", "kv_cache_dtype"], st.one_of(JSON, st.just("NVIDIA H200"))
    ),
    batches=st.lists(_filled(["requests", "latency_ms"], st.one_of(JSON, st.just([1.0]))), max_size=2),
)
def test_forward_steps(document: dict[str, Any], batches: list[Any], folder: Path) -> None:
    """The right keys with any values."""
    rest = {"num_layers": 1, "tensor_parallel_size": 1, "pipeline_parallel_size": 1, "cuda_graph": True}
    _answer(lambda: import_forward(Path("f.json"), {**document, **rest, "batches": batches}, _store(folder)))


@settings(max_examples=25)
@given(
    config=_filled(["nthreads", "ngpus", "iterations", "graph", "devices"], JSON),
    results=st.lists(_filled(["size", "type", "out_of_place", "in_place"], JSON), max_size=2),
)
def test_nccl_json(config: dict[str, Any], results: list[Any], folder: Path) -> None:
    """The right keys with any values."""
    path = folder / "all_reduce_perf.json"
    path.write_text(json.dumps({"args": ["all_reduce_perf"], "config": config, "results": results}))
    _answer(lambda: import_nccl_tests([path], _store(folder), device="h100-sxm"))


NCCL_CELL = st.sampled_from(["1048576", "float", "sum", "-1", "20.0", "52.4", "0", "N/A", "nan", "x"])
NCCL_LINE = st.one_of(
    st.just("#  size count type redop root time algbw busbw #wrong time algbw busbw #wrong"),
    st.just("#  Rank  1 Group  0 Pid 2 on n0 device  1 [0000:01:00] NVIDIA H200"),
    st.lists(
        st.sampled_from(["1048576", "float", "sum", "-1", "20.0", "52.4", "0", "N/A", "nan", "x"]), max_size=14
    ).map(" ".join),
)


@settings(max_examples=25)
@given(lines=st.lists(NCCL_LINE, max_size=6))
def test_nccl_text(lines: list[str], folder: Path) -> None:
    """Lines that look like output, in any order and cut anywhere."""
    path = folder / "all_reduce_perf.txt"
    path.write_text("\n".join(lines))
    _answer(lambda: import_nccl_tests([path], _store(folder)))


CSV_HEADERS = {
    "gemm_0.csv": "gpu,dtype,m,k,n,time(us)",
    "mha_0.csv": "gpu,dtype,num_heads,head_size,batch_size,seq_len,time(us)",
    "all_gather.csv": "gpu,num_nodes,num_gpus_per_node,dtype,size(kb),time(us)",
    "h100_dgx/all_reduce.csv": "time_stats.all_reduce.median,num_workers,size,collective,devices_per_node",
    "h100/mlp.csv": "time_stats.add.median,time_stats.mlp_up_proj.median,n_head,n_kv_head,n_embd,n_expanded_embd,"
    "use_gated_mlp,num_tokens,num_tensor_parallel_workers",
    "h100/attention.csv": "n_embd,n_q_head,n_kv_head,num_tensor_parallel_workers,batch_size,prefill_chunk_size,"
    "kv_cache_size,is_prefill,attention_backend,time_stats.attn_prefill.median,time_stats.attn_decode.median",
}


SERVING_HEADERS = {
    "dense": "layer,tokens,time_us",
    "per_sequence": "layer,sequences,time_us",
    "attention": "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us",
    "moe": "tokens,activated_experts,time_us",
    "layers": "layer_name,input,latency(ns)",
}


@pytest.mark.parametrize("name", SERVING_HEADERS)
@settings(max_examples=25)
@given(data=st.data())
def test_serving_tables(name: str, data: st.DataObject, folder: Path) -> None:
    """A right header with any cells below it, the model's sizes being any numbers."""
    width = SERVING_HEADERS[name].count(",") + 1
    cells = st.one_of(CELL, st.sampled_from(["qkv_proj", "act_fn", "64", str(2**63), "1e400"]))
    rows = data.draw(st.lists(st.lists(cells, min_size=width, max_size=width + 1), max_size=3))
    path = folder / "llmservingsim" / "tp1" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([SERVING_HEADERS[name], *(",".join(row) for row in rows)]) + "\n")
    keys = [
        "hidden_size",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "num_experts",
        "num_experts_per_tok",
    ]
    config = folder / "config.json"
    sizes = data.draw(_filled(keys, st.one_of(st.integers(1, 64), st.integers(), st.just(None), st.text(max_size=2))))
    config.write_text(json.dumps(sizes))
    _answer(lambda: import_llmservingsim(path, _store(folder), device="h100-sxm", config=config))


@pytest.mark.parametrize("name", CSV_HEADERS)
@settings(max_examples=25)
@given(data=st.data())
def test_csv_tables(name: str, data: st.DataObject, folder: Path) -> None:
    """A right header with any cells below it, rows of the right length or not."""
    width = CSV_HEADERS[name].count(",") + 1
    rows = data.draw(st.lists(st.lists(CELL, min_size=width, max_size=width + 1), max_size=3))
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([CSV_HEADERS[name], *(",".join(row) for row in rows)]) + "\n")
    importer = import_vidur if name.startswith("h100") else import_apex_plus
    _answer(lambda: importer(path, _store(folder), device="h100-sxm"))


@pytest.mark.parametrize("content", [b"gpu,dtype,m,k,n,\xff\n1,2,3,4,5,6\n", b"\xff\xfe\x00", b"", b"\0" * 50])
@pytest.mark.parametrize("name", ["gemm_0.csv", "h100/mlp.csv", "h100/notes.csv"])
def test_a_header_that_is_no_text_is_named(name: str, content: bytes, folder: Path) -> None:
    """A CSV whose header is not UTF-8, or that is empty, ends in one message with its path."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    importer = import_vidur if name.startswith("h100") else import_apex_plus
    with pytest.raises(UserError, match=path.name):
        importer(path, _store(folder), device="h100-sxm")


@pytest.mark.parametrize("change", [{"num_layers": 2**63}, {"model": "\ud800"}, {"batches": [{}] * 10**4}])
def test_forward_steps_out_of_bounds_are_one_short_message(change: dict[str, Any], folder: Path) -> None:
    """Counts beyond 32 bits, half surrogates and thousands of faults at once stay one message."""
    batch = {"requests": [{"count": 1, "query_len": 1, "context_len": 1}], "latency_ms": [1.0]}
    document = {"model": "m", "device": "NVIDIA H200", "vllm_version": "1", "dtype": "fp8", "kv_cache_dtype": "fp8"}
    document |= {"num_layers": 1, "tensor_parallel_size": 1, "pipeline_parallel_size": 1, "cuda_graph": True}
    with pytest.raises(UserError, match=r"f\.json") as caught:
        import_forward(Path("f.json"), {**document, "batches": [batch], **change}, _store(folder))
    assert len(str(caught.value)) < 700
