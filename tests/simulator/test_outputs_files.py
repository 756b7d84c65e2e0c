"""The files `apex simulate` writes: their contents agree with the metrics, and a failure leaves nothing behind."""

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster_specs.errors import OutputError
from cluster_specs.files.whole import write_whole
from profiles_db.schema import unit_of
from simulator.outputs.chrome_trace import MAX_EVENTS
from simulator.outputs.iterations import iteration_table
from simulator.outputs.requests import request_table
from simulator.outputs.tables import write_table
from simulator.report.search_document import search_document
from simulator.results.objective import Limit, Slo, parse_objective
from simulator.results.saturation import Saturation
from simulator.search.paired import Versus
from simulator.search.search_result import SearchResult
from simulator.simulate import SimulatedPlan, replay
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of, start_of


def _replayed(workload: str, *, log: bool = True, **overrides: Any) -> SimulatedPlan:
    serving, trace = serving_of(cluster="h100-sxm-2", **overrides), parse_workload(workload, limit=200)
    return replay(serving, start_of(serving, "dp2", trace), trace, log=log)


@pytest.fixture(scope="module")
def result() -> SimulatedPlan:
    """Two replicas under a chat load, with the log."""
    return _replayed("synthetic:chat,rate=30,n=200,seed=1")


def test_requests_explain_the_metrics(result: SimulatedPlan) -> None:
    """The rows' latencies have the very means and tails that the metrics state."""
    table = request_table(result.run)
    assert table.num_rows == 200
    for name in ("ttft_s", "tpot_s", "e2e_s", "queue_s"):
        values = table[name].drop_null().to_numpy()
        assert float(values.mean()) == pytest.approx(result.metrics[name]["mean"], rel=1e-12)
        assert float(np.quantile(values, 0.99)) == pytest.approx(result.metrics[name]["p99"], rel=1e-12)
    assert set(table["status"].to_pylist()) == {"finished"}
    assert set(table["replica"].to_pylist()) == {0, 1}


def test_rejected_request_has_no_times() -> None:
    """A request that cannot run is a row with its reason; times and replica-side figures that never were are null."""
    found = _replayed("synthetic:isl=900,osl=300,rate=5,n=20", max_model_len=1000)
    rows = request_table(found.run).to_pylist()
    assert {row["status"] for row in rows} == {"rejected: longer than max_model_len"}
    assert {row[name] for row in rows for name in ("ttft_s", "tpot_s", "e2e_s", "queue_s")} == {None}


def test_warm_up_requests_are_marked() -> None:
    """A benchmark client's warm-up requests are in the table, and not measured."""
    found = _replayed("closed:isl=64,osl=8,concurrency=4,prompts_per_slot=4,warmup_per_slot=2")
    measured = request_table(found.run)["is_measured"].to_pylist()
    assert measured == [False] * 8 + [True] * 16


def test_iterations_conserve_tokens(result: SimulatedPlan) -> None:
    """Prefill and decode tokens over all rows are those of all requests; steps of a replica never overlap."""
    rows = iteration_table(result.run)
    run = result.run
    assert rows.num_rows == result.metrics["steps"]
    assert sum(rows["prefill_tokens"].to_pylist()) == int(run.prompt_tokens.sum())
    assert sum(rows["decode_seqs"].to_pylist()) == int((run.output_tokens - 1).sum())
    for replica in (0, 1):
        own = rows.filter(rows["replica"].to_numpy() == replica)
        start, end, decided = (own[name].to_numpy() for name in ("start_s", "end_s", "decision_s"))
        assert (end > start).all()
        assert (start[1:] >= end[:-1] - 1e-12).all()
        assert (decided <= start).all()
        assert float(end[-1]) == pytest.approx(float(run.replicas.last_end_ps[replica]) * 1e-12)


def test_log_is_kept_only_on_demand(result: SimulatedPlan) -> None:
    """Without a log there are no iteration rows; requests and metrics are the same, integrals over leaps aside."""
    plain = _replayed("synthetic:chat,rate=30,n=200,seed=1", log=False)
    assert plain.run.log is None
    assert request_table(plain.run).equals(request_table(result.run))
    # KV use is taken linear within a leap, and a log makes leaps shorter.
    differing = {name for name, value in plain.metrics.items() if value != result.metrics[name]}
    assert differing <= {"kv_use_frac", "mean_batch_seqs"}
    with pytest.raises(ValueError, match="log=True"):
        iteration_table(plain.run)


@pytest.mark.parametrize("kind", ["requests", "iterations"])
def test_parquet_fields_carry_their_unit(result: SimulatedPlan, tmp_path: Path, kind: str) -> None:
    """Every column whose name ends in a unit has it in the file's field metadata, and the file names its kind."""
    path = tmp_path / "run.parquet"
    write_table({"requests": request_table, "iterations": iteration_table}[kind](result.run), path)
    schema = pq.read_schema(path)
    assert schema.metadata[b"apex_table"] == kind.encode()
    units = {field.name: (field.metadata or {}).get(b"unit", b"").decode() or None for field in schema}
    assert units == {field.name: unit_of(field.name) for field in schema}
    assert "s" in units.values()


def test_page_names_every_column_and_key(result: SimulatedPlan) -> None:
    """docs/reference/outputs.md has a row for each column of both tables and each JSON key, and no other.

    What is written of measured runs and observed servers stands in sections of their own.
    """
    page = (Path(__file__).parents[2] / "docs" / "reference" / "outputs.md").read_text(encoding="utf-8")
    page = re.sub(r"^## (Measured runs|Observed servers)\n.*?(?=^## |\Z)", "", page, flags=re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (`.*?) \|", page, flags=re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    tables = (request_table(result.run), iteration_table(result.run))
    shown = replace(
        result,
        interval={"e2e_s.mean": (1e-9, 1e9)},
        saturation=Saturation(verdict="near saturation", low=0.1, high=1.0),
    )
    compared = Versus(metric="e2e_s.mean", ratio=1.1, ratio_low=1.0, ratio_high=1.2, best_is_better_frac=0.95)
    found = SearchResult(
        ranked=(shown,),
        versus_best={str(result.plan): compared},
        changes={str(result.plan): ("fp8 weights",)},
        breaking=(),
        refused=(),
        objective=parse_objective("e2e_s.mean"),
        further=(parse_objective("energy_j"),),
        slo=Slo(per_plan=(Limit(path="e2e_s.mean", bound=1.0, at_most=True),)),
    )
    answer = search_document(found, serving_of("llama-3.1-8b"), parse_workload("chat-synthetic", limit=4))
    columns = {name for table in tables for name in table.column_names}
    assert documented == columns | set(answer) | set(answer["plans"][0])
    assert f"{MAX_EVENTS:,} events" in page


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    """A write that fails half-way leaves the file that was there, and no partial one."""
    path = tmp_path / "kept.txt"
    path.write_text("old")

    def fail(stream: BinaryIO) -> None:
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"kept\.txt: cannot be written: No space left on device"):
        write_whole(path, fail)
    assert [item.name for item in tmp_path.iterdir()] == ["kept.txt"]
    assert path.read_text() == "old"


RunApex = Callable[..., "subprocess.CompletedProcess[str]"]
_LINE = (
    *("simulate", "--plan", "dp2", "--model", "llama-3.1-8b", "--cluster", "h100-sxm-2"),
    *("--limit", "50", "--trace", "chat-synthetic"),
)


def test_command_writes_all_files(run_apex: RunApex, tmp_path: Path) -> None:
    """The command writes what it is asked for, says so on stderr, and keeps stdout for the result."""
    paths = [tmp_path / name for name in ("requests.parquet", "iterations.parquet", "timeline.json")]
    flags = ("--requests-out", "--iterations-out", "--chrome-trace")
    done = run_apex(*_LINE, *(text for pair in zip(flags, map(str, paths), strict=True) for text in pair))
    assert done.returncode == 0, done.stderr
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted(path.name for path in paths)
    assert pq.read_metadata(paths[0]).num_rows == 50
    assert done.stdout.startswith("plan dp2 on 2 devices")
    assert f"{paths[0]}: 50 requests" in done.stderr


def test_output_never_replaces_an_input(run_apex: RunApex, tmp_path: Path) -> None:
    """Naming the trace, or one file twice, as output is refused before anything runs."""
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"arrival_s": 0.0, "prompt_tokens": 5, "output_tokens": 5}\n')
    before = trace.read_text()
    line = (*_LINE[:-1], str(trace))
    over = run_apex(*line, "--requests-out", str(trace))
    twice = run_apex(*line, "--requests-out", str(tmp_path / "x"), "--chrome-trace", str(tmp_path / "x"))
    for done in (over, twice):
        assert done.returncode == 2, done.stderr
        assert "name another file" in done.stderr
    assert trace.read_text() == before
    assert [item.name for item in tmp_path.iterdir()] == ["trace.jsonl"]


def test_unwritable_place_is_one_message(run_apex: RunApex, tmp_path: Path) -> None:
    """A folder that is not there ends in one message with the path and a hint."""
    done = run_apex(*_LINE, "--requests-out", str(tmp_path / "absent" / "r.parquet"))
    assert done.returncode == 1
    assert "absent/r.parquet: cannot be written" in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr
