"""Qwen3.5 pays for every product its engine runs: those of the delta rule's input, and the shared expert's gate."""

import pytest

from costmodel.ops.op_types import Gemm
from simulator.model.cells.gated_delta import GatedDelta
from simulator.model.cells.moe import MixtureOfExperts
from simulator.plan.plan import Plan, parse_plan
from simulator.steps.op_curves import label
from tests.simulator.deployments import serving_of


@pytest.mark.parametrize(
    ("engine", "widths"),
    [
        # Of 16 key heads and 64 value heads, 128 wide: queries, keys and values; gates; steps; decays; output.
        ("sglang-0.5", [12288 // 8, 8192 // 8, 64 // 8, 64 // 8, 4096]),
        ("vllm-0.33", [(12288 + 8192) // 8, 128 // 8, 4096]),
    ],
)
def test_engines_take_the_inputs_of_the_delta_rule_apart_or_together(engine: str, widths: list[int]) -> None:
    """The products differ in number, not in the weights they read."""
    serving = serving_of("qwen3.5-397b-a17b", "b200-8", engine)
    plan = parse_plan("tp8")
    cell = next(c for block in serving.model.unique_blocks for c in block.cells if isinstance(c, GatedDelta))
    products = [op for op in cell.token_ops(plan, 8, serving.kernels(plan)) if isinstance(op, Gemm)]
    assert [op.n for op in products] == widths


def test_the_gate_of_a_shared_expert_is_a_product_and_scales_its_result() -> None:
    """A mixture whose shared expert is gated multiplies every token by one more row and scales; others do not."""
    names = {}
    for model in ("qwen3.5-397b-a17b", "deepseek-v3"):
        blocks = serving_of(model, "b200-8").model.unique_blocks
        cell = next(c for block in blocks for c in block.cells if isinstance(c, MixtureOfExperts))
        ops = cell.shared_ops(Plan(tp=8), 8)
        names[model] = ([label(op) for op in ops].count("sigmoid_mul"), [op.n for op in ops if isinstance(op, Gemm)])
    assert names["qwen3.5-397b-a17b"][0] == 1
    assert names["qwen3.5-397b-a17b"][1][-1] == 1
    assert names["deepseek-v3"][0] == 0
    assert 1 not in names["deepseek-v3"][1]
