"""`apex validate --mapping`, `--parts` and `--report`: tables of points, where differences sit, and the page."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from simulator.validation.summary import kendall
from tests.simulator.bench_results import save_results, simulated_result

Run = Callable[..., "CompletedProcess[str]"]
WHERE = ("--cluster", "h100-sxm-1", "--plan", "tp1")
_MAPPING = """
schema = 1
[point]
name = "{id}"
workload = "closed:isl={isl},osl=16,concurrency={clients},prompts_per_slot=2"
measured = { "ttft_s.mean" = { column = "ttft", unit = "ms" }, "tpot_s.mean" = { column = "tpot", unit = "ms" } }
[[server]]
name = "<one>"
where = { engine = "vllm" }
model = "tiny-llama"
cluster = "h100-sxm-1"
engine = "vllm-0.18"
plan = "tp1"
set = "new"
[[server]]
name = "two"
where = { engine = "old" }
model = "tiny-llama"
cluster = "h100-sxm-1"
engine = "vllm-0.6"
plan = "tp1"
set = "old"
"""
_POINTS = (
    "id,engine,isl,clients,ttft,tpot\na,vllm,200,1,9,4\nb,vllm,200,4,12,4.2\nb2,vllm,200,4,13,4.3\n"
    "c,vllm,900,8,30,5\nd,old,200,1,10,4\ne,other,200,1,1,1\n"
)


def test_a_table_is_predicted_server_by_server(run_apex: Run, tmp_path: Path) -> None:
    """Rows of two servers have a line each, and one of none is counted; repeats are predicted alike."""
    (tmp_path / "points.csv").write_text(_POINTS)
    (tmp_path / "mapping.toml").write_text(_MAPPING)
    line = ("validate", tmp_path / "points.csv", "--mapping", tmp_path / "mapping.toml")
    said = run_apex(*line)
    assert said.returncode == 0
    assert "no [[server]] of the mapping holds this row" in said.stdout
    assert "not predicted: 1 of 6 runs" in said.stdout
    assert "consistent with" not in said.stdout
    found = json.loads(run_apex(*line, "--json", "--parts").stdout)
    predicted = {run["name"]: run["metrics"]["ttft_s.mean"]["predicted"] for run in found["runs"]}
    assert predicted["b"] == predicted["b2"]
    assert [one["server"] for one in found["differences"]] == ["<one>", "two"]


def test_a_mapping_leaves_no_place_for_options_of_the_server(run_apex: Run, tmp_path: Path) -> None:
    """What the mapping states cannot be stated beside it."""
    (tmp_path / "points.csv").write_text(_POINTS)
    (tmp_path / "mapping.toml").write_text(_MAPPING)
    said = run_apex("validate", tmp_path / "points.csv", "--mapping", tmp_path / "mapping.toml", "--plan", "tp2")
    assert said.returncode != 0
    assert "--plan" in said.stderr


def test_a_page_shows_runs_distributions_and_servers(run_apex: Run, tmp_path: Path) -> None:
    """Names are escaped, every figure is there, and runs with times per request have their distributions."""
    pytest.importorskip("matplotlib", reason="the extra 'report' is not installed")
    (tmp_path / "points.csv").write_text(_POINTS)
    (tmp_path / "mapping.toml").write_text(_MAPPING)
    page = tmp_path / "page"
    run_apex("validate", tmp_path / "points.csv", "--mapping", tmp_path / "mapping.toml", "--report", page)
    text = (page / "index.html").read_text()
    assert "&lt;one&gt;" in text
    assert "<one>" not in text
    assert {path.name for path in page.glob("*.png")} == {
        f"{kind}_{name}_s.png" for kind in ("parity", "load") for name in ("ttft", "tpot")
    }
    save_results(tmp_path / "run.json", simulated_result("synthetic:isl=300,osl=40,rate=4,n=60,seed=3"))
    said = run_apex("validate", tmp_path / "run.json", *WHERE, "--report", tmp_path / "other")
    assert "Kolmogorov-Smirnov" in said.stdout
    assert (tmp_path / "other" / "distributions.png").is_file()


def test_ranks_are_kendalls() -> None:
    """Of three pairs one lies the other way; a tie counts for neither."""
    assert kendall(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])) == pytest.approx(1 / 3)
    assert kendall(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 3.0])) == pytest.approx(2 / 6**0.5)
    assert kendall(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 1.0])) is None
