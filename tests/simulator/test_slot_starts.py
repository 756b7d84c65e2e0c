"""Slots of a closed loop start together or within a spread, and a prediction of requests in step is called one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster_specs.errors import UserError
from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.results.metrics import summarise
from simulator.steps.step_tables import linear_tables
from simulator.workload.generators.client import WAVES
from simulator.workload.parse import parse_workload
from simulator.workload.traces.own_files import write_trace
from simulator.workload.traces.read_trace import read_trace
from simulator.workload.workload import ClosedLoop, Workload

LIMITS = EngineLimits(
    policy="vllm-v1",
    max_num_seqs=32,
    max_num_batched_tokens=1024,
    max_model_len=4096,
    block_size=16,
    num_gpu_blocks=10_000,
    frontend_s=0.006,
    frontend_gap_s=0.001,
)
TABLES = linear_tables(max_num_seqs=32, max_num_batched_tokens=1024, step_ps=10**10, token_ps=10**8)


def closed(**client: float) -> Workload:
    """Offer equal requests through 16 slots, after two warm-up requests for each."""
    settings = "".join(f",{name}={value}" for name, value in client.items())
    return parse_workload(f"closed:isl=512,osl=64,concurrency=16,ratio=1{settings}")


@pytest.mark.parametrize("warmup", [0, 2])
def test_each_slot_starts_within_the_spread(warmup: int) -> None:
    """The first requests of the measured phase are sent at once, or apart by no more than the spread; all are sent."""
    spread = closed(spread_s=2, warmup_per_slot=warmup)
    result = run_replicas(TABLES, LIMITS, spread)
    assert result.is_finished.all()
    measured = result.arrival_ps[result.measured][:16] / 1e12
    assert np.ptp(measured) == pytest.approx(2, rel=0.3)
    assert np.ptp(measured) <= 2
    assert len(set(measured.tolist())) == 16
    at_once = run_replicas(TABLES, LIMITS, closed(warmup_per_slot=warmup))
    assert np.ptp(at_once.arrival_ps[at_once.measured][:16]) == 0


def test_a_seed_draws_the_same_starts_and_another_one_others() -> None:
    """Starts are a function of the seed alone."""
    arrivals = [
        run_replicas(TABLES, LIMITS, closed(spread_s=2, seed=seed)).arrival_ps[32:48].tolist() for seed in (1, 1, 2)
    ]
    assert arrivals[0] == arrivals[1] != arrivals[2]


def test_slots_that_start_apart_do_not_queue_behind_each_other() -> None:
    """Requests of one length that start together wait for each other again and again; apart they do not."""
    together, apart = (summarise(run_replicas(TABLES, LIMITS, closed(spread_s=s))) for s in (0, 2))
    assert apart.ttft_s.mean < 0.5 * together.ttft_s.mean
    assert apart.tpot_s.mean == pytest.approx(together.tpot_s.mean, rel=0.4)


def test_requests_in_step_are_named_the_worst_case() -> None:
    """One length, a queue and no spread: the workload says so; drawn lengths, a spread or one slot need no word."""
    assert closed().notes == (WAVES,)
    assert closed(spread_s=1).notes == ()
    assert parse_workload("closed:isl=512,osl=64,concurrency=16").notes == ()
    assert parse_workload("closed:isl=512,osl=64,concurrency=1,ratio=1").notes == ()


def test_a_trace_is_served_by_slots_that_start_apart(tmp_path: Path) -> None:
    """``closed:trace=`` takes a spread and a seed too."""
    file = tmp_path / "rows.jsonl"
    write_trace(replace(closed(), client=closed().client), file)
    text = f"closed:trace={file},concurrency=8,spread_s=3,seed=4"
    assert parse_workload(text).client == ClosedLoop(concurrency=8, spread_s=3.0, seed=4)


def test_a_client_that_prepares_requests_one_by_one_sends_them_apart() -> None:
    """No two are sent within the time one takes; latencies count from the sending."""
    busy = run_replicas(TABLES, LIMITS, closed(request_s=0.05))
    assert busy.is_finished.all()
    sends = np.sort(busy.arrival_ps[busy.measured])
    assert np.diff(sends).min() == 50 * 10**9
    at_once = summarise(run_replicas(TABLES, LIMITS, closed()))
    assert summarise(busy).ttft_s.mean < at_once.ttft_s.mean
    quick = run_replicas(TABLES, LIMITS, closed(request_s=1e-6))
    assert (quick.first_token_ps - quick.arrival_ps).min() >= 6 * 10**9
    assert closed(request_s=0.05).notes == ()


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_files_keep_the_spread(tmp_path: Path, suffix: str) -> None:
    """A workload file holds spread and seed, and says nothing of them where there is none."""
    spread, plain = tmp_path / f"spread.{suffix}", tmp_path / f"plain.{suffix}"
    write_trace(closed(spread_s=1.5, request_s=0.002, seed=7), spread)
    write_trace(closed(seed=7), plain)
    assert read_trace(spread).client == ClosedLoop(concurrency=16, warmup=32, spread_s=1.5, request_s=0.002, seed=7)
    assert read_trace(plain).client == ClosedLoop(concurrency=16, warmup=32)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("spread_s", -1, "client.spread_s is -1"),
        ("spread_s", "x", "client.spread_s is 'x'"),
        ("request_s", 99, "request_s is 99"),
        ("seed", 1.5, "seed is 1.5"),
    ],
)
def test_a_file_with_a_wrong_spread_is_refused(tmp_path: Path, field: str, value: object, message: str) -> None:
    """The message names the field and its value."""
    file = tmp_path / "rows.jsonl"
    header = {"apex_workload": 1, "client": {"concurrency": 2, "warmup": 0, field: value}}
    row = {"arrival_s": 0.0, "prompt_tokens": 5, "output_tokens": 5}
    file.write_text(f"{json.dumps(header)}\n{json.dumps(row)}\n")
    with pytest.raises(UserError, match=message):
        read_trace(file)


@pytest.mark.parametrize("spread", ["-1", "1e9", "nan"])
def test_a_spread_out_of_range_is_refused(spread: str) -> None:
    """Negative, endless or no number: the message says what it must be."""
    with pytest.raises(UserError, match=r"spread_s is .*must be 0 to"):
        parse_workload(f"closed:isl=512,osl=64,concurrency=16,spread_s={spread}")
