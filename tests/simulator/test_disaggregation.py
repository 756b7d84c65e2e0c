"""Two pools from a plan's text to metrics: transfers as priced, sums over both pools, refusals with reasons."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from costmodel.ops.op_types import Collective
from simulator.commands.simulate import simulate
from simulator.engine_profiles.engine_profile import load_profile
from simulator.model.load_model import load_model
from simulator.plan.pool_plan import PoolPlan, parse_layout
from simulator.pools.disaggregation import (
    PoolsResult,
    PoolStarts,
    kv_bytes_per_token,
    replay_pools,
    start_pools,
    with_pools_interval,
)
from simulator.results.objective import parse_objective
from simulator.search.search import search
from simulator.serving import Refusal, Serving
from simulator.workload.parse import parse_workload
from simulator.workload.workload import ClosedLoop, Workload
from tests.simulator.deployments import serving_of

_TEXT = "prefill.tp2+decode.dp2-tp2"


def _plan(text: str) -> PoolPlan:
    plan = parse_layout(text)
    assert isinstance(plan, PoolPlan)
    return plan


def _replayed(serving: Serving, plan: PoolPlan, workload: Workload) -> PoolsResult:
    starts = start_pools(serving, plan, workload)
    assert isinstance(starts, PoolStarts)
    return replay_pools(serving, starts, workload)


def _requests(n: int = 1) -> Workload:
    return Workload(
        name="apart",
        arrival_s=np.arange(n) * 10.0,
        prompt_tokens=np.full(n, 3000),
        output_tokens=np.full(n, 20),
    )


def test_requests_far_apart_wait_for_one_transfer_each() -> None:
    """The KV of 3,000 tokens goes over NVLink: half of it per rank of tp2, as the cost model prices it."""
    serving = serving_of()
    result = _replayed(serving, _plan(_TEXT), _requests(4))
    sent = 3000 * serving.model.kv_bytes_per_token() // 2
    hop = Collective(kind="send_recv", message_bytes=np.array([sent]), ranks=2)
    expected_s = float(serving.curves(None).costs.predict(hop).latency_s[0])
    assert expected_s > 1e-4
    assert result.metrics["kv_transfer_s"]["mean"] == pytest.approx(expected_s, rel=1e-6)


def test_the_rank_that_moves_most_decides() -> None:
    """From tp4 to tp1 one rank receives everything; pipeline stages share it."""
    model, profile = load_model("llama-3.1-8b"), load_profile("vllm-0.33")
    whole = model.kv_bytes_per_token()
    assert kv_bytes_per_token(model, _plan("prefill.tp4+decode.tp1"), profile) == whole
    assert kv_bytes_per_token(model, _plan("prefill.tp2+decode.tp4"), profile) == whole / 2
    assert kv_bytes_per_token(model, _plan("prefill.pp2-tp2+decode.tp4"), profile) == whole / 4


def test_pools_across_nodes_use_the_network() -> None:
    """Two pools that fill two nodes talk over the network, which is slower than the links inside one."""
    near = _replayed(serving_of(cluster="h100-sxm-2x8"), _plan("prefill.tp4+decode.tp4"), _requests())
    far = _replayed(serving_of(cluster="h100-sxm-2x8"), _plan("prefill.tp8+decode.tp8"), _requests())
    assert far.metrics["kv_transfer_s"]["mean"] > 2 * near.metrics["kv_transfer_s"]["mean"]


def test_metrics_are_those_of_one_plan_and_of_each_pool() -> None:
    """JSON has latencies, work over both pools, and each pool's shares of its own time, which sum to 1."""
    serving, workload = serving_of(), parse_workload("synthetic:chat,rate=20,n=200,seed=1")
    result = _replayed(serving, _plan(_TEXT), workload)
    known = json.loads(json.dumps(with_pools_interval(serving, result, workload).to_json()))
    assert known["plan"] == _TEXT
    assert known["devices"] == 6
    metrics = known["metrics"]
    assert metrics["finished"] == 200
    assert metrics["prefill"]["steps"] > 0 < metrics["decode"]["steps"]
    for pool in ("prefill", "decode"):
        assert sum(metrics[f"{pool}_ops"].values()) == pytest.approx(1.0, abs=1e-9)
        assert known["limits"][pool]["max_num_seqs"] == 1024
    low, high = known["metrics_interval"]["ttft_s.mean"]
    assert low < metrics["ttft_s"]["mean"] < high
    assert 0 < metrics["device_busy_frac"] < 1


def test_drafts_run_in_the_decode_pool_alone() -> None:
    """The draft model costs the decode pool time and the prefill pool none."""
    serving = serving_of(speculative_tokens=3, speculative_acceptance=0.8, draft_step_s=1e-3)
    result = _replayed(serving, _plan(_TEXT), _requests(3))
    assert result.metrics["decode"]["tokens_per_decode"] > 2
    assert result.metrics["decode"]["draft_frac"] > 0 == result.metrics["prefill"]["draft_frac"]


@pytest.mark.parametrize(
    ("text", "settings", "trace", "reason"),
    [
        ("prefill.tp8+decode.tp2", {}, "chat-synthetic", "needs 10 devices, h100-sxm-8 has 8"),
        ("prefill.tp2-kv.fp8+decode.tp2", {}, "chat-synthetic", "KV formats differ: prefill fp8, decode bf16"),
        ("prefill.tp2+decode.tp2", {"engine": "orca"}, "chat-synthetic", "orca does not say how two pools"),
        ("prefill.tp2+decode.pp2-tp2", {"engine": "tensorrt-llm-1.2"}, "chat-synthetic", "pipeline stages in a decode"),
        (
            "prefill.tp2+decode.tp2",
            {"engine": "tensorrt-llm-1.2", "speculative_tokens": 2, "speculative_acceptance": 0.7},
            "chat-synthetic",
            "speculative decoding is not simulated in two pools of tensorrt-llm",
        ),
        ("prefill.tp3+decode.tp2", {}, "chat-synthetic", "prefill pool: tp is 3"),
        ("prefill.tp2+decode.tp2", {"num_gpu_blocks": 2}, "chat-synthetic", "prefill pool: KV cache holds"),
        ("prefill.tp2+decode.tp2", {}, "timeout", "client time-outs"),
    ],
)
def test_what_cannot_run_is_refused_with_its_reason(
    text: str, settings: dict[str, Any], trace: str, reason: str
) -> None:
    """Each refusal names the pool or what is not simulated."""
    workload = parse_workload("chat-synthetic", limit=20)
    if trace == "timeout":
        workload = replace(parse_workload("chat-synthetic", limit=20), client_timeout_s=1.0)
    outcome = start_pools(serving_of(**settings), _plan(text), workload)
    assert isinstance(outcome, Refusal)
    assert reason in outcome.reason


def test_a_search_ranks_pools_beside_plans() -> None:
    """Named plans of both kinds are ranked by the same metric, or refused."""
    plans = [parse_layout(text) for text in ("tp8", _TEXT, "prefill.tp8+decode.tp8")]
    workload = parse_workload("chat-synthetic", limit=50)
    found = search(serving_of(), workload, parse_objective("e2e_s"), plans=plans)
    assert {str(result.plan) for result in found.ranked} == {"tp8", _TEXT}
    assert [str(refusal.plan) for refusal in found.refused] == ["prefill.tp8+decode.tp8"]


def test_the_command_takes_pools_and_refuses_a_timeline_of_them() -> None:
    """`apex simulate --plan` prints both pools; files that need one replica's log are refused."""
    options = ["--model", "llama-3.1-8b", "--cluster", "h100-sxm-8", "--trace", "chat-synthetic", "--limit", "20"]
    command = [*options, "--costs", "analytic", "--plan", _TEXT]
    printed = CliRunner().invoke(simulate, command)
    assert printed.exit_code == 0
    assert "\ndecode\n  utilisation_frac" in printed.output
    refused = CliRunner().invoke(simulate, [*command, "--chrome-trace", "timeline.json"])
    assert refused.exit_code == 2
    assert "for plans of one pool" in refused.output


@pytest.mark.parametrize(
    ("engine", "text", "settings"),
    [
        ("sglang-0.5", "prefill.attn.dp2-moe.ep2+decode.attn.dp4-moe.ep4", {}),
        ("tensorrt-llm-1.2", "prefill.dp2-tp2+decode.attn.dp2-moe.ep2", {}),
        ("vllm-0.33", "prefill.tp2+decode.dp2-attn.dp2-moe.ep2", {}),
        ("vllm-0.33", "prefill.tp2+decode.tp4", {"speculative_tokens": 2, "speculative_acceptance": 0.7}),
    ],
)
def test_every_engine_serves_a_closed_loop_on_pools_of_ranks(engine: str, text: str, settings: dict[str, Any]) -> None:
    """Slots wait for the decode pool's answers under each engine's rules, on attention-data ranks in either pool."""
    serving = serving_of("mixtral-8x7b", engine=engine, **settings)
    workload = parse_workload("closed:isl=600,osl=30,concurrency=4")
    result = _replayed(serving, _plan(text), workload)
    assert result.run is not None
    assert result.run.is_finished.all()
    sent, answered = np.sort(result.run.arrival_ps), np.sort(result.run.finish_ps)
    assert (np.arange(len(sent)) - np.searchsorted(answered, sent, side="right") < 4).all()
    assert result.metrics["kv_transfer_s"]["mean"] > 0


def test_engines_answer_the_first_token_by_their_own_rules() -> None:
    """TensorRT-LLM's client has its first token before a decode step; vLLM's after one, and another front end."""
    alone = replace(_requests(3), output_tokens=np.full(3, 30), client=ClosedLoop(concurrency=1))
    for engine, has_step in (("tensorrt-llm-1.2", False), ("vllm-0.33", True)):
        serving = serving_of(engine=engine)
        result = _replayed(serving, _plan("prefill.tp2+decode.tp2"), alone)
        steps = result.metrics["decode"]["steps"]
        assert steps == len(alone) * (30 if has_step else 29), engine
