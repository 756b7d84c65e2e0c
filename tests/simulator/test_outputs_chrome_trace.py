"""The timeline file: valid trace events, nested and ordered, and cut at a stated bound."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.engine.result import EngineResult
from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.outputs.chrome_trace import write_chrome_trace
from simulator.steps.step_tables import linear_tables
from simulator.workload.workload import Workload

_LIMITS = EngineLimits(
    policy="vllm-v1",
    max_num_seqs=8,
    max_num_batched_tokens=64,
    max_model_len=200,
    block_size=16,
    num_gpu_blocks=100,
)


@pytest.fixture(scope="module", params=[1, 3], ids=["one stage", "three stages"])
def run(request: pytest.FixtureRequest) -> EngineResult:
    """Twenty requests on two replicas, the last one too long to run."""
    tables = linear_tables(
        max_num_seqs=8, max_num_batched_tokens=64, step_ps=5_000_000, token_ps=100_000, stages=request.param
    )
    prompt = np.arange(10, 30, dtype=np.int64)
    prompt[-1] = 500
    workload = Workload(
        name="small",
        arrival_s=np.linspace(0.0, 380e-6, 20),
        prompt_tokens=prompt,
        output_tokens=np.full(20, 6, dtype=np.int64),
    )
    return run_replicas(tables, _LIMITS, workload, dp=2, log=True)


def _events(path: Path) -> list[dict[str, Any]]:
    document = json.loads(path.read_text())
    events: list[dict[str, Any]] = document["traceEvents"]
    return events


def test_every_event_is_well_formed(run: EngineResult, tmp_path: Path) -> None:
    """Every event has a phase the format knows and the keys that phase needs; times are microseconds from zero."""
    path = tmp_path / "t.json"
    kept = write_chrome_trace(run, path)
    assert kept.is_whole
    needed = {"M": {"args"}, "X": {"ts", "dur"}, "C": {"ts", "args"}, "b": {"ts", "id", "cat"}, "i": {"ts", "s"}}
    needed["e"] = needed["b"]
    for event in _events(path):
        assert {"ph", "pid", "name"} | needed[event["ph"]] <= set(event)
        assert event.get("ts", 0.0) >= 0.0
    assert {event["args"]["name"] for event in _events(path) if event["name"] == "process_name"} == {
        "replica 0",
        "replica 1",
    }


def test_iterations_do_not_overlap_within_a_track(run: EngineResult, tmp_path: Path) -> None:
    """The iterations of one track follow each other, one event per logged step."""
    path = tmp_path / "t.json"
    write_chrome_trace(run, path)
    steps = [event for event in _events(path) if event["ph"] == "X"]
    assert run.log is not None
    assert len(steps) == len(run.log)
    for track in {(event["pid"], event["tid"]) for event in steps}:
        own = [event for event in steps if (event["pid"], event["tid"]) == track]
        for before, after in pairwise(own):
            assert before["ts"] + before["dur"] <= after["ts"] + 1e-5


def test_request_phases_follow_each_other(run: EngineResult, tmp_path: Path) -> None:
    """Queue, prefill and decode of a request are opened and closed in turn and span arrival to finish."""
    path = tmp_path / "t.json"
    write_chrome_trace(run, path)
    events = [event for event in _events(path) if event["ph"] in "be"]
    assert len(events) == 6 * 19
    for index in range(19):
        own = [event for event in events if event["id"] == index]
        assert [event["ph"] for event in own] == ["b", "e"] * 3
        assert [event["name"] for event in own[::2]] == ["queue", "prefill", "decode"]
        times = [event["ts"] for event in own]
        assert times == sorted(times)
        assert times[0] == pytest.approx(run.arrival_ps[index] * 1e-6)
        assert times[-1] == pytest.approx(run.finish_ps[index] * 1e-6)
    (instant,) = [event for event in _events(path) if event["ph"] == "i"]
    assert instant["name"] == "request 19 rejected: longer than max_model_len"


@pytest.mark.parametrize("max_events", [0, 30, 100, 200])
def test_cut_keeps_a_prefix_within_the_bound(run: EngineResult, tmp_path: Path, max_events: int) -> None:
    """A cut file holds at most the bound, nothing that starts later than its end, and counts what it left out."""
    path = tmp_path / "t.json"
    kept = write_chrome_trace(run, path, max_events=max_events)
    assert not kept.is_whole
    events = [event for event in _events(path) if event["ph"] != "M"]
    assert len(events) <= max_events
    assert sum(event["ph"] == "X" for event in events) == kept.iterations
    assert kept.requests < kept.all_requests or kept.iterations < kept.all_iterations
    starts = [event["ts"] for event in events if event["ph"] in "XCi"]
    starts += [event["ts"] for event in events if event["ph"] == "b" and event["name"] == "queue"]
    assert all(ts <= kept.until_s * 1e6 + 1e-6 for ts in starts)
