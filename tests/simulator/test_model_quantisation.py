"""Quantised checkpoints: the scheme, the exceptions, and the bytes they are stored in."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster_specs.errors import UserError
from simulator.model.cells.attention import SelfAttention
from simulator.model.cells.mlp import Mlp
from simulator.model.linear import Linear, WeightFormat
from simulator.model.load_model import from_hf_config, load_model
from simulator.plan.plan import Plan, parse_plan

BASE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}


def _group(bits: int, kind: str, inputs: int | None, **more: object) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": kind, **more}
    activations = {"num_bits": inputs, "type": kind} if inputs else None
    groups = {"group_0": {"weights": weights, "input_activations": activations}}
    return {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ["lm_head"]}


@pytest.mark.parametrize(
    ("config", "scheme"),
    [
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "fp8"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block"),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "w4a16"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 64}, "w4a16"),
        ({"quant_method": "gptq", "bits": 8}, "w8a16"),
        (_group(8, "int", 8), "w8a8"),
        (_group(8, "float", 8), "fp8"),
        (_group(8, "float", 8, strategy="block"), "fp8_block"),
        (_group(4, "int", None, group_size=128), "w4a16"),
        (_group(4, "float", 4, group_size=16), "nvfp4"),
        (None, None),
    ],
)
def test_scheme_of_a_checkpoint(config: dict[str, Any] | None, scheme: str | None) -> None:
    """Each way to write a quantised checkpoint is recognised, and its layers' matrices carry it."""
    model = from_hf_config(BASE | {"quantization_config": config}, name="q")
    assert model.quantisation == scheme
    (block,) = model.unique_blocks
    mlp = block.cells[1]
    assert isinstance(mlp, Mlp)
    assert mlp.feed_forward.weights.scheme == (scheme or "bf16")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"quant_method": "exl2"}, "key 'quant_method' is 'exl2', must be one of fp8"),
        ({"quant_method": "gptq", "bits": 3}, "key 'bits' is 3, must be 4 or 8"),
        ({"quant_method": "fp8", "weight_block_size": [64, 64]}, r"must be \[128, 128\] or absent"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8"}, "must be one of FP8.*NVFP4"),
        ({"quant_method": "fp8", "ignored_layers": ["re:("]}, "made of names and regular expressions"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "an object of groups"),
        (_group(3, "int", None), "int 3-bit weights with 16-bit inputs is not"),
    ],
)
def test_a_scheme_nobody_runs_is_refused(config: dict[str, Any], said: str) -> None:
    """A quantisation that is not modelled names the key, the value and what is."""
    with pytest.raises(UserError, match=said):
        from_hf_config(BASE | {"quantization_config": config}, name="q")


def test_modules_left_alone_make_blocks_of_their_own() -> None:
    """A checkpoint whose attention and outer MLPs are not quantised has three runs of two unique blocks."""
    ignored = [f"model.layers.{layer}.self_attn.{name}_proj" for layer in range(4) for name in "qkvo"]
    ignored += [f"model.layers.{layer}.mlp.{name}_proj" for layer in (0, 3) for name in ("gate", "up", "down")]
    quantised = {"quant_method": "fbgemm_fp8", "modules_to_not_convert": ignored}
    model = from_hf_config(BASE | {"quantization_config": quantised}, name="q")
    assert [count for _, count in model.blocks] == [1, 2, 1]
    assert len(model.unique_blocks) == 2
    for block in model.unique_blocks:
        attention = block.cells[0]
        assert isinstance(attention, SelfAttention)
        assert attention.weights.scheme == "bf16"


def test_norms_left_alone_leave_their_module_quantised() -> None:
    """FP8 checkpoints list every norm among what is not converted; the projections beside them are converted."""
    ignored = [f"model.layers.{layer}.self_attn.k_norm" for layer in range(4)] + ["model.layers.1.input_layernorm"]
    config = {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ignored}
    assert len(from_hf_config(BASE | {"quantization_config": config}, name="q").unique_blocks) == 1


@pytest.mark.parametrize(
    "pattern", ["*.self_attn*", "model.layers.*.self_attn.*", "language_model.model.layers.*.self_attn*"]
)
def test_globs_span_dots_and_the_prefix_of_a_multimodal_checkpoint(pattern: str) -> None:
    """ModelOpt writes globs in the manner of file names: one leaves attention alone in every layer, nothing else."""
    config = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": [pattern]}
    (block,) = from_hf_config(BASE | {"quantization_config": config}, name="q").unique_blocks
    attention, mlp = block.cells
    assert isinstance(attention, SelfAttention)
    assert attention.weights.scheme == "bf16"
    assert isinstance(mlp, Mlp)
    assert mlp.feed_forward.weights.scheme == "nvfp4"


def test_the_file_modelopt_writes_beside_the_config_is_read(tmp_path: Path) -> None:
    """Its checkpoints often say their format there alone."""
    (tmp_path / "config.json").write_text(json.dumps(BASE))
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
    assert from_hf_config(tmp_path).quantisation == "nvfp4"


def test_mxfp4_is_for_experts_alone() -> None:
    """gpt-oss stores experts in 4.25 bits per weight and the rest in 16: 12.8 GiB in all."""
    model = load_model("gpt-oss-20b")
    (total,) = model.stage_weight_bytes(Plan())
    assert total / 2**30 == pytest.approx(12.82, abs=0.02)


@pytest.mark.parametrize(
    ("scheme", "group", "stored"),
    [
        ("bf16", 128, 2 * 256 * 512),
        ("fp8", 128, 256 * 512 + 4 * 256),
        ("fp8_block", 128, 256 * 512 + 4 * 2 * 4),
        ("w4a16", 128, 256 * 512 // 2 + 2 * 256 * 4),
        ("w4a16", 64, 256 * 512 // 2 + 2 * 256 * 8),
        ("w4a16", -1, 256 * 512 // 2 + 2 * 256),
        ("w8a8", 128, 256 * 512 + 4 * 256),
        ("mxfp4", 32, 256 * 512 * 17 // 32),
        ("nvfp4", 16, 256 * 512 * 9 // 16),
    ],
)
def test_stored_bytes_count_the_scales(scheme: str, group: int, stored: int) -> None:
    """Scales are stored beside the elements: per channel, per block, or per group along k."""
    weights = WeightFormat(scheme=scheme, group_size=group)
    assert Linear(n=256, k=512, weights=weights, dtype="bf16").stored_bytes() == stored


def test_block_scales_must_not_straddle_ranks() -> None:
    """1,536-wide block-quantised experts cannot be cut into 8 shards of 192, but can stay whole on 8 ranks."""
    model = load_model("minimax-m2.5")
    assert "whole 128 x 128 fp8 blocks" in (model.refusal(parse_plan("tp8")) or "")
    assert model.refusal(parse_plan("tp4")) is None
    assert model.refusal(parse_plan("tp8-ep8")) is None
