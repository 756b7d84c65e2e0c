"""The plan space: complete, without duplicates, and every refusal with its reason."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_specs.load import load_cluster, load_device
from simulator.engine_profiles.engine_profile import load_profile
from simulator.feasible.engine_layout import laid_out
from simulator.feasible.engine_support import converted_checkpoint, engines_for
from simulator.feasible.plan_space import MORE_AXES, Axes, check_plan, enumerate_plans, smallest_fit
from simulator.memory.plan_memory import plan_memory
from simulator.model.load_model import from_hf_config, load_model
from simulator.model.spec import stage_layers
from simulator.plan.plan import Plan, parse_plan
from tests.simulator.deployments import LIMITS

_LIMITS: dict[str, Any] = LIMITS | {"start_up": load_profile("vllm-0.33").memory, "max_model_len": 8192}


def test_dense_plans_are_all_factorisations() -> None:
    """A dense model on 8 devices has the ten ways to write 8 as dp x pp x tp, each once."""
    plans = [str(plan) for plan in enumerate_plans(load_model("llama-3.1-70b"), load_cluster("h100-sxm-8"))]
    assert sorted(plans) == sorted(
        ["dp8", "dp4-tp2", "dp4-pp2", "dp2-tp4", "dp2-pp2-tp2", "dp2-pp4", "tp8", "pp2-tp4", "pp4-tp2", "pp8"]
    )


@pytest.mark.parametrize(
    ("model", "cluster", "plans", "feasible"),
    [
        ("deepseek-v3", "h200-sxm-8", 36, 36),
        ("mixtral-8x7b", "h100-sxm-8", 36, 36),
        ("minimax-m2.5", "h100-sxm-8", 36, 32),
    ],
)
def test_experts_add_attention_data_and_expert_axes(model: str, cluster: str, plans: int, feasible: int) -> None:
    """With experts every stage layout comes with whole and with sharded experts; none is listed twice."""
    spec, hardware = load_model(model), load_cluster(cluster)
    listed = enumerate_plans(spec, hardware)
    assert len({str(plan) for plan in listed}) == len(listed) == plans
    assert sum(check_plan(spec, plan, hardware) is None for plan in listed) == feasible
    assert all(plan.num_devices == 8 for plan in listed)


@pytest.mark.parametrize(
    ("model", "cluster", "engine", "plans", "with_cells"),
    [
        ("llama-3.1-70b", "h100-sxm-8", "vllm-0.33", 10, 30),
        ("mixtral-8x7b", "h100-sxm-8", "vllm-0.33", 36, 50),
        ("deepseek-v3", "h200-sxm-4x8", "vllm-0.33", 106, 161),
        ("qwen3-32b", "h100-sxm-8", "sglang-0.5", 20, 30),
        ("mixtral-8x7b", "h100-sxm-8", "sglang-0.5", 50, 64),
    ],
)
def test_cells_with_degrees_of_their_own_are_all_of_the_papers(
    model: str, cluster: str, engine: str, plans: int, with_cells: int
) -> None:
    """Copies of attention times copies of feed-forwards, one of both 1: counts of the APEX paper's rules, and grids."""
    spec, hardware, layouts = load_model(model), load_cluster(cluster), load_profile(engine).layouts
    listed = [
        {str(plan) for plan in enumerate_plans(spec, hardware, Axes(more=frozenset(more)), layouts)}
        for more in ((), ("cells",))
    ]
    assert [len(space) for space in listed] == [plans, with_cells]
    assert listed[0] <= listed[1]


@pytest.mark.parametrize("model", ["llama-3.1-8b", "mixtral-8x7b"])
def test_every_listed_plan_reads_back_and_uses_all_devices(model: str) -> None:
    """Whatever the axes, plans are distinct by their text, contradict nothing and fill the cluster."""
    spec, hardware, layouts = load_model(model), load_cluster("h100-sxm-8"), load_profile("sglang-0.5").layouts
    listed = enumerate_plans(spec, hardware, Axes(more=frozenset(MORE_AXES)), layouts)
    assert len({str(plan) for plan in listed}) == len(listed)
    for plan in listed:
        assert parse_plan(str(plan)) == plan
        assert plan.num_devices == 8
        assert spec.refusal(plan) is None
        assert sum(count for stage in spec.stage_blocks(plan) for _, count in stage) == spec.num_layers


@pytest.mark.parametrize(
    ("engine", "split"),
    [
        ("vllm-0.33", (15, 15, 16, 15)),
        ("sglang-0.5", (15, 15, 15, 16)),
        ("tensorrt-llm-1.2", (16, 15, 15, 15)),
        ("vllm-0.6", (15, 15, 15, 16)),
    ],
)
def test_leftover_layers_go_where_the_engine_puts_them(engine: str, split: tuple[int, ...]) -> None:
    """DeepSeek's 61 layers on four stages, as each engine splits them; what a plan states stands."""
    model, layouts = load_model("deepseek-v3"), load_profile(engine).layouts
    assert laid_out(model, Plan(pp=4), layouts).stage_layers == split
    stated = parse_plan("pp16_16_15_14")
    assert laid_out(model, stated, layouts).stage_layers == stated.stage_layers


def test_stages_without_one_layer_each_are_refused() -> None:
    """Stated stages hold exactly the model's layers."""
    reason = check_plan(load_model("llama-3.1-70b"), parse_plan("pp41_41-tp4"), load_cluster("h100-sxm-8"))
    assert reason is not None
    assert reason == ("stages have 41 + 41 = 82 layers, llama-3.1-70b has 80", "model")


@pytest.mark.parametrize(
    ("model", "engine", "plan", "said"),
    [
        ("qwen3-32b", "sglang-0.5", "attn.dp4-tp2", None),
        ("llama-3.1-70b", "sglang-0.5", "attn.dp4-tp2", "of dense models for qwen3"),
        ("qwen3-32b", "vllm-0.33", "attn.dp4-tp2", "for mixtures of experts alone; replicas (dp4) share nothing"),
        ("mixtral-8x7b", "vllm-0.33", "tp8-ep2", "ep is 2, must be 1 or 8"),
        ("mixtral-8x7b", "sglang-0.5", "tp8-ep2", None),
        ("mixtral-8x7b", "tensorrt-llm-1.2", "tp8-ep2", None),
        ("mixtral-8x7b", "tensorrt-llm-1.2", "attn.dp4-tp2", "on each device or not at all"),
        ("mixtral-8x7b", "sglang-0.5", "tp8-moe.dp2", "keeps one copy of the experts"),
        ("deepseek-v3", "sglang-0.5", "attn.dp8-moe.ep8-mlp.dp8", None),
        ("deepseek-v3", "vllm-0.33", "attn.dp8-moe.ep8-mlp.dp1", "has 8 copies of a dense feed-forward"),
        ("llama-3.1-70b", "vllm-0.33", "pp41_39-tp4", None),
        ("llama-3.1-70b", "tensorrt-llm-1.2", "pp41_39-tp4", "makes them 40_40"),
        ("llama-3.1-70b", "tensorrt-llm-1.2", "pp40_40-tp4", None),
    ],
)
def test_layouts_an_engine_does_not_have_are_refused_by_name(
    model: str, engine: str, plan: str, said: str | None
) -> None:
    """Each is a fact of the engine's profile; the others run."""
    spec, profile, device = load_model(model), load_profile(engine), load_device("h200-sxm")
    reason = engines_for(spec, parse_plan(plan), device, profile)[profile.engine]
    assert reason is None if said is None else said in (reason or "")


def test_fewer_devices_on_request() -> None:
    """Plans on fewer devices are listed only when asked for, and contain the full ones."""
    model, cluster = load_model("llama-3.1-8b"), load_cluster("h100-sxm-4")
    full = {str(plan) for plan in enumerate_plans(model, cluster)}
    fewer = {str(plan) for plan in enumerate_plans(model, cluster, Axes(allow_fewer_devices=True))}
    assert full < fewer
    assert {"tp1", "tp2", "dp3", "pp3"} <= fewer


def test_formats_and_clocks_are_axes() -> None:
    """Each listed weight format, KV format and clock multiplies the space."""
    model, cluster = load_model("llama-3.1-8b"), load_cluster("h100-sxm-2")
    axes = Axes(weight_dtypes=(None, "fp8"), kv_dtypes=(None, "fp8"), clocks_mhz=(None, 1410.0))
    plans = enumerate_plans(model, cluster, axes)
    assert len({str(plan) for plan in plans}) == 3 * 8
    assert all(check_plan(model, plan, cluster) is None for plan in plans)


@pytest.mark.parametrize(
    ("model", "cluster", "plan", "said"),
    [
        ("llama-3.1-8b", "h100-sxm-4", "tp8", "needs 8 devices, h100-sxm-4 has 4"),
        ("llama-3.1-8b", "h100-sxm-2x6", "tp4", "must divide the 6 devices of a node, or fill whole nodes"),
        ("deepseek-v3", "h100-sxm-2x8", "tp16", None),
        ("qwen2.5-32b", "h100-sxm-2x8", "dp2-tp8", None),
        ("qwen2.5-7b", "h100-sxm-8", "tp8", "must divide the 28 attention heads"),
        ("tiny-llama", "h100-sxm-2x8", "pp16", "pp is 16, must be at most the 8 layers"),
        ("llama-3.1-8b", "h100-sxm-8", "attn.dp8-moe.ep8", "has no experts"),
        ("deepseek-v3", "a100-sxm-80gb-8", "tp8", "fp8_block needs fp8 arithmetic, a100-sxm-80gb has"),
        ("deepseek-v3", "a100-sxm-80gb-2x8", "tp16-w.w8a16", None),
        ("llama-3.1-8b", "v100-sxm2-8", "tp8", "bf16 needs bf16 arithmetic"),
        ("llama-3.1-8b", "v100-sxm2-8", "tp8-w.fp16", None),
        ("deepseek-v3", "h200-sxm-8", "tp8-w.bf16", "is stored as fp8_block"),
        ("gpt-oss-120b", "h100-sxm-8", "tp8-w.fp8", "is stored as mxfp4"),
        ("llama-3.1-8b", "h100-sxm-8", "tp8-f2500", "clock is 2500 MHz, must be at most 1980 MHz"),
        ("llama-3.1-8b", "h100-sxm-8", "tp8-f1410", None),
    ],
)
def test_refusals_state_value_and_limit(model: str, cluster: str, plan: str, said: str | None) -> None:
    """What cannot run says why; what can run says nothing."""
    reason = check_plan(load_model(model), parse_plan(plan), load_cluster(cluster))
    assert reason is None if said is None else reason is not None and said in reason.reason


def test_fp8_weights_meet_wider_activations_where_no_unit_takes_them() -> None:
    """On Ampere FP8 checkpoints run through weight-only kernels: same bytes, 16-bit arithmetic."""
    model, cluster = load_model("deepseek-v3"), load_cluster("a100-sxm-80gb-2x8")
    assert {plan.weight_dtype for plan in enumerate_plans(model, cluster)} == {"w8a16"}
    (stored,), (kept,) = (model.stage_weight_bytes(parse_plan(text)) for text in ("tp8", "tp8-w.w8a16"))
    assert kept == pytest.approx(stored, rel=0.02)


def test_a_model_without_a_native_format_is_cast_in_the_open() -> None:
    """On a device without bf16 every plan says that it runs in fp16."""
    model, cluster = load_model("llama-3.1-8b"), load_cluster("v100-sxm2-8")
    plans = enumerate_plans(model, cluster)
    assert {plan.weight_dtype for plan in plans} == {"fp16"}
    assert all(check_plan(model, plan, cluster) is None for plan in plans)


@given(layers=st.integers(1, 200), pp=st.integers(1, 64))
def test_stages_share_layers_evenly(layers: int, pp: int) -> None:
    """Every layer is in one stage, stages differ by at most one layer, and the last never has a leftover one."""
    if pp > layers:
        return
    split = stage_layers(layers, pp)
    assert (len(split), sum(split)) == (pp, layers)
    assert max(split) - min(split) <= 1
    assert split[-1] == layers // pp


def test_leftover_layers_go_backwards_from_the_second_to_last_stage() -> None:
    """As vLLM splits 61 and 126 layers."""
    assert stage_layers(61, 4) == (15, 15, 16, 15)
    assert stage_layers(126, 4) == (31, 32, 32, 31)
    assert stage_layers(7, 4) == (2, 2, 2, 1)


@given(layers=st.integers(1, 130), pp=st.integers(1, 16))
def test_stages_hold_every_layer_once(layers: int, pp: int) -> None:
    """The blocks of all stages together are the model's."""
    if pp > layers:
        return
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 64}
    windows = {"sliding_window": 16, "sliding_window_pattern": 3, "max_position_embeddings": 128, "hidden_act": "silu"}
    model = from_hf_config({"model_type": "llama", "num_hidden_layers": layers, **sizes, **windows}, name="toy")
    held = [block for stage in model.stage_blocks(Plan(pp=pp)) for block, count in stage for _ in range(count)]
    assert len(held) == layers
    for block in model.unique_blocks:
        assert held.count(block) == sum(count for other, count in model.blocks if other == block)


@pytest.mark.parametrize(("model", "devices"), [("llama-3.1-8b", 1), ("llama-3.1-70b", 2), ("llama-3.1-405b", 16)])
def test_smallest_fit_is_the_smallest(model: str, devices: int) -> None:
    """The answer fits, and no layout on half as many devices does."""
    spec, device = load_model(model), load_device("h100-sxm")
    plan = smallest_fit(spec, device, lambda plan: plan_memory(spec, plan, device, **_LIMITS).fits)
    assert plan is not None
    assert plan.num_devices == devices
    assert plan_memory(spec, plan, device, **_LIMITS).fits
    for pp in range(1, int(math.log2(devices)) + 1):
        half = Plan(pp=2 ** (pp - 1), tp=devices // 2 // 2 ** (pp - 1))
        assert not plan_memory(spec, half, device, **_LIMITS).fits


def test_no_cluster_helps_a_format_the_device_lacks() -> None:
    """Without an fp8 or bf16 unit no number of devices will do."""
    assert smallest_fit(load_model("deepseek-v3"), load_device("v100-sxm2"), lambda _plan: True) is None


def test_engines_say_what_they_cannot_run() -> None:
    """Every engine runs a plain plan; formats, layouts and architectures they lack come with a reason."""
    llama, t5 = load_model("llama-3.1-8b"), {"model_type": "t5", "d_model": 64, "d_ff": 128, "d_kv": 16}
    h100 = load_device("h100-sxm")
    assert engines_for(llama, parse_plan("dp2-tp4"), h100) == {"vllm": None, "sglang": None, "tensorrt-llm": None}
    assert "does not run w8a16" in (engines_for(llama, parse_plan("tp4-w.w8a16"), h100)["sglang"] or "")
    assert "not fp32" in (engines_for(llama, parse_plan("tp4-kv.fp32"), h100)["vllm"] or "")
    stages = engines_for(load_model("deepseek-v3"), parse_plan("pp2-attn.dp8-moe.ep8"), h100)
    assert stages == {"vllm": None, "sglang": None, "tensorrt-llm": None}
    encoder_decoder = from_hf_config(t5 | {"num_layers": 2, "num_heads": 4, "vocab_size": 64}, name="t5")
    assert "does not serve t5" in (engines_for(encoder_decoder, Plan(), h100)["vllm"] or "")


def test_formats_an_engine_cannot_make_need_a_checkpoint() -> None:
    """fp8 is made while loading; int8 and int4 need a converted checkpoint; a checkpoint's own format needs none."""
    llama = load_model("llama-3.1-8b")
    assert converted_checkpoint(llama, parse_plan("tp1-w.fp8")) is None
    assert converted_checkpoint(llama, parse_plan("tp1-w.w4a16")) == "w4a16"
    assert converted_checkpoint(load_model("deepseek-v3"), parse_plan("tp8-w.w8a16")) is None
    assert converted_checkpoint(load_model("gpt-oss-20b"), parse_plan("tp1-w.mxfp4")) is None
