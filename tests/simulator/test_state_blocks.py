"""States of linear attention in the KV cache: pages by hand, real servers' counts, and the sequences they allow."""

from typing import Any

import pytest

from cluster_specs.load import load_device
from simulator.engine_profiles.engine_profile import load_profile
from simulator.memory.plan_memory import plan_memory
from simulator.memory.state_blocks import StatePages, state_bytes_of, state_pages
from simulator.model.load_model import load_model
from simulator.plan.plan import Plan, parse_plan
from simulator.serving import Refusal, StartedPlan
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of, start_of

_CHAT = parse_workload("synthetic:isl=200,osl=50,rate=1,n=3")


def _pages(model: str, plan: str, block_size: int = 16) -> StatePages | None:
    spec, layout = load_model(model), parse_plan(plan)
    return state_pages(layout, spec.stage_blocks(layout)[0], block_size)


def _started(
    engine: str, *, model: str = "qwen3.5-27b", plan: str = "tp1-w.fp8", **overrides: Any
) -> StartedPlan | Refusal:
    return serving_of(model, "h100-sxm-1", engine, **overrides).start(parse_plan(plan), _CHAT)


def test_pages_of_qwen_are_those_a_server_logs() -> None:
    """48 matrices of 128 x 128 in fp32 and 3 inputs of 10,240 channels fill 784 tokens of 4 KiB; a block is 16 layers.

    With FP8 KV on two devices a page holds 1,568 tokens, as a public server of Qwen3.8-27B states.
    """
    one = _pages("qwen3.5-27b", "tp1")
    assert one == StatePages(
        block_tokens=784, block_bytes=16 * 784 * 2 * 4 * 256 * 2, attention_groups=1, state_groups=3
    )
    two = _pages("qwen3.5-27b", "tp2-kv.fp8")
    assert two is not None
    assert two.block_tokens == 1568


def test_a_stage_has_its_own_groups() -> None:
    """Half of the layers are 8 of attention and 24 of states: the same groups, of half the bytes."""
    whole, half = _pages("qwen3.5-27b", "tp1"), _pages("qwen3.5-27b", "pp2")
    assert whole is not None
    assert half is not None
    assert (half.block_tokens, half.state_groups, half.block_bytes) == (784, 3, whole.block_bytes // 2)


def test_models_without_states_have_no_pages() -> None:
    """Dense and sliding-window models are paged as before."""
    assert _pages("llama-3.1-8b", "tp1") is None
    assert _pages("gpt-oss-20b", "tp1") is None


@pytest.mark.parametrize(
    ("context", "cached", "plain"), [(1, 4, 4), (784, 4, 4), (785, 8, 5), (1568, 8, 5), (1569, 9, 6)]
)
def test_a_request_holds_blocks_for_its_context_and_its_states(context: int, cached: int, plain: int) -> None:
    """One block per 784 tokens, and in each of three groups one state, two with a prefix cache past the first block."""
    pages = _pages("qwen3.5-27b", "tp1")
    assert pages is not None
    assert pages.blocks_of(context, caches_prefixes=True) == cached
    assert pages.blocks_of(context, caches_prefixes=False) == plain


def test_the_longest_request_fills_the_blocks_its_states_leave() -> None:
    """Of 10 blocks 6 are states with a prefix cache, 3 without: 4 x 784 and 7 x 784 tokens."""
    pages = _pages("qwen3.5-27b", "tp1")
    assert pages is not None
    assert pages.longest(10, caches_prefixes=True) == 4 * 784
    assert pages.longest(10, caches_prefixes=False) == 7 * 784
    assert pages.longest(3, caches_prefixes=True) == 0


def test_the_number_of_sequences_is_lowered_to_the_blocks() -> None:
    """Qwen3.5-27B FP8 on one H100 at 0.95: a server named 856 blocks as the most (vllm-project/recipes pull 551)."""
    start = _started("vllm-0.33", gpu_memory_utilization=0.95)
    assert isinstance(start, StartedPlan)
    assert start.limits.max_num_seqs == start.server.max_num_seqs == pytest.approx(856, rel=0.05)
    assert start.memory.state_slots is not None
    assert start.server.max_num_seqs <= start.memory.state_slots
    assert "max_num_seqs is lowered from 1024 to" in start.notes[0]


def test_a_stated_number_of_sequences_is_refused_as_the_engine_does() -> None:
    """What a user asks for is not changed: the server would stop, and so does the plan, with the number that starts."""
    refused = _started("vllm-0.33", gpu_memory_utilization=0.95, max_num_seqs=1024)
    assert isinstance(refused, Refusal)
    most = int(refused.reason.split("at most ")[1].split(":")[0])
    assert isinstance(_started("vllm-0.33", gpu_memory_utilization=0.95, max_num_seqs=most), StartedPlan)
    assert isinstance(_started("vllm-0.33", gpu_memory_utilization=0.95, max_num_seqs=512), StartedPlan)


def test_older_versions_start_with_more_sequences_than_blocks() -> None:
    """Up to 0.18 graphs are left out instead; requests wait for blocks as for any."""
    start = _started("vllm-0.18", gpu_memory_utilization=0.95)
    assert isinstance(start, StartedPlan)
    assert start.limits.max_num_seqs == 1024
    assert not start.notes


def test_without_whole_graphs_nothing_caps_the_sequences() -> None:
    """The engine asks for a block per sequence only where it captures decode steps whole."""
    profile = load_profile("vllm-0.33")
    piecewise = profile.model_copy(update={"graphs": profile.graphs.model_copy(update={"decode": "piecewise"})})
    stated = {"gpu_memory_utilization": 0.95, "max_num_seqs": 1024}
    start = start_of(serving_of("qwen3.5-27b", "h100-sxm-1", piecewise, **stated), "tp1-w.fp8", _CHAT)
    assert start.server.max_num_seqs == 1024


def test_what_has_no_states_keeps_its_limits() -> None:
    """A dense model starts with the engine's own number of sequences, and nothing is noted."""
    start = _started("vllm-0.33", model="llama-3.1-8b", plan="tp1")
    assert isinstance(start, StartedPlan)
    assert (start.limits.max_num_seqs, start.notes, start.memory.state_slots) == (1024, (), None)


def test_blocks_of_a_log_are_the_shared_ones() -> None:
    """A server's 856 blocks are 856 pages of 49 MiB, however many tokens a request holds."""
    start = _started("vllm-0.33", num_gpu_blocks=856)
    assert isinstance(start, StartedPlan)
    assert start.memory.kv_bytes == 856 * 49 * 2**20
    assert start.memory.state_slots == start.limits.max_num_seqs == 856


def test_sglang_keeps_states_in_a_pool() -> None:
    """Nine nineteenths of the memory are states, three per request with its prefix cache and one without."""
    spec, layout = load_model("qwen3.5-27b"), parse_plan("tp1-w.fp8")
    cached, plain = (
        plan_memory(
            spec,
            layout,
            load_device("h100-sxm"),
            start_up=load_profile("sglang-0.5").memory,
            gpu_memory_utilization=0.9,
            block_size=1,
            max_num_batched_tokens=8192,
            max_num_seqs=2048,
            max_model_len=4096,
            caches_prefixes=caches_prefixes,
        )
        for caches_prefixes in (True, False)
    )
    state_bytes = 48 * (48 * 128 * 128 * 4 + 3 * 10_240 * 2)
    assert state_bytes_of(layout, spec.stage_blocks(Plan())[0]) == state_bytes
    rest = cached.usable_bytes - cached.weights_bytes
    assert cached.kv_bytes == pytest.approx(rest / 1.9, abs=2)
    assert plain.state_slots == int(rest * 0.9 / 1.9 / state_bytes)
    assert cached.state_slots == plain.state_slots // 3
    assert cached.num_gpu_blocks == cached.kv_bytes // (16 * 2 * 4 * 256 * 2)
    start = _started("sglang-0.5", gpu_memory_utilization=0.9, max_num_seqs=1000)
    assert isinstance(start, StartedPlan)
    assert start.limits.max_num_seqs == cached.state_slots
    assert "lowered from 1000" in start.notes[0]
