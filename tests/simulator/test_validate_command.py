"""`apex validate`: results of clients beside predictions, and everything that cannot be compared, by name."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.simulator.bench_results import save_results, simulated_result, with_failures

OPEN = "synthetic:isl=300,osl=40,rate=4,n=60,seed=3"
WHERE = ("--cluster", "h100-sxm-1", "--plan", "tp1", "--costs", "analytic")
Run = Callable[..., "CompletedProcess[str]"]


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return simulated_result(OPEN)


def test_a_result_is_compared_metric_by_metric(run_apex: Run, tmp_path: Path, result: dict[str, Any]) -> None:
    """The model comes from the result; every measured metric has its prediction, interval and error, also as JSON."""
    path = save_results(tmp_path / "run.json", result)
    said = run_apex("validate", path, *WHERE)
    assert said.returncode == 0
    assert "meta-llama/Llama-3.1-8B-Instruct as tp1 on h100-sxm-1" in said.stdout
    assert "TTFT is predicted 0.0% too" in said.stdout
    found = json.loads(run_apex("validate", path, *WHERE, "--json").stdout)
    (run,) = found["runs"]
    assert set(run["metrics"]["ttft_s.p99"]) == {"measured", "predicted", "interval", "error_frac", "covered"}
    assert run["metrics"]["tpot_s.mean"]["error_frac"] == pytest.approx(0.0, abs=1e-6)
    assert found["summary"]["e2e_s.mean"]["coverage_frac"] == 1.0
    assert found["verdict"]


def test_runs_of_several_servers_are_listed_in_a_file(run_apex: Run, tmp_path: Path, result: dict[str, Any]) -> None:
    """A list says of each result which server it was; what holds for all stands at its top."""
    save_results(tmp_path / "one.json", result)
    save_results(tmp_path / "two.json", result)
    runs = tmp_path / "runs.toml"
    runs.write_text(
        'cluster = "h100-sxm-2"\ncosts = "analytic"\n[[run]]\nresult = "one.json"\nplan = "tp1"\n'
        '[[run]]\nresult = ["two.json"]\nplan = "tp2"\nmax_num_seqs = 8\nchunked_prefill = true\n'
    )
    said = run_apex("validate", runs, "--json")
    found = json.loads(said.stdout)
    assert [run["plan"] for run in found["runs"]] == ["tp1", "tp2"]
    assert found["runs"][1]["settings"] == {"max_num_seqs": 8, "enable_chunked_prefill": True}
    assert found["summary"]["tpot_s.mean"]["runs"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plan = 'tp1'", "has no list of runs"),
        ("[[run]]\nplan = 'tp1'", "run 1: result is None, must be a file"),
        ("[[run]]\nresult = 'one.json'\nplans = 'tp1'", "run 1: 'plans' is no key of a run"),
        ("[[run]]\nresult = 'one.json'\nmax_num_seqs = '8'", "max_num_seqs is '8', must be a whole number"),
        ("[[run]]\nresult = 'one.json'\nmax_num_seqs = 0", "run 1: max_num_seqs: 0 is not in the range"),
        ("[[run]]\nresult = 'one.json'\nenforce_eager = 1", "enforce_eager is 1, must be true or false"),
        ("[[run]]\nresult = 'one.json'\nplan = 'tp1'", "does not say which cluster it was measured on"),
    ],
)
def test_a_list_is_strict(run_apex: Run, tmp_path: Path, result: dict[str, Any], text: str, message: str) -> None:
    """A missing list, an unknown key, a value of another kind or outside its range is named by run and key."""
    save_results(tmp_path / "one.json", result)
    (tmp_path / "runs.toml").write_text(text)
    said = run_apex("validate", tmp_path / "runs.toml")
    assert said.returncode == 2
    assert message in said.stderr


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, ("--model", "qwen3-32b"), "was measured on 'meta-llama/Llama-3.1-8B-Instruct', and --model"),
        ({"server": {"engine": "vllm", "version": "0.32.0"}}, ("--engine", "sglang-0.5"), "was measured on vllm, and"),
        ({"server": {"num_gpu_blocks": 4000}}, ("--num-gpu-blocks", "5000"), "had a num_gpu_blocks of 4000, and"),
        ({}, ("--concurrency", "4"), "states its load, none, and --concurrency is 4"),
        ({}, ("--request-rate", "9"), "states its load, 4.691, and --request-rate is 9"),
        ({"model_id": "acme/secret-7b"}, (), "was measured on 'acme/secret-7b', of which no config is known here"),
        ({"completed": 59}, (), "completed is 59, 60 of its 60 requests were answered"),
        ({"total_output_tokens": 1}, (), "total output tokens are 1, those of its requests"),
        ({"duration": 1.0}, (), "states a duration of 1 s, its requests take at least"),
        ({"mean_ttft_ms": 900.0}, (), "states a mean ttft_s of 0.9 s, that of its requests is"),
        ({"ttfts": []}, (), "ttfts has 0 entries, input_lens has 60"),
    ],
)
def test_what_contradicts_is_refused(  # noqa: PLR0917 - fixtures
    run_apex: Run, tmp_path: Path, result: dict[str, Any], changes: Any, options: tuple[str, ...], message: str
) -> None:
    """An option against the file, and a file against itself, end in one message with place and both values."""
    path = save_results(tmp_path / "run.json", result | changes)
    said = run_apex("validate", path, *WHERE, *options)
    assert said.returncode == 2
    assert message in said.stderr


def test_what_the_server_told_is_taken(run_apex: Run, tmp_path: Path, result: dict[str, Any]) -> None:
    """Engine, version and KV blocks of a result need not be stated again."""
    server = {"engine": "vllm", "version": "0.18.1", "num_gpu_blocks": 4000}
    path = save_results(tmp_path / "run.json", result | {"server": server})
    (run,) = json.loads(run_apex("validate", path, *WHERE, "--json").stdout)["runs"]
    assert (run["engine"], run["settings"]) == ("vllm-0.18", {"num_gpu_blocks": 4000})
    assert run["server"] == server


def test_what_was_turned_off_is_told(run_apex: Run, tmp_path: Path, result: dict[str, Any]) -> None:
    """A setting stated as false is one of the server's, as those stated as true; what nobody stated is not."""
    path = save_results(tmp_path / "run.json", result)
    line = ("validate", path, *WHERE, "--engine", "vllm-0.18", "--no-chunked-prefill", "--async-scheduling", "--json")
    (run,) = json.loads(run_apex(*line).stdout)["runs"]
    assert run["settings"] == {"enable_chunked_prefill": False, "async_scheduling": True}


def test_a_cache_that_nothing_can_be_found_in_is_not_turned_off(
    run_apex: Run, tmp_path: Path, result: dict[str, Any]
) -> None:
    """Results mark no shared prefixes: the switch is refused but where a server feels its cache without."""
    path = save_results(tmp_path / "run.json", result)
    said = run_apex("validate", path, *WHERE, "--no-prefix-caching")
    assert said.returncode == 2
    assert "cannot act: the results do not say which prompts share a prefix" in said.stderr
    sglang = run_apex("validate", path, *WHERE, "--engine", "sglang-0.5", "--no-prefix-caching", "--json")
    assert json.loads(sglang.stdout)["runs"][0]["settings"] == {"enable_prefix_caching": False}


def test_results_of_two_models_need_a_list(run_apex: Run, tmp_path: Path, result: dict[str, Any]) -> None:
    """One set of options cannot be said of two servers."""
    one = save_results(tmp_path / "one.json", result)
    two = save_results(tmp_path / "two.json", result | {"model_id": "Qwen/Qwen3-8B"})
    said = run_apex("validate", one, two, *WHERE)
    assert said.returncode == 2
    assert "of servers with another model each" in said.stderr
    assert "TOML" in said.stderr


def test_runs_that_cannot_be_predicted_are_counted(run_apex: Run, tmp_path: Path, result: dict[str, Any]) -> None:
    """They stand under their reason beside those that can; where none can, the exit code says so."""
    failed = with_failures(result, 10)
    path = save_results(tmp_path / "runs.jsonl", result, failed)
    said = run_apex("validate", path, *WHERE)
    assert said.returncode == 0
    assert "not predicted: 1 of 2 runs\n  1: 10 of 60 requests failed" in said.stdout
    alone = run_apex("validate", save_results(tmp_path / "failed.json", failed), *WHERE)
    assert alone.returncode == 3
    assert "none of 1 runs could be predicted" in alone.stdout
