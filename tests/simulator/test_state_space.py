"""Mamba-2 and Nemotron-H: layers, shards, states and prices against published counts and what engines log."""

from typing import Any

import numpy as np
import pytest

from cluster_specs.errors import UserError
from cluster_specs.load import load_cluster
from costmodel.ops.op_types import Collective, Moe
from costmodel.pricing.analytic_costs import AnalyticCosts
from simulator.engine_profiles.engine_profile import load_profile
from simulator.feasible.engine_support import engines_for
from simulator.memory.state_blocks import state_bytes_of, state_pages
from simulator.model.architectures import from_hf_config
from simulator.model.cell import KernelChoices, kind_of
from simulator.model.cells.mamba2 import Mamba2
from simulator.model.load_model import load_model
from simulator.plan.plan import Plan, parse_plan
from simulator.serving import Refusal
from simulator.steps.compile_plan import compile_plan
from simulator.steps.compiled_plan import CompiledPlan
from simulator.steps.op_curves import OpCurves
from simulator.steps.step_knots import StepShape
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of, start_of

_CLUSTER = load_cluster("h100-sxm-8")
_NEMOTRON: dict[str, Any] = {
    "model_type": "nemotron_h",
    "hidden_size": 4480,
    "hybrid_override_pattern": "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-",
    "num_hidden_layers": 56,
    "intermediate_size": 15680,
    "mamba_num_heads": 128,
    "mamba_head_dim": 80,
    "n_groups": 8,
    "ssm_state_size": 128,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 131072,
    "max_position_embeddings": 131072,
}
_MAMBA2: dict[str, Any] = {
    "model_type": "mamba2",
    "hidden_size": 2560,
    "num_hidden_layers": 64,
    "num_heads": 80,
    "head_dim": 64,
    "n_groups": 1,
    "state_size": 128,
    "vocab_size": 50288,
    "tie_word_embeddings": True,
}


def _compiled(model: str, plan: str = "tp1", queries: int = 1) -> CompiledPlan:
    return compile_plan(
        load_model(model),
        parse_plan(plan),
        OpCurves(AnalyticCosts(_CLUSTER), sustained_slowdown_frac=0.14),
        profile=load_profile("vllm-0.33"),
        shape=StepShape(
            max_num_seqs=256, max_num_batched_tokens=2048, max_model_len=8192, kv_tokens=200_000, queries=queries
        ),
        kernels=KernelChoices(activation_quantisation="fused"),
    )


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (_NEMOTRON, 8_888_227_328),  # Nemotron-Nano-9B-v2
        (_MAMBA2, 2_702_599_680),  # mamba2-2.7b
    ],
)
def test_parameters_are_the_published_ones(config: dict[str, Any], parameters: int) -> None:
    """Every projection, convolution, scalar and norm of a checkpoint is counted, a tied head once."""
    assert from_hf_config(config).parameters() == parameters


def test_layers_follow_the_pattern() -> None:
    """A letter is a layer of one cell; names of newer configs say the same."""
    model = from_hf_config(_NEMOTRON)
    kinds = [kind_of(cell) for index in model.layers for cell in model.unique_blocks[index].cells]
    assert [kinds.count(kind) for kind in ("mamba2", "attention", "mlp", "moe")] == [27, 4, 25, 0]
    names = {"M": "mamba", "*": "attention", "-": "mlp"}
    listed = {key: value for key, value in _NEMOTRON.items() if key != "hybrid_override_pattern"}
    listed["layers_block_type"] = [names[letter] for letter in _NEMOTRON["hybrid_override_pattern"]]
    assert from_hf_config(listed).unique_blocks == model.unique_blocks


def test_feed_forwards_may_have_widths_of_their_own() -> None:
    """A list of inner widths is one for each feed-forward layer, as pruned checkpoints write it."""
    widths = [128 * (1 + layer) for layer in range(25)]
    own = from_hf_config({**_NEMOTRON, "intermediate_size": widths})
    same = from_hf_config({**_NEMOTRON, "intermediate_size": 128})
    assert own.parameters() - same.parameters() == 2 * 4480 * (sum(widths) - 25 * 128)


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        (_NEMOTRON, {"hybrid_override_pattern": "M-X"}, "num_hidden_layers = 56 of M .mamba., "),
        (_NEMOTRON, {"hybrid_override_pattern": "M-*"}, "num_hidden_layers = 56 of"),
        (_NEMOTRON, {"intermediate_size": [1, 2]}, "one for each of 25 feed-forward layers"),
        (_NEMOTRON, {"mamba_ssm_cache_dtype": "int8"}, "'mamba_ssm_cache_dtype' is 'int8', must be one of float32"),
        (_NEMOTRON, {"n_groups": 7}, "'n_groups' is 7, must be a divisor of mamba_num_heads = 128"),
        (_MAMBA2, {"num_heads": 81}, "'num_heads' is 81, must be expand x hidden_size / head_dim = 5120 / 64"),
        (_MAMBA2, {"rms_norm": False}, "'rms_norm' is False, must be true: state-space layers without"),
        (_MAMBA2, {"hidden_act": "snake"}, "'hidden_act' is 'snake', must be one of"),
    ],
)
def test_configs_that_contradict_themselves_are_refused(
    base: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    """The message names the key, its value and what it must be."""
    with pytest.raises(UserError, match=message):
        from_hf_config({**base, **change})


@pytest.mark.parametrize(("dtype", "tokens"), [("float16", 672), ("float32", 1312)])
def test_pages_of_nemotron_are_those_a_server_logs(dtype: str, tokens: int) -> None:
    """Nemotron-Nano-9B-v2 with states in 16 bits: attention pages of 672 tokens (vllm issue 24280)."""
    model = from_hf_config({**_NEMOTRON, "mamba_ssm_cache_dtype": dtype})
    pages = state_pages(Plan(), model.stage_blocks(Plan())[0], 16)
    assert pages is not None
    assert (pages.block_tokens, pages.attention_groups, pages.state_groups) == (tokens, 1, 7)


def test_a_model_of_states_alone_holds_one_block_per_request() -> None:
    """Codestral Mamba: 64 layers of 128 x 64 x 128 in bf16 and three inputs of 10,240 channels, whatever the length."""
    model, plan = load_model("mamba-codestral-7b"), Plan()
    state = 64 * (128 * 64 * 128 * 2 + 3 * 10_240 * 2)
    assert state_bytes_of(plan, model.stage_blocks(Plan())[0]) == state
    pages = state_pages(plan, model.stage_blocks(Plan())[0], 16)
    assert pages is not None
    assert (pages.block_bytes, pages.blocks_of(100_000, caches_prefixes=False)) == (state, 1)
    assert pages.longest(0, caches_prefixes=False) == 0
    assert pages.longest(1, caches_prefixes=False) > 1 << 24


def test_a_server_of_states_alone_starts_and_serves() -> None:
    """No length is stated, so the longest request counts; sequences are as many as there are states in memory."""
    workload = parse_workload("synthetic:isl=2000,osl=50,rate=1,n=3")
    start = start_of(serving_of("mamba-codestral-7b", "h100-sxm-1"), "tp1", workload)
    assert 100 < start.limits.max_num_seqs < 1024
    assert "max_num_seqs is lowered from 1024" in " ".join(start.notes)


@pytest.mark.parametrize(
    ("model", "plan", "reason"),
    [
        ("mamba-codestral-7b", "tp16", "must divide the 8 groups"),
        ("nemotron-h-8b", "tp3", "must divide"),
        ("nemotron-3-nano-30b-a3b", "tp8", None),
    ],
)
def test_whole_heads_and_groups_per_rank(model: str, plan: str, reason: str | None) -> None:
    """Heads split evenly; groups too, unless there is one, which every rank then holds."""
    refusal = load_model(model).refusal(parse_plan(plan))
    assert refusal == reason if reason is None else reason in (refusal or "")


def test_one_group_is_on_every_rank() -> None:
    """Its keys and queries are replicated, its gated norm sums over the ranks; quantised, it cannot be split."""
    model = from_hf_config(_MAMBA2)
    cell = model.unique_blocks[0].cells[0]
    assert isinstance(cell, Mamba2)
    plan = Plan(tp=2)
    assert model.refusal(plan) is None
    assert (cell.scan(plan).num_heads, cell.scan(plan).num_groups) == (40, 1)
    assert cell.kv_bytes_per_request(plan) == 40 * 64 * 128 * 2 + (40 * 64 + 2 * 128) * 3 * 2
    sums = [op.message_bytes for op in cell.token_ops(plan, 8) if isinstance(op, Collective)]
    assert sums == [4 * 8, 8 * 2560 * 2]
    assert "a single group" in (model.refusal(parse_plan("tp2-w.fp8")) or "")


def test_experts_without_a_gate_are_two_matrices() -> None:
    """Nemotron-3-Nano: 128 experts of 2 x 2688 x 1856, six of them per token, and a shared one of twice the width."""
    model = load_model("nemotron-3-nano-30b-a3b")
    (cell,) = next(block for block in model.unique_blocks if kind_of(block.cells[0]) == "moe").cells
    (moe,) = (op for op in cell.token_ops(Plan(), 8) if isinstance(op, Moe))
    assert float(moe.flop()) == 8 * 6 * 2 * 2 * 2688 * 1856
    assert (moe.up_width, moe.is_gated) == (1856, False)
    assert cell.parameters() - cell.active_parameters() == (128 - 6) * 2 * 2688 * 1856


def test_experts_may_work_in_a_width_of_their_own() -> None:
    """Nemotron-3-Super: 512 experts over a latent of 1,024, projected to and from it on every rank: 120.67 B."""
    config = {
        "hidden_size": 4096,
        "hybrid_override_pattern": "MEMEMEM*" + 2 * "EMEMEMEM*" + 4 * "EMEMEMEMEM*" + "EMEMEMEM*EMEMEMEME",
        "num_hidden_layers": 88,
        "mamba_head_dim": 64,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "n_routed_experts": 512,
        "n_shared_experts": 1,
        "num_experts_per_tok": 22,
        "moe_intermediate_size": 2688,
        "moe_shared_expert_intermediate_size": 5376,
        "moe_latent_size": 1024,
    }
    model = from_hf_config({**_NEMOTRON, **config})
    assert model.parameters() == 120_668_707_840
    assert model.active_parameters() == 12_770_237_440


def test_decode_steps_of_a_scan_do_not_grow_with_the_context() -> None:
    """Without attention the price of a decode step is one per batch size; it grows with the batch."""
    tables = _compiled("mamba-codestral-7b").tables()
    assert (tables.decode_ps == tables.decode_ps[:, :, :1]).all()
    assert (np.diff(tables.decode_ps[0, :, 0]) > 0).all()
    assert tables.windowed_ps.max() == tables.prefill_pair_ps.max() == 0
    assert tables.window_tokens == 0


def test_prompts_are_scanned_in_steps_that_have_them() -> None:
    """A step of as many tokens takes longer where it has prefill, by the scans over its tokens."""
    compiled = _compiled("nemotron-h-8b")
    tables = compiled.tables()
    scans_s = np.interp(2048, compiled.knots.tokens, compiled.stages[0].scans.latency_s)
    gap_ps = int(tables.token_mixed_ps[0, 2048] - tables.token_decode_ps[0, 2048])
    assert gap_ps == pytest.approx(scans_s * 1e12, rel=1e-3)
    assert list(compiled.stages[0].scans.by_label) == ["scan"]


def test_drafts_are_scanned_with_their_sequence() -> None:
    """Three queries of a sequence read its state once: more than one query's time, less than thrice."""
    one, three = (_compiled("mamba-codestral-7b", queries=queries).tables().decode_ps[0, -1, 0] for queries in (1, 3))
    assert one < three < 3 * one


@pytest.mark.parametrize(
    ("model", "engine", "is_served"),
    [
        ("nemotron-h-8b", "vllm-0.33", True),
        ("nemotron-h-8b", "vllm-0.10", True),
        ("nemotron-h-8b", "vllm-0.6", False),
        ("nemotron-3-nano-30b-a3b", "vllm-0.11", False),
        ("nemotron-3-nano-30b-a3b", "vllm-0.18", True),
        ("mamba-codestral-7b", "vllm-0.6", False),
        ("mamba-codestral-7b", "sglang-0.5", False),
        ("nemotron-h-8b", "sglang-0.5", True),
        ("nemotron-h-8b", "tensorrt-llm-1.0", True),
    ],
)
def test_engines_serve_them_from_their_versions_on(model: str, engine: str, is_served: bool) -> None:
    """An older profile is refused with the first version that serves the model."""
    profile = load_profile(engine)
    reason = engines_for(load_model(model), parse_plan("tp1"), _CLUSTER.device, profile)[profile.engine]
    assert (reason is None) is is_served, reason
    if engine == "vllm-0.11":
        assert reason == "vllm-0.11 does not serve nemotron_h with experts models, vllm 0.12 is the first that does"


def test_a_plan_that_splits_groups_is_refused_by_name() -> None:
    """A search says why, as for any plan."""
    serving = serving_of(from_hf_config({**_NEMOTRON, "n_groups": 4}, name="x"), _CLUSTER.name)
    refused = serving.start(parse_plan("tp8"), parse_workload("synthetic:isl=200,osl=50,rate=1,n=3"))
    assert isinstance(refused, Refusal)
    assert "must divide the 4 groups of state-space heads" in refused.reason
