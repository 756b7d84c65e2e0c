"""An engine that adds and normalises inside an all-reduce pays for the norm where the message is too long for it."""

import numpy as np
import pytest

from costmodel.ops.op_types import Elementwise
from simulator.model.cell import KernelChoices
from simulator.model.norm import NormWithinAllReduce
from simulator.plan.plan import Plan, parse_plan
from simulator.steps.op_curves import label
from tests.simulator.deployments import serving_of


@pytest.mark.parametrize(
    ("model", "cluster", "engine", "plan", "most"),
    [
        ("llama-3.1-70b", "h200-sxm-8", "tensorrt-llm-1.0", "tp4", 8_000_000),
        ("gpt-oss-120b", "h200-sxm-8", "tensorrt-llm-1.0", "tp2-ep2", 8_000_000),
        ("llama-3.1-70b", "h200-sxm-8", "tensorrt-llm-1.0", "tp1", 0),
        ("llama-3.1-8b", "h200-sxm-8", "tensorrt-llm-1.0", "tp4", 0),
        ("deepseek-v3", "h200-sxm-8", "tensorrt-llm-1.0", "attn.dp8-moe.ep8", 0),
        ("llama-3.1-70b", "h200-sxm-8", "sglang-0.5", "tp4", 0),
    ],
)
def test_the_profile_says_which_models_do(model: str, cluster: str, engine: str, plan: str, most: int) -> None:
    """Tensor-parallel ranks of the named architectures, from the named width on; nobody without an all-reduce."""
    assert serving_of(model, cluster, engine).kernels(parse_plan(plan)).norm_in_all_reduce_bytes == most


def test_only_norms_of_long_messages_take_time() -> None:
    """Up to the longest message the norm is free, above it costs what it costs alone; its name stays."""
    serving = serving_of("llama-3.1-70b", "h200-sxm-8", "tensorrt-llm-1.0")
    curves = serving.curves(None)
    rows = np.array([1, 488, 489, 4096])  # 8,000,000 bytes are 488 rows of 8,192 in bf16
    block = serving.model.unique_blocks[0]
    fused = block.token_ops(Plan(tp=4), rows, serving.kernels(Plan(tp=4)))
    norms = [op for op in fused if isinstance(op, NormWithinAllReduce)]
    assert [label(op) for op in norms] == ["add_rmsnorm", "add_rmsnorm"]
    alone = curves.price(norms[0].alone)
    assert type(norms[0].alone) is Elementwise
    assert curves.price(norms[0]).latency_s.tolist() == [0.0, 0.0, *alone.latency_s[2:]]
    assert curves.price(norms[0]).energy_j.tolist() == [0.0, 0.0, *alone.energy_j[2:]]


@pytest.mark.parametrize("model", ["llama-3.1-8b", "deepseek-v3"])
def test_one_kernel_rotates_and_writes(model: str) -> None:
    """Where rope writes the cache there is no kernel of its own for that."""
    block = serving_of(model).model.unique_blocks[0]
    apart = [label(op) for op in block.token_ops(Plan(), 8, KernelChoices())]
    together = [label(op) for op in block.token_ops(Plan(), 8, KernelChoices(rope_writes_kv=True))]
    assert apart.count("kv_write") == 1
    assert together == [name for name in apart if name != "kv_write"]
