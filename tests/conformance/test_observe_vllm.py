"""`apex observe` against a real `vllm serve` of random weights, where an interpreter has vLLM's CPU build.

``APEX_VLLM_SCHEDULER_PYTHON`` names it (`make conformance` makes one); without it, or where it cannot serve, skipped.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.witness.environment import Environment, cores
from benchmarks.witness.models import make_models
from benchmarks.witness.server import RunningServer, serving
from benchmarks.witness.workloads import ServerCase
from cluster_specs.errors import UserError
from profiles_db.recordings.files import read_runs

pytest.importorskip("aiohttp", reason="apex observe needs the extra observe")

_VARIABLE = "APEX_VLLM_SCHEDULER_PYTHON"

Observe = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Serve the smallest model of the witness."""
    python = os.environ.get(_VARIABLE)
    if not python:
        pytest.skip(f"{_VARIABLE} names no interpreter with vLLM's CPU build")
    folder = tmp_path_factory.mktemp("vllm")
    environment = Environment(python=Path(python), beside=folder, version="")
    try:
        model = make_models(environment, folder)["null"]
        started = serving(ServerCase(name="null", model="null"), model, environment, folder / "server.log", cores())
        running = started.__enter__()
    except (UserError, OSError) as error:
        pytest.skip(f"{python} cannot serve: {error}")
    try:
        yield running
    finally:
        started.__exit__(None, None, None)


def test_a_real_server_is_observed(server: RunningServer, run_apex: Observe, tmp_path: Path) -> None:
    """Engine, version and KV blocks are those of the server; every length is the one asked for, as counted there."""
    out = tmp_path / "observed.jsonl"
    url = f"http://127.0.0.1:{server.port}"
    asked = ("--input-tokens", "40-90", "--output-tokens", "7", "--requests", "5", "--max-concurrency", "2")
    done = run_apex("observe", url, "--model", str(server.model), *asked, "-o", out)
    assert done.returncode == 0, done.stderr
    assert "prompts: token ids 256 to 29999" in done.stderr
    results = [json.loads(line) for line in out.read_text().splitlines()]
    for run, result in zip(read_runs(out, "vllm-bench"), results, strict=True):
        assert run.server.engine == "vllm"
        assert str(run.server.version).startswith("0.")
        assert run.server.num_gpu_blocks == server.kv_blocks
        assert run.server.preemptions == 0
        assert run.is_ok.all()
        assert (run.output_tokens == 7).all()
        assert ((run.prompt_tokens >= 40) & (run.prompt_tokens <= 90)).all()
        counted = (result["server"][when]["prefix_query_tokens"] for when in ("before", "after"))
        assert -next(counted) + next(counted) == run.prompt_tokens.sum()
        assert result["observed"]["lengths"] == "usage"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--model", "another"), "serves no model 'another'"),
        (("--input-tokens", "1000000"), "the server takes"),
    ],
)
def test_a_real_server_s_limits_are_told(
    server: RunningServer, run_apex: Observe, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    """A name it does not serve, and prompts beyond its context, are refused before any load."""
    line = ("--max-concurrency", "1", *(() if "--model" in options else ("--model", str(server.model))), *options)
    done = run_apex("observe", f"http://127.0.0.1:{server.port}", *line, "-o", tmp_path / "observed.jsonl")
    assert done.returncode == 2
    assert said in done.stderr
