"""Static against dynamic activation scales: which ops a step runs, and what a measured product is worth without one."""

from typing import Any

import numpy as np
import pytest

from cluster_specs.load import load_cluster
from costmodel.ops.op_types import Gemm
from costmodel.ops.roofline import roofline
from costmodel.pricing.analytic_costs import AnalyticCosts
from simulator.model.cell import KernelChoices
from simulator.model.linear import Linear, ProductAlone, WeightFormat
from simulator.model.load_model import from_hf_config
from simulator.model.spec import ModelSpec
from simulator.plan.plan import Plan
from simulator.steps.op_curves import OpCurves, label

_BASE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "hidden_act": "silu",
}
_CLUSTER = load_cluster("h100-sxm-1")


def _compressed(**inputs: object) -> dict[str, Any]:
    weights = {"num_bits": 8, "type": "float", "strategy": "tensor"}
    group = {"weights": weights, "input_activations": {"num_bits": 8, "type": "float", **inputs}, "targets": ["Linear"]}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


def _model(quantisation: dict[str, Any]) -> ModelSpec:
    return from_hf_config(_BASE | {"quantization_config": quantisation}, name="q")


@pytest.mark.parametrize(
    ("config", "is_static"),
    [
        ({"quant_method": "fp8", "activation_scheme": "static"}, True),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, False),
        ({"quant_method": "fp8"}, False),
        ({"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}, False),
        ({"quant_method": "fbgemm_fp8"}, False),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, True),
        ({"quant_method": "modelopt", "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}, False),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, False),
        (_compressed(dynamic=False, strategy="tensor"), True),
        (_compressed(dynamic=True, strategy="token"), False),
    ],
)
def test_the_checkpoint_says_whether_scales_are_known(config: dict[str, Any], is_static: bool) -> None:
    """And with them which ops run: what is rounded by known scales is written rounded by the kernel before."""
    kernels = KernelChoices(activation_quantisation="fused", in_gemm_schemes=frozenset({"fp8", "fp8_block", "nvfp4"}))
    names = [label(op) for op in _model(config).unique_blocks[0].token_ops(Plan(), 64, kernels)]
    assert names.count("gemm") == 4
    assert names.count("add_rmsnorm_quantise") == (2 if is_static else 0)
    assert names.count("silu_mul_quantise") == int(is_static)
    assert names.count("quantise") == int(is_static)  # of the attention's result: no kernel before it can


class _Costs(AnalyticCosts):
    """Times of products that include the rounding of their inputs, or do not."""

    includes = True

    def includes_quantise(self, dtype: str) -> bool:
        return self.includes and dtype == "fp8"


_TOKENS = np.array([1, 16, 256, 4096])


def _linear(scheme: str = "fp8") -> Linear:
    return Linear(n=4096, k=4096, weights=WeightFormat(scheme=scheme, has_static_inputs=True), dtype="bf16")


def test_a_measured_product_is_worth_less_without_its_rounding() -> None:
    """By the rounding's own time, down to what the device allows, interval and energy in proportion."""
    curves = OpCurves(_Costs(_CLUSTER))
    alone = _linear().gemm(_TOKENS)
    assert isinstance(alone, ProductAlone)
    whole, less, rounding = curves.price(alone.whole), curves.price(alone), curves.price(alone.rounding)
    bound = roofline(alone.whole, _CLUSTER).floor_s
    assert less.latency_s == pytest.approx(np.maximum(whole.latency_s - rounding.latency_s, bound))
    assert (less.latency_s < whole.latency_s).all()
    for name in ("low_s", "high_s", "energy_j"):
        ratio = getattr(less, name) / getattr(whole, name)
        assert ratio == pytest.approx(less.latency_s / whole.latency_s)
    assert (less.flop == whole.flop).all()


def test_a_product_measured_alone_keeps_its_time() -> None:
    """Nothing is taken off what is not in it."""
    costs = _Costs(_CLUSTER)
    costs.includes = False
    curves = OpCurves(costs)
    alone = _linear().gemm(_TOKENS)
    assert isinstance(alone, ProductAlone)
    assert (curves.price(alone).latency_s == curves.price(alone.whole).latency_s).all()


def test_formats_without_rounded_inputs_have_no_scales() -> None:
    """Weight-only products are what they are."""
    assert type(_linear("w4a16").gemm(8)) is Gemm
    assert _linear("w4a16").quantise(8) == []
