"""vLLM benchmark results: requests in seconds, forward steps as step rows."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from profiles_db.importers.vllm_forward import import_forward
from profiles_db.importers.vllm_serve import is_serve_result, load_json, read_serve
from profiles_db.store import Store

PATH = Path("result.json")
SERVE: dict[str, Any] = {
    "date": "20260101-000000",
    "model_id": "some/model",
    "num_prompts": 3,
    "request_rate": "inf",
    "max_concurrency": 2,
    "duration": 2.0,
    "completed": 2,
    "failed": 1,
    "total_input_tokens": 30,
    "total_output_tokens": 5,
    "mean_ttft_ms": 150.0,
    "p99_ttft_ms": 199.0,
    "input_lens": [10, 20, 5],
    "output_lens": [3, 2, 0],
    "ttfts": [0.1, 0.2, 0.0],
    "itls": [[0.01, 0.03], [0.05], []],
    "start_times": [1000.5, 1000.0, 1001.0],
    "errors": ["", "", "timeout"],
}
FORWARD: dict[str, Any] = {
    "model": "some/model",
    "device": "NVIDIA H200",
    "vllm_version": "0.33.0",
    "dtype": "fp8",
    "kv_cache_dtype": "fp8",
    "num_layers": 80,
    "tensor_parallel_size": 4,
    "pipeline_parallel_size": 1,
    "cuda_graph": True,
    "batches": [
        {"requests": [{"count": 32, "query_len": 1, "context_len": 8191}], "latency_ms": [9.0, 10.0, 11.0]},
        {
            "requests": [
                {"count": 1, "query_len": 512, "context_len": 1024},
                {"count": 8, "query_len": 1, "context_len": 99},
                {"count": 8, "query_len": 1, "context_len": 299},
            ],
            "latency_ms": [20.0],
        },
    ],
}


def test_requests_become_seconds_on_a_common_clock() -> None:
    """TPOT is decode time per token after the first, starts count from the first request, failures have no times."""
    result = read_serve(PATH, SERVE)
    assert result.requests is not None
    first, second, failed = result.requests.to_pylist()
    assert (first["start_s"], second["start_s"]) == (0.5, 0.0)
    assert first["e2e_s"] == pytest.approx(0.14)
    assert first["tpot_s"] == pytest.approx(0.02)
    assert (failed["is_ok"], failed["ttft_s"], failed["error"]) == (False, None, "timeout")
    assert result.requests.schema.field("ttft_s").metadata == {b"unit": b"s"}


def test_summary_is_in_seconds() -> None:
    """The file's milliseconds become seconds, its totals rates."""
    summary = read_serve(PATH, SERVE).summary
    assert summary["ttft_s"] == pytest.approx({"mean": 0.15, "p99": 0.199})
    assert (summary["requests_per_s"], summary["output_tokens_per_s"], summary["failed"]) == (1.0, 2.5, 1)


def test_older_files_without_starts_or_details() -> None:
    """Missing start times are null; without details there is a summary only, and a note."""
    older = {key: value for key, value in SERVE.items() if key != "start_times"}
    requests = read_serve(PATH, older).requests
    assert requests is not None
    assert requests["start_s"].null_count == 3
    short = {key: value for key, value in SERVE.items() if key not in {"ttfts", "itls", "input_lens", "output_lens"}}
    result = read_serve(PATH, short)
    assert result.requests is None
    assert "--save-detailed" in result.notes[0]


def test_doubts_are_said() -> None:
    """Merged chunks, failures and a stated mean that the requests contradict are mentioned."""
    changed = {**SERVE, "itls": [[0.04], [0.05], []], "mean_ttft_ms": 999.0}
    notes = " ".join(read_serve(PATH, changed).notes)
    assert "1 of 3 requests failed" in notes
    assert "1 requests got several tokens in one chunk" in notes
    assert "stated as 0.999 s, the requests give 0.15 s" in notes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"duration": 0}, "duration is 0"),
        ({"duration": "long"}, "duration is 'long', must be a number"),
        ({"ttfts": [0.1]}, "ttfts has 1 entries, input_lens has 3"),
        ({"itls": None}, "itls must be a list"),
        ({"ttfts": ["soon", 0.2, 0.0]}, r"ttfts\[0\] is 'soon'"),
        ({"completed": -1}, "completed is -1"),
        ({"total_output_tokens": -3}, "total_output_tokens is -3"),
        ({"input_lens": [-3, 20, 5]}, r"input_lens\[0\] is -3"),
        ({"output_lens": [3, 2**63, 0]}, r"output_lens\[1\] is 9223372036854775808"),
        ({"ttfts": [-0.01, 0.2, 0.0]}, r"ttfts\[0\] is -0.01"),
        ({"itls": [[0.01, -0.003], [0.05], []]}, r"itls\[0\]\[1\] is -0.003"),
        ({"start_times": [1000.5, "noon", 1001.0]}, r"start_times\[1\] is 'noon'"),
    ],
)
def test_bad_serve_results_are_named(changes: dict[str, Any], words: str) -> None:
    """A key that does not hold what it should is said with its value."""
    with pytest.raises(UserError, match=words):
        read_serve(PATH, {**SERVE, **changes})


def test_decode_and_mixed_steps(store: Store) -> None:
    """A token sees its context and itself; a mixed batch keeps both parts; samples give the quantiles."""
    count = import_forward(PATH, FORWARD, store)
    assert (count.rows_in, count.kept) == (2, 2)
    decode, mixed = store.read("step").to_pylist()
    assert [decode[name] for name in ("num_prefill", "num_decode", "decode_kv", "samples")] == [0, 32, 8192, 3]
    assert decode["latency_s"] == pytest.approx(0.010)
    assert [mixed[name] for name in ("num_prefill", "prefill_q", "prefill_kv", "num_decode", "decode_kv")] == [
        1,
        512,
        1536,
        16,
        200,
    ]
    assert (decode["plan"], decode["layers"], decode["device"], decode["framework"]) == (
        "tp4",
        80,
        "h200-sxm",
        "vllm-0.33.0",
    )
    assert import_forward(PATH, FORWARD, store).dropped == {"already in the store": 2}


def test_steps_that_do_not_fit_are_counted(store: Store) -> None:
    """Unequal chunks have no columns; a zero latency is none."""
    uneven = {"requests": [{"count": 1, "query_len": q, "context_len": 0} for q in (64, 128)], "latency_ms": [1.0]}
    zero = {"requests": [{"count": 1, "query_len": 8, "context_len": 0}], "latency_ms": [0.0]}
    count = import_forward(PATH, {**FORWARD, "batches": [uneven, zero]}, store)
    assert count.dropped == {"prefill chunks of unequal length": 1, "latency zero, negative or not finite": 1}


@given(missing=st.sampled_from(sorted(FORWARD)))
def test_another_layout_is_refused_by_key(missing: str) -> None:
    """Any key that is missing is named, and nothing is guessed in its place."""
    document = {key: value for key, value in FORWARD.items() if key != missing}
    with pytest.raises(UserError, match=f"not the accepted layout of forward steps: {missing}"):
        import_forward(PATH, document, Store(()))


def test_kinds_are_told_apart() -> None:
    """A serving result is known by its totals."""
    assert is_serve_result(SERVE)
    assert not is_serve_result(FORWARD)


@pytest.mark.parametrize("text", ["[1]", "{", ""])
def test_files_without_an_object_are_named(text: str, tmp_path: Path) -> None:
    """A file that is not one JSON object is said."""
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"result\.json"):
        load_json(path)
