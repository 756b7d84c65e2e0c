"""SGLang's scheduler_recv_interval: requests that have arrived are seen after every k-th decode and every prefill."""

from dataclasses import replace

import numpy as np
import pytest

from cluster_specs.errors import UserError
from simulator.engine.run import run_replicas
from simulator.engine.stream import run_stream
from simulator.launch import launch_lines
from simulator.plan.plan import parse_plan
from simulator.serving import Refusal
from simulator.simulate import limits_facts
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of, start_of
from tests.simulator.test_engine_policies import LIMITS, serve, steps
from tests.simulator.test_engine_reference import check_leaps, in_whole_blocks, random_case
from tests.simulator.test_engine_stream import LIMITS as STREAMED
from tests.simulator.test_engine_stream import TABLES, arrivals, split

_SGLANG = replace(LIMITS, policy="sglang", scheduler_recv_interval=5)
_CHAT = parse_workload("chat-synthetic", limit=20)


def test_arrivals_wait_for_the_fifth_decode_after_a_prefill() -> None:
    """Steps last a second: the prefill ends at 1 and the look after it sees nobody; the next are at 6, 7 and 12."""
    result = serve([(0.0, 20, 12), (1.5, 20, 2), (1.6, 20, 2), (7.5, 20, 2)], _SGLANG)
    assert (result.scheduled_ps / 1e12).tolist() == [0.0, 6.0, 6.0, 12.0]
    assert steps(result)[6] == (6.0, 40, 2, 0)
    assert serve([(0.0, 20, 12), (1.5, 20, 2)]).scheduled_ps[1] == 2 * 10**12


def test_a_prefill_is_followed_by_a_look() -> None:
    """Who arrives while a prompt is computed is seen by the next decision, whatever the interval."""
    result = serve([(0.0, 20, 12), (0.5, 20, 2)], replace(_SGLANG, scheduler_recv_interval=900))
    assert (result.scheduled_ps / 1e12).tolist() == [0.0, 1.0]


def test_a_scheduler_with_nothing_to_run_sees_arrivals_at_once() -> None:
    """It spins while it is idle, and when the last answer ends it looks before the interval is over."""
    result = serve([(0.0, 20, 3), (1.5, 20, 2), (20.25, 20, 1)], _SGLANG)
    assert (result.scheduled_ps / 1e12).tolist() == [0.0, 3.0, 20.25]


@pytest.mark.parametrize("interval", [2, 3, 7, 30])
def test_leaps_end_at_looks(interval: int) -> None:
    """A run that leaps equals one that steps, and nobody is lost when clients give up."""
    for seed in range(60):
        tables, limits, workload = random_case(seed)
        own = replace(in_whole_blocks(limits), policy="sglang", enable_chunked_prefill=True)
        own = replace(own, scheduler_recv_interval=interval)
        check_leaps(tables, own, workload)
        own = replace(own, enable_prefix_caching=False)
        half = replace(workload, client_timeout_s=2e-7, prefix=None)
        leapt, stepped = run_replicas(tables, own, half), run_replicas(tables, own, half, leap=False)
        assert leapt.finish_ps.tolist() == stepped.finish_ps.tolist()
        assert leapt.status.tolist() == stepped.status.tolist()


def test_parts_of_a_stream_keep_who_is_not_seen_yet() -> None:
    """A workload served in parts gives the times of the whole, cut where requests wait to be seen."""
    limits = replace(in_whole_blocks(STREAMED), policy="sglang", scheduler_recv_interval=9)
    whole = run_replicas(TABLES, limits, arrivals(400), dp=2)
    parts = list(run_stream(TABLES, limits, split(arrivals(400), 7), dp=2))
    index = np.concatenate([np.zeros(0, np.int64) if part.index is None else part.index for part in parts])
    finished = np.concatenate([part.finish_ps for part in parts])
    assert finished[np.argsort(index)].tolist() == whole.finish_ps.tolist()


def test_the_option_reaches_limits_and_command() -> None:
    """The interval is stated in the limits and the launch command where it is not SGLang's own of one."""
    for interval in (None, 30):
        serving = serving_of(engine="sglang-0.5", scheduler_recv_interval=interval)
        start = start_of(serving, "tp2", _CHAT)
        assert ("--scheduler-recv-interval 30" in "\n".join(launch_lines(serving, start))) == (interval is not None)
        assert limits_facts(start).get("scheduler_recv_interval") == interval
        assert start.limits.scheduler_recv_interval == (interval or 1)


def test_what_cannot_skip_looks_is_refused_by_name() -> None:
    """SGLang asserts that attention is not data-parallel; other engines have no such interval."""
    refused = serving_of(model="deepseek-v3", cluster="h200-sxm-8", engine="sglang-0.5", scheduler_recv_interval=30)
    start = refused.start(parse_plan("attn.dp8-moe.ep8"), _CHAT)
    assert isinstance(start, Refusal)
    assert "scheduler_recv_interval above 1 without attention data parallelism" in start.reason
    with pytest.raises(UserError, match="--scheduler-recv-interval cannot act: vllm"):
        serving_of(engine="vllm-0.33", scheduler_recv_interval=30).start(parse_plan("tp2"), _CHAT)
    with pytest.raises(UserError, match="scheduler_recv_interval 5 and attention_dp 1 is not modelled"):
        serve([(0.0, 20, 1)], replace(_SGLANG, policy="vllm-v1"))
