"""Factors of a profile on the prices of families of kernels."""

import numpy as np
import pytest

from cluster_specs.load import load_cluster
from costmodel.ops.op_types import Attention, Collective, Gemm, Moe, Op, Scan
from costmodel.ops.small_ops import small_op
from costmodel.pricing.analytic_costs import AnalyticCosts
from simulator.engine_profiles.constant import Constant
from simulator.engine_profiles.engine_profile import EngineProfile, load_profile
from simulator.engine_profiles.price_factors import AS_FITTED, FAMILIES, PriceFactors
from simulator.model.linear import ProductAlone
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan
from simulator.serving import Serving
from simulator.simulate import simulate
from simulator.steps.op_curves import OpCurves
from simulator.workload.parse import parse_workload

_CLUSTER = load_cluster("h100-sxm-8")
_COSTS = AnalyticCosts(_CLUSTER)
_HEADS = {"num_heads": 8, "num_kv_heads": 1, "head_dim": 128, "v_head_dim": 128}
_OPS: dict[str, list[Op]] = {
    "gemm": [Gemm(m=64, n=4096, k=4096), ProductAlone(m=64, n=4096, k=4096, dtype="fp8")],
    "attention_prefill": [Attention(**_HEADS, num_prefill=1, prefill_q=512, prefill_kv=512)],
    "attention_decode": [Attention(**_HEADS, num_decode=8, decode_kv=512, decode_kv_max=512)],
    "experts": [Moe(num_tokens=64, hidden=2048, inter=768, num_experts=64, topk=4)],
    "scan": [
        Scan(variant="mamba2", num_heads=8, num_groups=1, head_dim=64, state_dim=64, chunk=64, num_decode=4),
    ],
    "collective": [Collective(kind="all_reduce", message_bytes=1 << 20, ranks=4)],
    "small_ops": [small_op("rmsnorm", rows=64, width=4096, dtype="bf16")],
}


def _with(**factors: float) -> EngineProfile:
    return load_profile("vllm-0.19").model_copy(update={"price_factors": PriceFactors(**factors, source="a test")})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_factor_scales_the_ops_of_its_family_alone(family: str) -> None:
    """Time and energy of a family's ops are multiplied, those of every other family stay what they were."""
    curves = OpCurves(_COSTS)
    slower = curves.with_factors(PriceFactors(**{family: 1.5}, source="a test"))
    for name, ops in _OPS.items():
        for op in ops:
            before, after = curves.price(op), slower.price(op)
            factor = 1.5 if name == family else 1.0
            assert np.allclose(after.latency_s, factor * before.latency_s)
            assert np.allclose(after.energy_j, factor * before.energy_j)
            assert np.allclose(after.high_s - after.latency_s, factor * (before.high_s - before.latency_s))


def test_factors_of_one_leave_the_very_curves() -> None:
    """A profile without factors prices through the curves it was given."""
    curves = OpCurves(_COSTS)
    assert curves.with_factors(AS_FITTED) is curves
    assert curves.with_factors(PriceFactors(gemm=1.5, source="a test")).with_factors(AS_FITTED).price(
        _OPS["gemm"][0]
    ) is (curves.price(_OPS["gemm"][0]))


def test_the_error_of_a_factor_joins_that_of_the_price() -> None:
    """Half widths add in quadrature: both are errors of the same op, independent of each other."""
    op, curves = _OPS["gemm"][0], OpCurves(_COSTS)
    before = curves.price(op)
    after = curves.with_factors(PriceFactors(gemm=Constant(1.0, 0.3), source="a test")).price(op)
    assert np.allclose(after.latency_s, before.latency_s)
    assert np.allclose(
        after.high_s - after.latency_s, np.hypot(before.high_s - before.latency_s, 0.3 * before.latency_s)
    )


def test_servers_that_share_curves_keep_their_own_factors() -> None:
    """Op curves handed from one server to another carry no factor with them."""
    model, workload, plan = load_model("llama-3.1-8b"), parse_workload("closed:isl=256,osl=32,concurrency=2"), "tp1"
    priced: dict[float | None, OpCurves] = {}

    def seconds(profile: EngineProfile) -> float:
        serving = Serving(model=model, cluster=_CLUSTER, profile=profile, costs=lambda _: _COSTS, priced=priced)
        started = serving.start(parse_plan(plan), workload)
        return float(started.compiled.stages[0].tokens.latency_s[0])  # type: ignore[union-attr]

    first = seconds(_with(gemm=1.5))
    assert seconds(_with()) < first
    assert seconds(_with(gemm=1.5)) == first


def test_every_time_doubles_with_every_factor() -> None:
    """Where kernels decide alone, factors of two on all families take twice the time per token."""
    times = ("step_s", "sequence_s", "serial_sequence_s", "frontend_s", "frontend_token_s", "launch_s")
    host = load_profile("vllm-0.19").host.model_copy(update=dict.fromkeys(times, 0.0))
    workload = parse_workload("closed:isl=256,osl=32,concurrency=4")

    def metrics(**factors: float) -> dict[str, float]:
        profile = _with(**factors).model_copy(update={"host": host})
        model = load_model("llama-3.1-8b")
        found = simulate(parse_plan("tp2"), workload, _CLUSTER, _COSTS, model=model, profile=profile).metrics
        return {name: found[name]["mean"] for name in ("ttft_s", "tpot_s")}

    once, twice = metrics(), metrics(**dict.fromkeys(FAMILIES, 2.0))
    for name in once:
        assert twice[name] == pytest.approx(2 * once[name], rel=1e-3)
