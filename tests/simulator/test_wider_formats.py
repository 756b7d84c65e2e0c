"""No format is dearer than the one it replaces, and formats of weights alone are left as they were measured."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster_specs.load import load_cluster
from costmodel.cost_model import Prediction, Source
from costmodel.ops.op_types import Attention, Gemm, Moe
from costmodel.ops.small_ops import small_op
from costmodel.pricing.analytic_costs import AnalyticCosts
from simulator.engine_profiles.bundled_profiles import bundled_profiles
from simulator.engine_profiles.engine_profile import load_profile
from simulator.launch import launch_lines
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan
from simulator.steps.op_curves import OpCurves
from simulator.steps.wider_formats import wider
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of, start_of

TOKENS = np.array([1, 64, 4096])


class _Slow(AnalyticCosts):
    """Prices of one format are ten times as high, and count as measured."""

    slow: tuple[str, str] = ("", "")

    def predict(self, op: Any) -> Prediction:
        found = super().predict(op)
        factor = 10.0 if getattr(op, self.slow[0], "") == self.slow[1] else 1.0
        return Prediction(
            latency_s=found.latency_s * factor,
            low_s=found.low_s * factor,
            high_s=found.high_s * factor,
            energy_j=found.energy_j * factor,
            source=np.full_like(found.source, Source.MEASURED),
        )


def _curves(cluster: str, field: str, dtype: str) -> OpCurves:
    costs = _Slow(load_cluster(cluster))
    costs.slow = (field, dtype)
    return OpCurves(costs)


def _decode(kv_dtype: str) -> Attention:
    return Attention(
        num_heads=16, num_kv_heads=1, head_dim=576, v_head_dim=512, variant="mla", kv_dtype=kv_dtype,
        num_decode=TOKENS, decode_kv=1000 * TOKENS, decode_kv_max=1000,
    )  # fmt: skip


def test_a_slow_kernel_over_a_narrow_cache_gives_way_to_the_wide_one() -> None:
    """FP8 KV measured at ten times its time costs what 16-bit KV costs, and the answer says so."""
    curves = _curves("h200-sxm-8", "kv_dtype", "fp8")
    narrow, wide = (curves.price(_decode(name)).latency_s for name in ("fp8", "bf16"))
    assert narrow.tolist() == wide.tolist()
    assert [note.split(":")[0] for note in curves.notes()] == ["attention with fp8 KV"]


def test_a_slow_product_costs_no_more_than_the_wider_one_and_its_rounding() -> None:
    """FP8 is bounded by 16 bits and the rounding its price includes; NVFP4 by FP8, which rounds as well."""
    curves = _curves("b200-8", "dtype", "fp8")
    fp8, bf16 = (curves.price(Gemm(m=TOKENS, n=8192, k=8192, dtype=name)) for name in ("fp8", "bf16"))
    rounding = curves.price(small_op("quantise", rows=TOKENS, width=8192, dtype="bf16", out="fp8", scales=1))
    assert fp8.latency_s.tolist() == (bf16.latency_s + rounding.latency_s).tolist()
    curves = _curves("b200-8", "dtype", "nvfp4")
    nvfp4, fp8 = (curves.price(Gemm(m=TOKENS, n=8192, k=8192, dtype=name)) for name in ("nvfp4", "fp8"))
    assert nvfp4.latency_s.tolist() == fp8.latency_s.tolist()


def test_narrow_experts_pay_for_rounding_both_their_inputs() -> None:
    """FP8 experts are bounded by 16-bit ones and two roundings, not by 16-bit ones alone."""
    curves = _curves("h200-sxm-8", "dtype", "fp8_block")
    op = Moe(num_tokens=TOKENS, hidden=4096, inter=2048, num_experts=64, topk=4, dtype="fp8_block")
    narrow, wide = (curves.price(replace(op, dtype=name)).latency_s for name in ("fp8_block", "bf16"))
    assert (narrow > wide).all()
    assert (narrow < 3 * wide).all()


def test_experts_of_plain_fp8_are_bounded_by_block_scaled_ones() -> None:
    """They read the same bytes and do no more arithmetic; where they were measured faster they stay."""
    op = Moe(num_tokens=TOKENS, hidden=2880, inter=2880, num_experts=128, topk=4, dtype="fp8")
    curves = _curves("h100-sxm-8", "dtype", "fp8")
    plain, blocks = (curves.price(replace(op, dtype=name)).latency_s for name in ("fp8", "fp8_block"))
    assert plain.tolist() == blocks.tolist()
    curves = _curves("h100-sxm-8", "dtype", "fp8_block")
    plain, blocks = (curves.price(replace(op, dtype=name)).latency_s for name in ("fp8", "fp8_block"))
    assert (plain < blocks).all()


def test_formats_of_weights_alone_and_formats_without_arithmetic_have_no_bound() -> None:
    """Weights that are widened on the way do lose to 16 bits; an A100 multiplies no FP8."""
    hopper, ampere = load_cluster("h100-sxm-8").device, load_cluster("a100-sxm-80gb-8").device
    for dtype in ("w4a16", "w8a16", "w4a8", "mxfp4", "bf16"):
        assert wider(Gemm(m=8, n=128, k=128, dtype=dtype), hopper) is None
    assert wider(Gemm(m=8, n=128, k=128, dtype="fp8"), hopper) is not None
    assert wider(Gemm(m=8, n=128, k=128, dtype="fp8"), ampere) is None


def test_mxfp4_experts_round_their_inputs_where_the_engine_says_so() -> None:
    """Those of recipes and of engines that do by default do so on datacenter Blackwell, and none on Hopper."""
    devices = {name: load_cluster(f"{name}-8").device for name in ("b200", "h100-sxm")}
    for name in bundled_profiles():
        kernels = load_profile(name).mxfp4_experts
        assert kernels.rounds_inputs_on(devices["b200"]) == (name not in {"orca", "vllm-0.6", "vllm-0.33"})
        assert not kernels.rounds_inputs_on(devices["h100-sxm"])
        assert kernels.mxfp8_inputs or not kernels.mxfp8_switch


def test_a_file_states_that_a_vllm_server_rounds_none_and_the_command_follows(tmp_path: Path) -> None:
    """A server without the variable that asks for MXFP8 inputs is a profile that extends its version's."""
    own = tmp_path / "own.toml"
    own.write_text(
        'schema = 1\nname = "own"\nextends = "vllm-0.18"\nsource = "our servers"\n'
        "[mxfp4_experts]\nmxfp8_inputs = { blackwell = false }\n"
    )
    for engine, is_printed in ((str(own), False), ("vllm-0.18", True)):
        serving = serving_of("gpt-oss-20b", "b200-8", engine)
        lines = launch_lines(serving, start_of(serving, "dp8", parse_workload("chat-synthetic", limit=20)))
        assert any("VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8=1" in line for line in lines) == is_printed


def test_experts_that_round_their_inputs_are_priced_as_such() -> None:
    """The op names the format; where nothing of it was measured, it costs what 16-bit inputs cost."""
    op = Moe(num_tokens=TOKENS, hidden=2880, inter=2880, num_experts=128, topk=4, dtype="mxfp4_mxfp8")
    guessed = OpCurves(AnalyticCosts(load_cluster("b200-8")))
    assert guessed.price(op).latency_s.tolist() == guessed.price(replace(op, dtype="mxfp4")).latency_s.tolist()
    measured = _curves("b200-8", "dtype", "mxfp4")
    assert (measured.price(op).latency_s < measured.price(replace(op, dtype="mxfp4")).latency_s).all()
    plan = parse_plan("tp1")
    ops = [cell for block in load_model("gpt-oss-120b").unique_blocks for cell in block.token_ops(plan, 8)]
    assert {item.dtype for item in ops if isinstance(item, Moe)} == {"mxfp4"}
