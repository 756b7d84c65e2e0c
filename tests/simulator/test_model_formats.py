"""Formats by matrix: rules, lists, groups and per-layer algorithms, and no key that is passed over in silence."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from cluster_specs.load import load_cluster
from simulator.feasible.engine_support import engines_for
from simulator.model.cell import KernelChoices
from simulator.model.cells.attention import SelfAttention
from simulator.model.cells.latent_attention import LatentAttention
from simulator.model.cells.mlp import Mlp
from simulator.model.cells.moe import MixtureOfExperts
from simulator.model.load_model import from_hf_config
from simulator.model.spec import ModelSpec
from simulator.plan.plan import Plan

_BASE: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}
_MOE = _BASE | {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 512,
}
_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "GEMM"}
_NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
_FP8 = {"num_bits": 8, "type": "float", "strategy": "channel"}
_INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
_INT8 = {"num_bits": 8, "type": "int", "strategy": "channel"}


def _model(quantisation: dict[str, Any], base: dict[str, Any] = _BASE) -> ModelSpec:
    return from_hf_config(base | {"quantization_config": quantisation}, name="q")


def _schemes(quantisation: dict[str, Any], base: dict[str, Any] = _BASE) -> list[tuple[str, ...]]:
    """(qkv, o, gate_up, down) of each layer, or (qkv, o, experts)."""
    model, found = _model(quantisation, base), []
    for index in model.layers:
        attention, channel = model.unique_blocks[index].cells
        assert isinstance(attention, SelfAttention)
        qkv, output = attention.linears(Plan())
        if isinstance(channel, Mlp):
            up, down = channel.feed_forward.linears(Plan())
            found.append(tuple(linear.weights.scheme for linear in (qkv, output, up, down)))
        else:
            assert isinstance(channel, MixtureOfExperts)
            found.append((qkv.weights.scheme, output.weights.scheme, channel.weights.scheme))
    return found


def _group(weights: dict[str, Any], inputs: int | None, *targets: str) -> dict[str, Any]:
    activations = {"num_bits": inputs, "type": weights["type"], "dynamic": True} if inputs else None
    return {"targets": list(targets), "weights": weights, "input_activations": activations}


def _compressed(*groups: dict[str, Any], ignore: tuple[str, ...] = ("lm_head",)) -> dict[str, Any]:
    named = {f"group_{index}": group for index, group in enumerate(groups)}
    return {"quant_method": "compressed-tensors", "config_groups": named, "ignore": list(ignore)}


@pytest.mark.parametrize(
    ("dynamic", "schemes"),
    [
        ({r"-:.*self_attn.*": {}}, [("bf16", "bf16", "w4a16", "w4a16")] * 4),
        ({r"-:model\.layers\.[01]\..*": {}}, [("bf16",) * 4] * 2 + [("w4a16",) * 4] * 2),
        ({r"+:.*\.down_proj.*": {"bits": 8}}, [("w4a16", "w4a16", "w4a16", "w8a16")] * 4),
        ({r".*\.down_proj.*": {"bits": 8}}, [("w4a16", "w4a16", "w4a16", "w8a16")] * 4),
        ({r"-:.*o_proj": {}, r"+:.*self_attn.*": {"bits": 8}}, [("w8a16", "bf16", "w4a16", "w4a16")] * 4),
        ({}, [("w4a16",) * 4] * 4),
        (None, [("w4a16",) * 4] * 4),
    ],
)
def test_the_first_gptq_rule_that_names_a_matrix_decides(
    dynamic: dict[str, Any] | None, schemes: list[tuple[str, ...]]
) -> None:
    """``-:`` leaves it alone, ``+:`` or no sign gives it other bits."""
    assert _schemes(_GPTQ | {"dynamic": dynamic}) == schemes


def test_a_rule_may_change_the_group_alone() -> None:
    """A group of 32 keeps four times the scales of one of 128."""
    plain, finer = (_model(_GPTQ | {"dynamic": rules}) for rules in ({}, {r"+:.*mlp.*": {"group_size": 32}}))
    elements = 4 * 3 * 1024 * 2048
    assert finer.stage_weight_bytes(Plan())[0] - plain.stage_weight_bytes(Plan())[0] == 2 * elements * (
        1 / 32 - 1 / 128
    )


@pytest.mark.parametrize(
    ("lists", "schemes"),
    [
        (
            {"modules_in_block_to_quantize": [["self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj"]]},
            [("w4a16", "bf16", "bf16", "bf16")] * 4,
        ),
        (
            {"modules_in_block_to_quantize": ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]},
            [("bf16", "bf16", "w4a16", "w4a16")] * 4,
        ),
        ({"modules_to_not_convert": ["self_attn"]}, [("bf16", "bf16", "w4a16", "w4a16")] * 4),
        ({"modules_to_not_convert": ["model.layers.0."]}, [("bf16",) * 4] + [("w4a16",) * 4] * 3),
        ({"modules_to_not_convert": None, "modules_in_block_to_quantize": None}, [("w4a16",) * 4] * 4),
    ],
)
def test_module_lists(lists: dict[str, Any], schemes: list[tuple[str, ...]]) -> None:
    """GPTQ's lists say what is converted, or what is not."""
    assert _schemes(_GPTQ | lists) == schemes


def test_awq_under_both_spellings() -> None:
    """``w_bit`` and ``q_group_size`` are bits and group_size; zero points take half a byte per group."""
    old = {"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "zero_point": True, "version": "GEMM"}
    new = _AWQ | {"group_size": 64}
    assert _model(old) == _model(new)
    (with_zeros,), (without,) = (
        _model(new | {"zero_point": flag}).stage_weight_bytes(Plan()) for flag in (True, False)
    )
    elements = 4 * (3 * 1024 * 2048 + 1024 * (8 + 2 * 4) * 128 + 8 * 128 * 1024)
    assert with_zeros - without == elements // 64 // 2


def test_two_groups_chosen_by_targets() -> None:
    """FP8 attention beside an NVFP4 MLP: each matrix is stored, and multiplied, in its own format."""
    config = _compressed(_group(_FP8, 8, "re:.*self_attn.*"), _group(_NVFP4, 4, "re:.*mlp.*"))
    assert _schemes(config) == [("fp8", "fp8", "nvfp4", "nvfp4")] * 4
    model = _model(config)
    assert model.schemes == {"fp8", "nvfp4"}
    fp8, nvfp4 = (
        _model(_compressed(_group(weights, bits, "Linear"))).stage_weight_bytes(Plan())[0]
        for weights, bits in ((_FP8, 8), (_NVFP4, 4))
    )
    assert nvfp4 < model.stage_weight_bytes(Plan())[0] < fp8
    ops = model.unique_blocks[0].token_ops(Plan(), 64, KernelChoices(activation_quantisation="fused"))
    assert [op.dtype for op in ops if type(op).__name__ == "Gemm"] == ["fp8", "fp8", "nvfp4", "nvfp4"]
    assert engines_for(model, Plan(), load_cluster("b200-1").device)["vllm"] is None


@pytest.mark.parametrize(
    ("groups", "ignore", "schemes"),
    [
        (
            (_group(_INT4, None, "Linear"), _group(_INT8, 8, "re:.*down_proj")),
            (),
            [("w4a16", "w4a16", "w4a16", "w8a8")] * 4,
        ),
        (
            (_group(_INT8, 8, "re:.*layers.0.*", "re:.*layers.3.*"), _group(_INT4, None, "Linear")),
            (),
            [("w8a8",) * 4, ("w4a16",) * 4, ("w4a16",) * 4, ("w8a8",) * 4],
        ),
        (
            (_group(_FP8, 8, "Linear"),),
            ("re:.*self_attn.*", "model.layers.0.mlp.down_proj"),
            [("bf16", "bf16", "fp8", "bf16")] + [("bf16", "bf16", "fp8", "fp8")] * 3,
        ),
        (
            (_group(_FP8, 8, "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"), _group(_INT8, 8, "Linear")),
            (),
            [("w8a8", "w8a8", "fp8", "w8a8")] + [("w8a8",) * 4] * 3,
        ),
    ],
)
def test_names_and_expressions_come_before_classes(
    groups: tuple[dict[str, Any], ...], ignore: tuple[str, ...], schemes: list[tuple[str, ...]]
) -> None:
    """As compressed-tensors resolves targets; what is ignored stays as it is."""
    assert _schemes(_compressed(*groups, ignore=("lm_head", *ignore))) == schemes


def test_an_algorithm_per_layer() -> None:
    """ModelOpt's MIXED_PRECISION lists layers with the algorithm of each; the rest is not quantised."""
    layers = {f"model.layers.{n}.self_attn.{p}_proj": {"quant_algo": "FP8"} for n in range(3) for p in "qkvo"}
    layers |= {
        f"model.layers.{n}.mlp.{p}_proj": {"quant_algo": "NVFP4", "group_size": 16}
        for n in range(4)
        for p in ("gate", "up", "down")
    }
    config = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    assert _schemes(config) == [("fp8", "fp8", "nvfp4", "nvfp4")] * 3 + [("bf16", "bf16", "nvfp4", "nvfp4")]


@pytest.mark.parametrize(
    "config",
    [
        _GPTQ | {"dynamic": {r"-:.*self_attn.*": {}}},
        _AWQ | {"modules_to_not_convert": ["self_attn", "gate"]},
        {"quant_method": "fp8", "modules_to_not_convert": ["self_attn", "mlp.gate"]},
        _compressed(
            _group(_INT4, None, "re:.*mlp.experts.*"), ignore=("lm_head", "re:.*self_attn.*", "re:.*mlp.gate$")
        ),
        _compressed(_group(_INT4, None, "re:.*experts.*(gate|up|down)_proj"), ignore=("re:.*attn.*",)),
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": ["*self_attn*", "*.mlp.gate"]},
    ],
)
def test_experts_are_quantised_and_attention_is_not(config: dict[str, Any]) -> None:
    """Whatever the tool calls them; the router is no expert."""
    assert [(qkv, output) for qkv, output, _ in _schemes(config, _MOE)] == [("bf16", "bf16")] * 4
    assert {experts for *_, experts in _schemes(config, _MOE)} <= {"w4a16", "fp8", "nvfp4"}


def test_mixtral_names_its_experts_otherwise() -> None:
    """``block_sparse_moe.experts.3.w1`` is a gate projection."""
    mixtral = _BASE | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
    config = _compressed(_group(_FP8, 8, "re:.*block_sparse_moe.experts.*.w[123]"), ignore=("re:.*self_attn.*",))
    assert _schemes(config, mixtral) == [("bf16", "bf16", "fp8")] * 4
    listed = {"quant_method": "fp8", "ignored_layers": [f"model.layers.{n}.block_sparse_moe.gate" for n in range(4)]}
    assert _schemes(listed, mixtral) == [("fp8", "fp8", "fp8")] * 4


def test_latent_attention_has_a_format_per_matrix() -> None:
    """A checkpoint that leaves all but the output projection of DeepSeek's attention alone."""
    deepseek = _BASE | {
        "model_type": "deepseek_v3",
        "q_lora_rank": 256,
        "kv_lora_rank": 128,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 64,
        "v_head_dim": 64,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 512,
        "first_k_dense_replace": 4,
    }
    names = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj")
    excluded = [f"model.layers.*.self_attn.{name}" for name in names]
    model = _model({"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": excluded}, deepseek)
    attention = model.unique_blocks[0].cells[0]
    assert isinstance(attention, LatentAttention)
    gemms = [op for op in attention.token_ops(Plan(), 8) if type(op).__name__ == "Gemm"]
    assert [gemm.dtype for gemm in gemms] == ["bf16", "bf16", "bf16", "nvfp4"]


def test_a_head_that_was_converted_is_stored_so() -> None:
    """GPTQ says so with ``lm_head``; engines leave it alone otherwise."""
    (plain,), (head,) = (_model(_GPTQ | {"lm_head": flag}).stage_weight_bytes(Plan()) for flag in (False, True))
    assert plain - head == 1024 * 1024 * 3 // 2 - 2 * 1024 * 8


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (_GPTQ | {"dynamic": {r"-:.*q_proj": {}}}, "different formats"),
        (_GPTQ | {"dynamic": {r"+:.*": {"bits": 3}}}, "'bits' is 3"),
        (_GPTQ | {"dynamic": {r"+:(": {"bits": 8}}}, "dynamic"),
        (_GPTQ | {"dynamic": ["-:.*"]}, "dynamic"),
        (_GPTQ | {"dynamic": {r"-:(.+)+Z": {}}}, "may never end"),
        (_GPTQ | {"modules_to_not_convert": [r"re:((l|la)*y)*Z"]}, "may never end"),
        (_compressed(_group(_FP8, 8, "re:" + ".*a" * 40)), "may never end"),
        (_GPTQ | {"dynamic": {r"+:.*": {"rotation": "hadamard"}}}, "rotation"),
        (_GPTQ | {"modules_in_block_to_quantize": "self_attn"}, "modules_in_block_to_quantize"),
        (_compressed(_group(_FP8, 8, "re:.*mlp.*")), "config_groups"),
        (_compressed(_group(_FP8, 8, "LlamaAttention")), "targets"),
        (_compressed(_group(_FP8 | {"strategy": "group", "group_size": 32}, 8, "Linear")), "by group"),
        (
            _compressed(_group(_FP8, 8, "Linear")) | {"transform_config": {"config_groups": {"R1": {}}}},
            "transform_config",
        ),
        (_compressed(_group(_FP8, 8, "Linear")) | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "format"),
        (_compressed(_group(_FP8, 8, "Linear") | {"output_activations": {"num_bits": 8}}), "output_activations"),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "quantized_layers"),
        ({"quant_method": "modelopt", "quant_algo": "MXFP8"}, "quant_algo"),
        ({"quant_method": "fp8", "activation_scheme": "token"}, "activation_scheme"),
        ({"quant_method": "awq", "w_bit": 2}, "w_bit"),
    ],
)
def test_what_is_not_understood_is_refused_by_its_key(config: dict[str, Any], said: str) -> None:
    """One message of a few lines: place, value, limit, hint."""
    with pytest.raises(UserError, match=said) as caught:
        _model(config)
    assert caught.value.hint
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "method",
    [
        "bitsandbytes", "torchao", "quark", "auto-round", "gguf", "hqq", "experts_int8", "aqlm", "quip", "eetq", "vptq",
        "bitnet", "fp_quant", "higgs", "w4afp8", "moe_wna16", "ptpc_fp8", "deepspeedfp", "qqq", "inc", "humming",
        "exl2", "", "FP9",
    ],
)  # fmt: skip
def test_methods_that_are_not_modelled_are_refused_by_name(method: str) -> None:
    """Nothing is taken for unquantised because its method is unknown."""
    with pytest.raises(UserError, match="quant_method"):
        _model({"quant_method": method, "bits": 4})


@pytest.mark.parametrize("architecture", ["t5", "whisper"])
def test_architectures_without_formats_refuse_them(architecture: str) -> None:
    """A quantised encoder-decoder is not silently 16 bits wide."""
    with pytest.raises(UserError, match="quantization_config"):
        from_hf_config({"model_type": architecture, "quantization_config": {"quant_method": "fp8"}}, name="x")


_CONFIGS: tuple[dict[str, Any], ...] = (
    {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic", "fmt": "e4m3"},
    {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"]},
    {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "kv_cache_quant_algo": None},
    {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
    _AWQ,
    _GPTQ | {"dynamic": {r"+:.*mlp.*": {"bits": 8}}},
    _compressed(_group(_FP8, 8, "re:.*self_attn.*"), _group(_INT4, None, "re:.*mlp.*")),
    {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": {"model.layers.0.mlp": {"quant_algo": "FP8"}},
    },
)


def _objects(value: Any, key: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every object of a config whose keys are a tool's (not names of modules or groups), with its own key."""
    found = [(key, value)] if key not in {"dynamic", "config_groups", "quantized_layers"} else []
    for name, item in value.items():
        if isinstance(item, dict):
            found += _objects(item, name)
    return found


@given(
    config=st.sampled_from(_CONFIGS),
    place=st.integers(0, 20),
    key=st.from_regex(r"[a-z_]{3,20}", fullmatch=True).map("x_{}".format),
    value=st.sampled_from([1, "fp8", True, [4], {"bits": 2}, 0.5]),
)
def test_no_unknown_key_is_passed_over(config: dict[str, Any], place: int, key: str, value: object) -> None:
    """Wherever in a quantisation an unknown key stands, the config is refused by its name; a null one says nothing."""
    changed = json.loads(json.dumps(config))
    objects = _objects(changed)
    _model(changed)  # understood as it is
    objects[place % len(objects)][1][key] = None
    _model(changed)
    objects[place % len(objects)][1][key] = value
    with pytest.raises(UserError, match=key):
        _model(changed)
