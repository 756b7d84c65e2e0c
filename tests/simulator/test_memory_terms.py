"""Each term of the memory budget against a value worked out by hand."""

from typing import Any

import pytest

from cluster_specs.load import load_device
from costmodel.ops.op_types import Elementwise, Gemm, Moe
from simulator.engine_profiles.engine_profile import load_profile
from simulator.engine_profiles.start_up import StartUpMemory
from simulator.memory.plan_memory import MemoryBudget, plan_memory, step_bytes, workspace_bytes
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import LIMITS, serving_of, start_of

_MIB, _GIB = 2**20, 2**30
_PLAIN = StartUpMemory(
    rule="share_of_total",
    context_mib=512,
    runtime_mib=100,
    communicator_mib=300,
    logit_bytes=10,
    expert_workspace="transient",
    workspace_kernels=["plain", "marlin"],
    graph_layer_kib=256,
    expert_chunk_tokens=1024,
    source="made up",
)
_KEPT = _PLAIN.model_copy(update={"expert_workspace": "kept", "expert_chunk_tokens": None})
_H100 = load_device("h100-sxm").model_copy(update={"memory_bytes": 80 * _GIB})
_MOE = Moe(num_tokens=8192, hidden=4096, inter=14336, num_experts=8, topk=2, tp=2)


def _budget(model: str, plan: str, start_up: StartUpMemory = _PLAIN, **changes: Any) -> MemoryBudget:
    return plan_memory(load_model(model), parse_plan(plan), _H100, start_up=start_up, **(LIMITS | changes))


@pytest.mark.parametrize(
    ("plan", "mebibytes"),
    [("tp1", 100), ("pp2", 100), ("tp2", 400), ("pp2-tp2", 400), ("attn.dp2", 400), ("attn.dp2-tp2-moe.ep4", 700)],
)
def test_every_group_of_a_stage_has_a_communicator(plan: str, mebibytes: int) -> None:
    """The runtime is 100 MiB here, and 300 more for tensor ranks and for attention ranks; stages alone have none."""
    assert _PLAIN.runtime_bytes(parse_plan(plan)) == mebibytes * _MIB


@pytest.mark.parametrize(
    ("cluster", "plan", "mebibytes"),
    [
        ("h200-sxm-8", "tp8-ep8", 0),
        ("h200-sxm-8", "attn.dp8-moe.ep8", 1024),
        ("h200-sxm-2x8", "attn.dp16-moe.ep16", 2048),
    ],
)
def test_deepep_brings_a_buffer_per_kind_of_link(cluster: str, plan: str, mebibytes: int) -> None:
    """Where DeepEP spreads the tokens of attention ranks it takes one buffer, and another to reach other nodes."""
    plain = load_profile("vllm-0.18")
    deepep = plain.model_copy(update={"kernels": plain.kernels.model_copy(update={"all2all": "deepep"})})
    budgets = [
        start_of(serving_of("qwen3-30b-a3b", cluster, profile), plan, parse_workload("chat-synthetic", limit=20)).memory
        for profile in (plain, deepep)
    ]
    assert budgets[1].runtime_bytes - budgets[0].runtime_bytes == mebibytes * _MIB


def test_communicators_are_smaller_without_nvlink() -> None:
    """What fused all-reduces set aside comes with NVLink; a profile that has one figure takes it for all links."""
    plan = parse_plan("tp2")
    assert _PLAIN.runtime_bytes(plan, has_fast_links=False) == 400 * _MIB
    slow = _PLAIN.model_copy(update={"slow_communicator_mib": 50.0})
    assert slow.runtime_bytes(plan, has_fast_links=False) == 150 * _MIB
    assert slow.runtime_bytes(plan, has_fast_links=True) == 400 * _MIB
    assert slow.runtime_bytes(parse_plan("pp2"), has_fast_links=False) == 100 * _MIB


def test_graphs_take_memory_per_layer() -> None:
    """Three graphs of 32 layers at 256 KiB are 24 MiB; of a stage of 16 layers, 12."""
    assert _budget("llama-3.1-8b", "tp1", captured_graphs=3).graph_bytes == 24 * _MIB
    assert _budget("llama-3.1-8b", "pp2", captured_graphs=3).graph_bytes == 12 * _MIB


def test_the_sampler_holds_two_residual_streams_and_its_logits() -> None:
    """8,192 tokens x 4,096 x 2 bytes, twice, and 1,024 rows of 128,256 logits at 10 bytes; rows stop at the tokens."""
    residual = 8192 * 4096 * 2
    assert _budget("llama-3.1-8b", "tp1", max_num_seqs=1024).activation_bytes == 2 * residual + 1024 * 128_256 * 10
    few = _budget("llama-3.1-8b", "tp1", max_num_seqs=1024, max_num_batched_tokens=512).activation_bytes
    assert few == 2 * 512 * 4096 * 2 + 512 * 128_256 * 10


def test_only_the_last_stage_samples() -> None:
    """Of two stages the last one is the fuller by its logits, and the first one's peak is a layer's."""
    last = _budget("llama-3.1-8b", "pp2", max_num_seqs=1024)
    assert last.activation_bytes == 2 * 8192 * 4096 * 2 + 1024 * 128_256 * 10
    layer = _budget("llama-3.1-8b", "pp2", _PLAIN.model_copy(update={"logit_bytes": 0.0}))
    # Residual stream, and gate and up results in (2 x 14,336) and their product out, in 16 bits.
    assert layer.activation_bytes == 8192 * 4096 * 2 + 8192 * 3 * 14_336 * 2


def test_an_op_holds_what_it_reads_and_writes() -> None:
    """A product m (n + k) elements, an elementwise op its bytes per row, an addition into the residual nothing."""
    assert step_bytes(Gemm(m=100, n=30, k=7), 2, _PLAIN) == 100 * (30 + 7) * 2
    assert step_bytes(Elementwise(op="silu_mul", rows=100, width=8, bytes_per_row=48.0), 2, _PLAIN) == 4800
    assert step_bytes(Elementwise(op="add_rmsnorm", rows=100, width=8, bytes_per_row=48.0), 2, _PLAIN) == 0


def test_experts_work_through_a_step_in_chunks() -> None:
    """In and out of 8,192 tokens, and for each of 1,024 x 2 pairs a result of 14,336 and one of 7,168, in 16 bits."""
    ends = 2 * 8192 * 4096 * 2
    assert step_bytes(_MOE, 2, _PLAIN) == ends + 1024 * 2 * (14_336 + 7168) * 2
    whole = _PLAIN.model_copy(update={"expert_chunk_tokens": None})
    assert step_bytes(_MOE, 2, whole) == ends + 8192 * 2 * (14_336 + 7168) * 2
    narrow = Moe(num_tokens=10, hidden=4096, inter=256, num_experts=8, topk=2)
    assert step_bytes(narrow, 2, _PLAIN) == 2 * 10 * 4096 * 2 + 10 * 2 * (4096 + 256) * 2


def test_a_kept_workspace_comes_on_top_of_the_sampler() -> None:
    """Mixtral at tp 2: 8,192 x 2 rows as wide as max(7,168, 4,096) and max(14,336, 4,096), beside all logits."""
    workspace = 8192 * 2 * (7168 + 14_336) * 2
    assert workspace_bytes(_MOE, 2, _KEPT, "plain") == workspace
    assert step_bytes(_MOE, 2, _KEPT) == 2 * 8192 * 4096 * 2
    sampler = 2 * 8192 * 4096 * 2 + 1024 * 32_000 * 10
    assert _budget("mixtral-8x7b", "tp2", _KEPT, max_num_seqs=1024).activation_bytes == workspace + sampler


def test_the_workspace_is_as_wide_as_the_hidden_state_at_least() -> None:
    """Narrow experts (Qwen3: 768 of 2,048) hold 2 x 2,048 per pair; attention-data-parallel ranks send theirs too."""
    narrow = Moe(num_tokens=8192, hidden=2048, inter=768, num_experts=128, topk=8)
    assert workspace_bytes(narrow, 2, _KEPT, "plain") == 8192 * 8 * (2048 + 2048) * 2
    one = _budget("qwen3-30b-a3b", "tp2-ep2", _KEPT)
    two = _budget("qwen3-30b-a3b", "attn.dp2-moe.ep2", _KEPT)
    assert two.activation_bytes - one.activation_bytes == 8192 * 8 * (2048 + 2048) * 2


@pytest.mark.parametrize(
    ("kernel", "has_one"), [("marlin", True), ("plain", True), ("triton", False), ("trtllm", False)]
)
def test_kernels_of_mxfp4_experts_that_allocate_their_own_keep_none(kernel: Any, has_one: bool) -> None:
    """OpenAI's Triton kernels and TensorRT-LLM's take nothing from the shared workspace."""
    mxfp4 = Moe(num_tokens=8, hidden=2880, inter=2880, num_experts=128, topk=4, dtype="mxfp4")
    assert workspace_bytes(mxfp4, 2, _KEPT, kernel) == (8 * 4 * (2880 + 5760) * 2 if has_one else 0)


@pytest.mark.parametrize(
    ("rule", "usable", "counted"),
    [
        ("share_of_total", 0.5 * 80 * _GIB, ("weights", "activation", "graph", "runtime")),
        ("static_share", 0.5 * (80 * _GIB - 512 * _MIB - 400 * _MIB), ("weights",)),
        ("share_of_free", 80 * _GIB - 512 * _MIB, ("weights", "activation", "graph", "runtime")),
    ],
)
def test_each_rule_shares_its_own_memory(rule: Any, usable: float, counted: tuple[str, ...]) -> None:
    """A share of the whole device, of what is free before loading, or of what is left after everything else."""
    start_up = _PLAIN.model_copy(update={"rule": rule})
    budget = _budget("llama-3.1-8b", "tp2", start_up, gpu_memory_utilization=0.5, captured_graphs=3)
    left = usable - sum(getattr(budget, f"{part}_bytes") for part in counted)
    assert budget.usable_bytes == int(usable)
    assert budget.kv_bytes == pytest.approx(left * (0.5 if rule == "share_of_free" else 1), abs=2)
    assert budget.num_gpu_blocks == budget.kv_bytes // (16 * 32 * 2 * 4 * 128 * 2)


@pytest.mark.parametrize("rule", ["share_of_total", "static_share"])
@pytest.mark.parametrize(("model", "plan"), [("llama-3.1-70b", "tp2"), ("qwen3-32b", "tp1"), ("mixtral-8x7b", "tp2")])
def test_a_share_that_is_too_small_names_one_that_is_not(rule: Any, model: str, plan: str) -> None:
    """What does not fit at a small share says which one holds weights, step and one request; that one starts."""
    start_up = _PLAIN.model_copy(update={"rule": rule})
    small = _budget(model, plan, start_up, gpu_memory_utilization=0.4).reason or ""
    share = float(small.split("gpu_memory_utilization of ")[1].split()[0])
    assert _budget(model, plan, start_up, gpu_memory_utilization=share).fits
    assert not _budget(model, plan, start_up, gpu_memory_utilization=share - 0.01).fits


def test_a_share_that_leaves_no_room_for_a_step_is_not_named() -> None:
    """SGLang runs a step outside its share: where that has no room, or nothing would do, none is named."""
    static = _PLAIN.model_copy(update={"rule": "static_share"})
    assert "gpu_memory_utilization" not in str(_budget("llama-3.1-70b", "tp1", static).reason)
    packed = _budget("qwen3-32b", "tp1", static, gpu_memory_utilization=0.4, max_num_batched_tokens=262_144)
    assert packed.reason is not None
    assert "gpu_memory_utilization" not in packed.reason


@pytest.mark.parametrize(
    ("profile", "rule"),
    [
        ("vllm-0.6", "share_of_total"),
        ("vllm-0.33", "share_of_total"),
        ("sglang-0.5", "static_share"),
        ("tensorrt-llm-1.0", "share_of_free"),
    ],
)
def test_engines_share_memory_by_their_own_rule(profile: str, rule: str) -> None:
    """The fraction a user states means what it means to the engine."""
    assert load_profile(profile).memory.rule == rule


def test_sglang_has_the_cache_its_server_logged() -> None:
    """Qwen3-235B FP8 on four H100 at 0.93: 367,404 tokens (vllm-project/vllm issue 21348), met within 3 %."""
    budget = plan_memory(
        load_model("qwen3-235b-a22b"),
        parse_plan("tp4-w.fp8_block"),
        load_device("h100-sxm"),
        start_up=load_profile("sglang-0.5").memory,
        gpu_memory_utilization=0.93,
        block_size=1,
        max_num_batched_tokens=8192,
        max_num_seqs=2048,
        max_model_len=40_960,
    )
    assert budget.num_gpu_blocks == pytest.approx(367_404, rel=0.03)
