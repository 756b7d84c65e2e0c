"""The memory budget: real block counts, monotone in what it depends on, and a reason when nothing fits."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.kv_blocks import REFERENCE, block_counts, logged_servers
from cluster_specs.load import load_cluster
from simulator.engine_profiles.engine_profile import load_profile
from simulator.memory.plan_memory import MemoryBudget, plan_memory
from simulator.model.load_model import load_model
from simulator.plan.plan import Plan, parse_plan
from tests.simulator.deployments import LIMITS

_DEFAULTS: dict[str, Any] = LIMITS | {"start_up": load_profile("vllm-0.33").memory}


def _budget(model: str, plan: str, cluster: str = "h100-sxm-8", **changes: object) -> MemoryBudget:
    return plan_memory(load_model(model), parse_plan(plan), load_cluster(cluster).device, **(_DEFAULTS | changes))


def test_block_counts_of_real_servers() -> None:
    """Logged block counts are met within 1 % under the server's limits, or under one of the usual where unrecorded."""
    if not REFERENCE.exists():
        pytest.skip("../shared/reference/fidelity.md is absent")
    counts = block_counts(REFERENCE)
    assert len(counts) == 10
    for count in counts:
        assert abs(count.error) < 0.01, count


def test_start_up_logs_of_real_servers() -> None:
    """Logged parts are met: dense KV within 1 %; weights and KV of mixtures within 1.5 GiB; the rest within 0.2 GiB."""
    for server in logged_servers():
        is_mixture = load_model(server.stated["model"]).has_experts
        for part, logged in ((part, server.logged_gib(part)) for part in ("weights", "activation", "runtime", "kv")):
            if logged is None or not server.is_scored:
                continue
            allowed = 1.5 if is_mixture and part in {"weights", "kv"} else 0.01 * logged if part == "kv" else 0.2
            assert server.predicted_gib(part) == pytest.approx(logged, abs=allowed), (server.stated, part)


def test_budget_adds_up() -> None:
    """Weights, activations, graphs, runtime and KV are all of the usable memory, and blocks never exceed the KV."""
    budget = _budget("llama-3.1-70b", "tp4", captured_graphs=67)
    parts = budget.weights_bytes + budget.activation_bytes + budget.graph_bytes + budget.runtime_bytes
    assert parts + budget.kv_bytes == budget.usable_bytes
    assert 0 <= budget.kv_bytes - budget.num_gpu_blocks * budget.block_bytes < budget.block_bytes
    assert budget.kv_tokens == (budget.num_gpu_blocks - 1) * 16


@given(
    utilization=st.floats(0.5, 0.95),
    tokens=st.sampled_from([512, 2048, 8192, 16384]),
    seqs=st.sampled_from([16, 256, 1024]),
)
def test_more_room_never_means_fewer_blocks(utilization: float, tokens: int, seqs: int) -> None:
    """Blocks grow with usable memory and shrink (or stay) with larger steps and more sampled rows."""
    here = _budget(
        "llama-3.1-8b",
        "tp1",
        gpu_memory_utilization=utilization,
        max_num_batched_tokens=tokens,
        max_num_seqs=seqs,
    )
    more = _budget(
        "llama-3.1-8b",
        "tp1",
        gpu_memory_utilization=utilization + 0.02,
        max_num_batched_tokens=tokens,
        max_num_seqs=seqs,
    )
    wider = _budget(
        "llama-3.1-8b",
        "tp1",
        gpu_memory_utilization=utilization,
        max_num_batched_tokens=2 * tokens,
        max_num_seqs=seqs,
    )
    assert more.num_gpu_blocks > here.num_gpu_blocks >= wider.num_gpu_blocks


@pytest.mark.parametrize(
    ("model", "plan", "changes", "said"),
    [
        ("llama-3.1-70b", "tp1", {}, r"weights need 131\.\d GiB per device, at most 71\.3 GiB are usable"),
        ("llama-3.1-70b", "tp2", {"gpu_memory_utilization": 0.835}, "and a full step"),
        ("llama-3.1-8b", "tp1", {"max_model_len": 10**6}, "must hold one request of max_model_len = 1000000"),
    ],
)
def test_what_does_not_fit_says_why(model: str, plan: str, changes: dict[str, object], said: str) -> None:
    """A plan that does not fit is a result with value and limit, not an exception."""
    budget = _budget(model, plan, **changes)
    assert not budget.fits
    assert re.search(said, budget.reason or "")


def test_block_count_of_a_log_overrides() -> None:
    """A block count from the server's own log replaces the computed one."""
    assert _budget("llama-3.1-8b", "tp1", num_gpu_blocks=1234).num_gpu_blocks == 1234


def test_worst_stage_decides() -> None:
    """With uneven stages the budget is that of the rank with the fewest blocks."""
    model, cluster = load_model("llama-3.1-405b"), load_cluster("h100-sxm-2x8")
    plan = Plan(pp=4, tp=4)
    budget = plan_memory(model, plan, cluster.device, **_DEFAULTS)
    assert budget.weights_bytes == max(model.stage_weight_bytes(plan))


def test_windows_count_only_what_they_keep() -> None:
    """Given the mean context, sliding-window layers leave room for more blocks; never more than their share."""
    whole = _budget("gpt-oss-120b", "tp2").num_gpu_blocks
    windowed = _budget("gpt-oss-120b", "tp2", context_tokens=4096).num_gpu_blocks
    assert 1.5 * whole < windowed < 2 * whole


def test_state_that_does_not_grow_weighs_on_the_context_a_request_holds() -> None:
    """Qwen3.5's matrices count once per request: the longer its context, the more tokens fit."""
    model, device = load_model("qwen3.5-397b-a17b"), load_cluster("h200-sxm-8").device
    short, long = (
        plan_memory(
            model,
            Plan(tp=8),
            device,
            start_up=load_profile("vllm-0.33").memory,
            gpu_memory_utilization=0.9,
            block_size=16,
            max_num_batched_tokens=8192,
            max_num_seqs=256,
            max_model_len=16384,
            context_tokens=tokens,
        )
        for tokens in (1000, 10_000)
    )
    assert long.kv_tokens > 1.5 * short.kv_tokens


def test_halved_kv_doubles_the_blocks() -> None:
    """An fp8 KV cache holds twice the tokens of a bf16 one."""
    blocks = _budget("llama-3.1-8b", "tp1").num_gpu_blocks
    assert _budget("llama-3.1-8b", "tp1-kv.fp8").num_gpu_blocks in {2 * blocks, 2 * blocks + 1}
