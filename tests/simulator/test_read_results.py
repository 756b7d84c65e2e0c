"""Results of every client as measured runs: what was served, how it was sent, and the client's own figures in SI."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster_specs.errors import UserError
from simulator.validation.asked import Asked
from simulator.validation.measured_run import MeasuredRun, UnusableRun
from simulator.validation.read_results import read_results
from simulator.workload.workload import CappedLoop, ClosedLoop, OpenLoop
from tests.simulator.bench_results import DEPLOYMENT, save_results, simulated_result, without_details

ASKED = Asked(model="llama-3.1-8b", cluster="h100-sxm-1", plan="tp1")

AIPERF: dict[str, Any] = {
    "schema_version": "1.3",
    "request_throughput": {"unit": "requests/sec", "avg": 0.8233},
    "request_latency": {"unit": "ms", "avg": 2413.5, "p50": 2431.75, "p90": 2438.5, "p99": 2439.45, "std": 30.01},
    "request_count": {"unit": "requests", "avg": 10.0},
    "time_to_first_token": {"unit": "ms", "avg": 195.84, "p50": 175.05, "p90": 251.45, "p99": 253.45},
    "inter_token_latency": {"unit": "ms", "avg": 35.2, "p50": 34.73},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 52.69},
    "output_sequence_length": {"unit": "tokens", "avg": 64.0},
    "input_sequence_length": {"unit": "tokens", "avg": 256.0},
    "benchmark_duration": {"unit": "sec", "avg": 12.14},
    "input_config": {
        "endpoint": {"model_names": ["meta-llama/Llama-3.1-8B-Instruct"]},
        "loadgen": {"concurrency": 2},
    },
    "was_cancelled": False,
}
GENAI = {
    **{key: value for key, value in AIPERF.items() if key not in {"schema_version", "input_config", "was_cancelled"}},
    "input_config": {
        "model_names": ["meta-llama/Llama-3.1-8B-Instruct"], "perf_analyzer": {"stimulus": {"request_rate": 0.9}},
    },
}  # fmt: skip
STAGE: dict[str, Any] = {
    "benchmark_time_seconds": 20.0,
    "load_summary": {"count": 40, "send_duration": 19.5, "requested_rate": 2.0, "achieved_rate": 2.05},
    "successes": {
        "count": 40,
        "latency": {
            "request_latency": {"mean": 0.6, "median": 0.59, "p90": 0.7},
            "time_per_output_token": {"mean": 0.01},
            "time_to_first_token": {"mean": 0.03, "median": 0.029},
            "inter_token_latency": {"mean": 0.0101},
        },
        "throughput": {"requests_per_sec": 2.0, "output_tokens_per_sec": 100.0, "total_tokens_per_sec": 600.0},
        "prompt_tokens": {"total": 10010.0, "mean": 250.25},
        "output_tokens": {"total": 2000.0, "mean": 50.0},
    },
    "failures": {"count": 0},
}
ROW: dict[str, Any] = {
    "hw": "h200-dgxc", "conc": 16, "image": "vllm/vllm-openai:v0.15.1", "model": "openai/gpt-oss-120b",
    "infmax_model_prefix": "gptoss", "framework": "vllm", "precision": "fp4", "spec_decoding": "none", "disagg": False,
    "isl": 1024, "osl": 512, "is_multinode": False, "tp": 4, "pp": 1, "dcp_size": 1, "pcp_size": 1, "ep": 1,
    "dp_attention": "false", "tput_per_gpu": 900.0, "output_tput_per_gpu": 450.0, "input_tput_per_gpu": 450.0,
    "mean_ttft": 0.05, "p99_ttft": 0.2, "mean_tpot": 0.0065, "mean_intvty": 153.8, "mean_itl": 0.0065, "mean_e2el": 3.2,
}  # fmt: skip


def read(path: Path, asked: Asked = ASKED) -> MeasuredRun:
    (run,) = read_results([path], asked)
    assert isinstance(run, MeasuredRun), run
    return run


def save(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("document", "tool", "client", "model"),
    [
        (AIPERF, "aiperf", ClosedLoop(concurrency=2), "meta-llama/Llama-3.1-8B-Instruct"),
        (GENAI, "genai-perf", OpenLoop(), "meta-llama/Llama-3.1-8B-Instruct"),
    ],
)
def test_summaries_of_aiperf_and_genai_perf(tmp_path: Path, document: Any, tool: str, client: Any, model: str) -> None:
    """Their inter-token latency is TPOT here; model and load come from the configuration they keep."""
    run = read(save(tmp_path / "profile_export.json", document), replace(ASKED, model=None))
    assert (run.tool, run.workload.client, run.deployment.model) == (tool, client, model)
    assert (len(run.workload), int(run.workload.output_tokens.sum())) == (10, 640)
    assert run.measured["tpot_s.mean"] == pytest.approx(0.0352)
    assert run.measured["ttft_s.p99"] == pytest.approx(0.25345)
    assert run.measured["throughput_tokens_per_s"] == pytest.approx(52.69)
    assert "itl_s.mean" not in run.measured


def test_gaps_of_aiperf_records_are_pooled(tmp_path: Path) -> None:
    """The times between the parts of every answer are the observations of ITL; the load is the one that is stated."""
    records = [
        {
            "metadata": {"request_start_ns": 10**18 + 10**8 * index, "benchmark_phase": "profiling"},
            "metrics": {
                "input_sequence_length": {"value": 100, "unit": "tokens"},
                "output_sequence_length": {"value": 4, "unit": "tokens"},
                "time_to_first_token": {"value": 20.0, "unit": "ms"},
                "request_latency": {"value": 50.0 + index, "unit": "ms"},
                "inter_chunk_latency": {"value": [10.0, 10.0, 10.0 + index], "unit": "ms"},
            },
            "error": None,
        }
        for index in range(5)
    ]
    path = tmp_path / "profile_export.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    run = read(path, replace(ASKED, concurrency=2))
    assert run.workload.client == ClosedLoop(concurrency=2)
    assert run.measured["itl_s.mean"] == pytest.approx((0.15 + 0.01) / 15)
    assert run.measured["itl_s.p50"] == pytest.approx(0.01)
    assert run.measured["tpot_s.mean"] == pytest.approx(0.032 / 3)
    wrong = [{**records[0], "metrics": {**records[0]["metrics"], "inter_chunk_latency": {"value": [-1], "unit": "ms"}}}]
    path.write_text(json.dumps(wrong[0]) + "\n")
    with pytest.raises(UserError, match=r"inter_chunk_latency\.value\[0\] is -1"):
        read(path)


def test_a_stage_of_inference_perf_states_its_load(tmp_path: Path) -> None:
    """A stage has a rate or a concurrency, and lengths of which the totals are kept."""
    run = read(save(tmp_path / "stage_0_lifecycle_metrics.json", STAGE))
    assert isinstance(run.workload.client, OpenLoop)
    assert int(run.workload.prompt_tokens.sum()) == 10010
    assert set(np.unique(run.workload.prompt_tokens)) == {250, 251}
    assert run.measured["itl_s.mean"] == 0.0101
    closed = {**STAGE, "load_summary": {**STAGE["load_summary"], "concurrency": 4}}
    assert read(save(tmp_path / "closed.json", closed)).workload.client == ClosedLoop(concurrency=4)
    whole = {**STAGE, "load_summary": {"count": 40}}
    with pytest.raises(UserError, match="neither a rate nor a concurrency is stated") as asked:
        read(save(tmp_path / "summary_lifecycle_metrics.json", whole))
    assert "--concurrency or --request-rate" in asked.value.hint
    assert read(tmp_path / "summary_lifecycle_metrics.json", replace(ASKED, concurrency=3)).workload.client == (
        ClosedLoop(concurrency=3)
    )


def test_a_row_of_inferencex_states_its_server(tmp_path: Path) -> None:
    """Model, device, layout, engine version and client come from the row; those per GPU become the server's."""
    run = read(save(tmp_path / "agg.json", ROW), Asked())
    deployment = run.deployment
    assert (deployment.model, deployment.cluster) == ("openai/gpt-oss-120b", "h200-sxm-8")
    assert (deployment.plan, deployment.engine) == ("tp4", "vllm-0.15")
    assert run.workload.client == ClosedLoop(concurrency=16, warmup=32)
    assert len(run.workload) == 192
    assert 819 <= run.workload.prompt_tokens.min() <= run.workload.prompt_tokens.max() <= 1024
    assert run.measured["throughput_tokens_per_s"] == 1800.0
    assert run.measured["e2e_s.mean"] == 3.2


@pytest.mark.parametrize(
    ("changes", "plan", "cluster"),
    [
        ({"tp": 8, "ep": 8, "dp_attention": "true"}, "attn.dp8-moe.ep8", "h200-sxm-8"),
        ({"tp": 8, "ep": 8, "dp_attention": True}, "attn.dp8-moe.ep8", "h200-sxm-8"),
        ({"tp": 8, "ep": 8}, "tp8-ep8", "h200-sxm-8"),
        ({"tp": 8, "pp": 2}, "pp2-tp8", "h200-sxm-2x8"),
        ({"hw": "cluster:gb200-nv", "model": "meta-llama/Llama-3.1-8B", "precision": "fp8"}, "tp4-w.fp8", "gb200-72"),
        (
            {
                "is_multinode": True, "disagg": True, "prefill_num_workers": 2, "prefill_tp": 4, "prefill_ep": 1,
                "prefill_dp_attention": "false", "decode_num_workers": 1, "decode_tp": 8, "decode_ep": 8,
                "decode_dp_attention": "true", "num_prefill_gpu": 8, "num_decode_gpu": 8,
            },
            "prefill.dp2-tp4+decode.attn.dp8-moe.ep8",
            "h200-sxm-2x8",
        ),
    ],
)  # fmt: skip
def test_layouts_of_rows_are_plans(tmp_path: Path, changes: dict[str, Any], plan: str, cluster: str) -> None:
    """Tensor, expert, attention-data and pipeline parallelism, and pools, on whole nodes of the device."""
    run = read(save(tmp_path / "agg.json", {**ROW, **changes}), Asked())
    assert (run.deployment.plan, run.deployment.cluster) == (plan, cluster)
    assert str(run.deployment.layout()) == plan


def test_rows_that_cannot_be_predicted_are_counted_by_reason(tmp_path: Path) -> None:
    """One list holds servers that nobody chose: drafts, other engines and devices, unknown models, missing lengths."""
    old = {key: value for key, value in ROW.items() if key not in {"isl", "osl"}}
    changes = ({}, {"spec_decoding": "mtp"}, {"framework": "tilert"}, {"hw": "tpu-v7"}, {"model": "acme/secret"},
               {"dcp_size": 2}, {"tp": 8, "ep": 4}, {"precision": "bf16"})  # fmt: skip
    rows = [*({**ROW, **change} for change in changes), old]
    first, *others = read_results([save(tmp_path / "agg.json", rows)], Asked())
    assert isinstance(first, MeasuredRun)
    reasons = [run.reason for run in others if isinstance(run, UnusableRun)]
    assert len(reasons) == len(others)
    for reason, words in zip(
        reasons,
        ("with drafts ('mtp')", "on 'tilert', an engine", "on 'tpu-v7', which is no", "'acme/secret', of which no",
         "context parallelism (dcp_size 2)", "experts over 4 of 8 ranks", "weights are bf16, those of",
         "nothing tells the lengths"),
        strict=True,
    ):  # fmt: skip
        assert words in reason


def test_a_summary_of_vllm_is_replayed_by_its_mean_lengths(tmp_path: Path) -> None:
    """Totals are kept to the token; arrivals of a rate are drawn, and span what the client lets them span."""
    result = simulated_result("synthetic:isl=300,osl=40,rate=4,n=60,seed=3")
    run = read(save_results(tmp_path / "plain.json", without_details(result)))
    assert int(run.workload.prompt_tokens.sum()) == result["total_input_tokens"]
    assert int(run.workload.output_tokens.sum()) == result["total_output_tokens"]
    assert isinstance(run.workload.client, OpenLoop)
    assert run.client_lead_s + run.workload.arrival_s[-1] == pytest.approx(60 / result["request_rate"], rel=0.05)
    assert any("every request has the mean lengths" in note for note in run.notes)
    assert run.requests is None
    capped = without_details(result) | {"max_concurrency": 2}
    assert read(save_results(tmp_path / "capped.json", capped)).workload.client == CappedLoop(concurrency=2)


def test_lengths_that_a_summary_states_are_drawn_as_the_client_does(tmp_path: Path) -> None:
    """With totals that are those of a client's own seed the requests are the very ones of the run."""
    legacy = np.random.RandomState(42)
    prompts, outputs = (legacy.randint(max(int(n * 0.5), 1), n + 1, size=80) for n in (1000, 200))
    row = {
        "backend": "sglang", "dataset_name": "random", "request_rate": float("inf"), "max_concurrency": 8,
        "random_input_len": 1000, "random_output_len": 200, "random_range_ratio": 0.5, "duration": 30.0,
        "completed": 80, "total_input_tokens": int(prompts.sum()) - 80, "total_output_tokens": int(outputs.sum()),
        "total_output_tokens_retokenized": 1, "mean_ttft_ms": 50.0, "mean_e2e_latency_ms": 2000.0,
        "server_info": {"model_path": "meta-llama/Llama-3.1-8B-Instruct", "version": "0.5.9", "tp_size": 2,
                        "dp_size": 1, "pp_size": 1, "ep_size": 1, "enable_dp_attention": False},
    }  # fmt: skip
    path = tmp_path / "sglang.jsonl"
    path.write_text(json.dumps(row) + "\n")
    run = read(path, Asked(cluster="h100-sxm-8"))
    assert run.workload.prompt_tokens.tolist() == (prompts - 1).tolist()
    assert run.workload.output_tokens.tolist() == outputs.tolist()
    assert (run.deployment.engine, run.deployment.plan) == ("sglang-0.5", "tp2")
    assert run.tool == "sglang-bench"
    other = read(save(tmp_path / "other.json", {**row, "total_input_tokens": 60_000}), Asked(cluster="h100-sxm-8"))
    assert 500 <= other.workload.prompt_tokens.min() <= other.workload.prompt_tokens.max() <= 1000


def test_a_cap_that_held_requests_back_is_replayed_from_when_they_were_due(tmp_path: Path) -> None:
    """VLLM keeps how long each request waited for the client's own concurrency, so that due times are known."""
    result = simulated_result("synthetic:isl=300,osl=40,rate=4,n=20,seed=3")
    waits = [0.01 * (index % 3) for index in range(20)]
    capped = result | {"max_concurrency": 2, "queue_times": waits}
    dues = np.array(result["start_times"]) - waits
    run = read(save_results(tmp_path / "r.json", capped))
    np.testing.assert_allclose(run.workload.arrival_s, dues - dues[0], atol=1e-9)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"a": 1}, r"is no result of a benchmark client that is known here, with the keys 'a'"),
        ([1], r"is no result of a benchmark client"),
        (
            {**AIPERF, "request_throughput": {"unit": "requests/sec", "avg": 8.0}},
            r"states 8 requests per s over 12\.14",
        ),
        (
            {**AIPERF, "time_to_first_token": {"unit": "ms", "avg": 9000.0}},
            r"a mean ttft_s of 9 s above the mean e2e_s",
        ),
        ({**AIPERF, "time_to_first_token": {"unit": "ms", "p50": 2.0, "p99": 1.0}}, "a median ttft_s of 0.002 s above"),
        ({**AIPERF, "time_to_first_token": {"unit": "lightyears", "avg": 1.0}}, "time_to_first_token.unit is"),
        ({**AIPERF, "input_config": {"loadgen": {"concurrency": 1}}}, r"its requests take at least 24\.135 s under"),
        ({**STAGE, "successes": {**STAGE["successes"], "count": -1}}, r"successes\.count is -1"),
        ({**ROW, "tp": 0}, r"tp is 0, must be a whole number from 1"),
        ({**ROW, "dp_attention": "maybe"}, r"dp_attention is 'maybe', must be true or false"),
        ([ROW, {"a": 1}], r"entry 2: is of no known client, the file begins with inferencex"),
        ({key: value for key, value in AIPERF.items() if key != "input_sequence_length"}, "nothing tells the lengths"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, document: object, message: str) -> None:
    """Another schema, figures that contradict each other, values out of range: one error with place and key."""
    with pytest.raises(UserError, match=message):
        read_results([save(tmp_path / "r.json", document)], ASKED)


def test_what_a_row_says_is_not_overruled(tmp_path: Path) -> None:
    """Another device or layout than the row's makes it unusable, another load is an error."""
    path = save(tmp_path / "agg.json", ROW)
    for asked, words in (
        (Asked(cluster="h100-sxm-8"), "on 'h200-dgxc', and --cluster is 'h100-sxm-8'"),
        (Asked(plan="tp8"), "as tp4, and --plan is 'tp8'"),
    ):
        (run,) = read_results([path], asked)
        assert isinstance(run, UnusableRun)
        assert words in run.reason
    with pytest.raises(UserError, match="states its load, 16, and --concurrency is 8"):
        read_results([path], Asked(concurrency=8))


def test_results_without_an_answer_are_unusable(tmp_path: Path) -> None:
    """A failed run is no measurement, with or without details."""
    plain = without_details(simulated_result("synthetic:isl=30,osl=4,rate=4,n=5,seed=3"))
    dead = plain | {"completed": 0, "failed": 5, "total_input_tokens": 0, "total_output_tokens": 0}
    dead |= {"request_throughput": 0.0, "output_throughput": 0.0}
    (run,) = read_results([save_results(tmp_path / "dead.json", dead)], DEPLOYMENT)
    assert isinstance(run, UnusableRun)
    assert run.reason == "all requests failed"
    (run,) = read_results([save(tmp_path / "cancelled.json", {**AIPERF, "was_cancelled": True})], ASKED)
    assert isinstance(run, UnusableRun)
    assert run.reason == "the run was cancelled"
