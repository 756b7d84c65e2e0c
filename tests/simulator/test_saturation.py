"""A plan whose interval crosses saturation is called near saturation, one that falls behind at both ends overloaded."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from simulator.cli import apex
from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.plan.plan import parse_plan
from simulator.results.metrics import summarise
from simulator.results.saturation import Offered, falls_behind, saturation_of, waits_long
from simulator.serving import StartedPlan
from simulator.simulate import replay, with_interval
from simulator.steps.step_tables import linear_tables
from simulator.workload.parse import parse_workload
from simulator.workload.workload import Workload
from tests.simulator.deployments import serving_of

LIMITS = EngineLimits(
    policy="vllm-v1",
    max_num_seqs=16,
    max_num_batched_tokens=512,
    max_model_len=1024,
    block_size=16,
    num_gpu_blocks=2_000,
)
STEP_PS = 10**10


def metrics_of(workload: Workload, *, step_ps: int = STEP_PS, blocks: int = 2_000) -> dict[str, Any]:
    """Serve a workload with steps of one length."""
    tables = linear_tables(max_num_seqs=16, max_num_batched_tokens=512, step_ps=step_ps, token_ps=0)
    return summarise(run_replicas(tables, replace(LIMITS, num_gpu_blocks=blocks), workload)).to_json()


def chat(rate_per_s: float) -> Workload:
    """Offer requests of 20 steps; 16 at once are 80 requests per second."""
    return parse_workload(f"synthetic:isl=30,osl=20,rate={rate_per_s},n=1500")


@pytest.mark.parametrize(("rate_per_s", "saturated"), [(8, False), (40, False), (90, True), (200, True)])
def test_an_open_loop_is_saturated_beyond_what_is_served(rate_per_s: float, saturated: bool) -> None:
    """Below capacity requests wait for steps, above it for each other."""
    assert waits_long(metrics_of(chat(rate_per_s)), Offered(waits=False), 0.0) == saturated


def test_ends_on_either_side_of_saturation_are_near_it() -> None:
    """One verdict for each case, with the mean TTFT at both ends; none where all three runs keep up."""
    slow, middle, fast = (metrics_of(chat(60), step_ps=step) for step in (STEP_PS * 3 // 2, STEP_PS, STEP_PS // 2))
    interval = {"ttft_s.mean": (fast["ttft_s"]["mean"], slow["ttft_s"]["mean"])}
    near = saturation_of([middle, fast, slow], interval, Offered(waits=False), [0.0] * 3)
    assert near is not None
    assert near.to_json() == {
        "verdict": "near saturation",
        "low": fast["ttft_s"]["mean"],
        "high": slow["ttft_s"]["mean"],
    }
    over = saturation_of([slow, slow, slow], interval, Offered(waits=False), [0.0] * 3)
    assert over is not None
    assert over.verdict == "overloaded"
    assert saturation_of([middle, fast, middle], interval, Offered(waits=False), [0.0] * 3) is None


def test_a_closed_loop_is_saturated_where_its_kv_is_taken_back() -> None:
    """Its start burst is no saturation; preempted requests, and seats for half of its clients, are."""
    loop = parse_workload("closed:isl=200,osl=200,concurrency=12")
    waiting = Offered.of(loop)
    assert waiting == Offered(waits=True)
    assert not waits_long(metrics_of(loop), waiting, 0.0)
    assert waits_long(metrics_of(loop, blocks=150), waiting, 0.0)
    crowded = parse_workload("closed:isl=200,osl=200,concurrency=48")
    assert waits_long(metrics_of(crowded), waiting, 0.0)


def test_a_server_with_seats_for_all_falls_behind_without_a_queue() -> None:
    """Sequences that pile up in the step end late; a short trace, whose last answers outlast it, proves nothing."""
    load = Offered.of(parse_workload("synthetic:isl=30,osl=20,rate=10,n=100"))
    assert load.span_s == pytest.approx(10, rel=0.3)
    run = {"duration_s": 20.0}
    assert falls_behind(run, load, 0.5)
    assert not falls_behind(run, load, 5.0)
    assert not falls_behind({"duration_s": 11.0}, load, 0.5)
    assert Offered.of(parse_workload("sessions:chat,rate=1,n=5")).span_s is None


def test_no_answer_is_no_verdict() -> None:
    """A run without a finished request has no wait to judge by."""
    nothing = replace(chat(8), prompt_tokens=np.full(1500, 2000))
    assert not waits_long(metrics_of(nothing), Offered(waits=False), 0.0)
    assert saturation_of([metrics_of(nothing)] * 3, {}, Offered.of(nothing), [0.0] * 3) is None


def test_what_the_frontend_takes_is_no_wait_for_others() -> None:
    """A small model answers its prompts in less time than the HTTP server takes: one request a second is no load."""
    serving = serving_of("llama-3.2-1b", "h100-sxm-1")
    workload = parse_workload("synthetic:isl=64,osl=8,rate=1,n=30,seed=1")
    started = serving.start(parse_plan("tp1"), workload)
    assert isinstance(started, StartedPlan)
    result = with_interval(serving, replay(serving, started, workload), workload)
    queue_s, ttft_s = result.metrics["queue_s"]["mean"], result.metrics["ttft_s"]["mean"]
    assert queue_s > 4.5 * (ttft_s - queue_s)
    assert result.saturation is None


def _answer(command: str, *more: str) -> str:
    line = f"{command} --model llama-3.1-8b --cluster h100-sxm-1 --costs analytic"
    return CliRunner().invoke(apex, [*line.split(), *more], catch_exceptions=False).stdout


def test_simulate_and_search_say_where_a_plan_stands() -> None:
    """JSON holds verdict and ends, tables say it in words; a load that is kept up with is not mentioned."""
    near = ["--trace", "synthetic:isl=2000,osl=200,rate=14,n=300"]
    found = json.loads(_answer("simulate", "--plan", "tp1", "--json", *near))["saturation"]
    assert found["verdict"] == "near saturation"
    assert 0 < found["low"] < found["high"]
    assert "near saturation, between" in _answer("simulate", "--plan", "tp1", *near)
    table = _answer("search", "--plan", "tp1", *near)
    assert " load " in table
    assert "near saturation, between" in table
    light = ["--trace", "synthetic:isl=2000,osl=200,rate=1,n=100"]
    assert "saturation" not in _answer("simulate", "--plan", "tp1", "--json", *light)
    heavy = ["--trace", "synthetic:isl=2000,osl=200,rate=100,n=300"]
    assert json.loads(_answer("simulate", "--plan", "tp1", "--json", *heavy))["saturation"]["verdict"] == "overloaded"
