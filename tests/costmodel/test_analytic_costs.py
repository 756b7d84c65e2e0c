"""The analytic model: physics it must respect whatever its constants are."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_specs.cluster import ClusterSpec
from cluster_specs.load import bundled_clusters, load_cluster
from costmodel.cost_model import Source
from costmodel.ops.op_types import Attention, Collective, Elementwise, Gemm, Moe, Op
from costmodel.ops.roofline import roofline
from costmodel.pricing.analytic_costs import LOG_HALF_WIDTH, AnalyticCosts

TOKENS = np.array([1, 2, 7, 16, 100, 512, 4096, 32768])
HEADS = {"num_heads": 8, "num_kv_heads": 1, "head_dim": 128, "v_head_dim": 128}
GROWING: dict[str, Op] = {
    "gemm": Gemm(m=TOKENS, n=8192, k=4096),
    "gemm fp8": Gemm(m=TOKENS, n=8192, k=4096, dtype="fp8"),
    "prefill": Attention(**HEADS, num_prefill=1, prefill_q=TOKENS, prefill_kv=TOKENS),
    "chunk": Attention(**HEADS, num_prefill=1, prefill_q=TOKENS, prefill_kv=TOKENS + 4096),
    "decode": Attention(**HEADS, num_decode=TOKENS, decode_kv=1000, decode_kv_max=1000),
    "mixed": Attention(
        **HEADS, num_decode=TOKENS, decode_kv=1000, decode_kv_max=1000, num_prefill=1, prefill_q=512, prefill_kv=512
    ),
    "moe": Moe(num_tokens=TOKENS, hidden=4096, inter=1536, num_experts=128, topk=8, ep=8),
    "norm": Elementwise(op="rmsnorm", rows=TOKENS, width=8192, bytes_per_row=32768.0),
    "all_reduce": Collective(kind="all_reduce", message_bytes=TOKENS * 16384, ranks=16),
    "all_to_all": Collective(kind="all_to_all", message_bytes=TOKENS * 16384, ranks=16),
}


def test_every_op_has_a_price() -> None:
    """Each kind of op has a half-width of its analytic interval, without which it has no price."""
    assert sorted(kind.__name__ for kind in set(get_args(Op)) ^ set(LOG_HALF_WIDTH)) == []


@pytest.mark.parametrize("name", GROWING)
def test_time_never_falls_with_work(name: str, cluster: ClusterSpec) -> None:
    """More tokens, sequences or bytes never take less time."""
    assert np.all(np.diff(AnalyticCosts(cluster).predict(GROWING[name]).latency_s) >= 0)


@pytest.mark.parametrize("name", GROWING)
@pytest.mark.parametrize("clock_mhz", [None, 810.0, 1980.0])
def test_no_price_beats_the_roofline_and_every_price_is_labelled_analytic(
    name: str, clock_mhz: float | None, cluster: ClusterSpec
) -> None:
    """Latency and the low end of its interval stay above the floor; the interval holds the latency."""
    found = AnalyticCosts(cluster, clock_mhz).predict(GROWING[name])
    floor_s = roofline(GROWING[name], cluster, clock_mhz).floor_s
    assert np.all(found.latency_s >= floor_s)
    assert np.all(found.low_s <= found.latency_s)
    assert np.all(found.high_s > found.latency_s)
    assert set(found.source.tolist()) == {int(Source.ANALYTIC)}
    assert found.source.shape == found.latency_s.shape == TOKENS.shape


def test_compute_scales_with_the_clock_and_streams_do_not(cluster: ClusterSpec) -> None:
    """Halving the clock doubles a large GEMM and leaves decode and links alone."""
    fast, slow = AnalyticCosts(cluster, 1800.0), AnalyticCosts(cluster, 900.0)
    big = Gemm(m=32768, n=16384, k=16384)
    assert float(slow.predict(big).latency_s / fast.predict(big).latency_s) == pytest.approx(2.0, rel=0.02)
    for op in (GROWING["all_reduce"], GROWING["norm"]):
        assert np.array_equal(slow.predict(op).latency_s, fast.predict(op).latency_s)


@given(ranks=st.sampled_from([2, 4, 8, 16]), power=st.integers(0, 30))
def test_more_ranks_never_make_an_all_reduce_faster(ranks: int, power: int) -> None:
    """Adding ranks adds hops and bytes."""
    costs = AnalyticCosts(load_cluster("h100-sxm-4x8"))
    few = costs.predict(Collective(kind="all_reduce", message_bytes=2**power, ranks=ranks))
    many = costs.predict(Collective(kind="all_reduce", message_bytes=2**power, ranks=2 * ranks))
    assert float(many.latency_s) >= float(few.latency_s)


def test_mixed_calls_pay_one_launch(cluster: ClusterSpec) -> None:
    """A mixed call costs less than its two phases apart and more than either."""
    costs = AnalyticCosts(cluster)
    decode = costs.predict(Attention(**HEADS, num_decode=64, decode_kv=1000, decode_kv_max=1000)).latency_s
    prefill = costs.predict(Attention(**HEADS, num_prefill=1, prefill_q=512, prefill_kv=512)).latency_s
    mixed = costs.predict(
        Attention(
            **HEADS, num_decode=64, decode_kv=1000, decode_kv_max=1000, num_prefill=1, prefill_q=512, prefill_kv=512
        )
    ).latency_s
    assert max(decode, prefill) < mixed < decode + prefill


def test_calls_with_and_without_prompts_are_priced_together(cluster: ClusterSpec) -> None:
    """Of many calls in one op, those that only decode cost what each would cost by itself."""
    decode = Attention(**HEADS, num_decode=64, decode_kv=1000, decode_kv_max=1000)
    prompts, tokens = np.array([0, 1]), np.array([0, 512])
    both = replace(decode, num_prefill=prompts, prefill_q=tokens, prefill_kv=tokens)
    costs = AnalyticCosts(cluster)
    alone_s, with_prompt_s = costs.predict(both).latency_s
    assert alone_s == costs.predict(decode).latency_s
    assert with_prompt_s > alone_s


def test_a_group_of_one_costs_nothing(cluster: ClusterSpec) -> None:
    """A collective among one rank takes no time and no energy."""
    found = AnalyticCosts(cluster).predict(Collective(kind="all_reduce", message_bytes=np.array([1, 1 << 20]), ranks=1))
    assert found.latency_s.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", bundled_clusters())
def test_every_bundled_cluster_prices_every_op(name: str) -> None:
    """No bundled spec leaves a price zero, infinite or above its device's power limit."""
    bundled = load_cluster(name)
    costs = AnalyticCosts(bundled)
    for op in GROWING.values():
        fitting = replace(op, ranks=bundled.num_devices) if isinstance(op, Collective) else op
        found = costs.predict(fitting)
        assert np.all(np.isfinite(found.latency_s))
        assert np.all(found.latency_s > 0)
        power_w = found.energy_j / found.latency_s
        assert np.all(power_w <= bundled.device.tdp_w * (1 + 1e-9))
        assert np.all(power_w >= bundled.device.idle_w * (1 - 1e-9))


def test_rounding_the_activations_is_a_kernel_of_its_own() -> None:
    """At one row an FP8 product takes a floor longer than the roofline of its weights, a weight-only one does not."""
    costs = AnalyticCosts(load_cluster("h100-sxm-8"))
    floor_s = costs.cluster.device.analytic.kernel_floor_s.value
    rounded, stored = (costs.predict(Gemm(m=1, n=8192, k=8192, dtype=dtype)).latency_s for dtype in ("fp8", "w8a16"))
    assert float(rounded - stored) == pytest.approx(floor_s, rel=0.01)
    assert costs.includes_quantise("fp8")
    assert not costs.includes_quantise("w8a16")


def test_long_prompts_use_more_of_the_machine() -> None:
    """Time per (query, key) pair falls with the length of the prompt, and stays above the roofline."""
    lengths = np.array([1024, 4096, 16384])
    costs = AnalyticCosts(load_cluster("h100-sxm-8"))
    op = Attention(
        num_heads=32, num_kv_heads=8, head_dim=128, v_head_dim=128, num_prefill=1, prefill_q=lengths, prefill_kv=lengths
    )
    per_pair_s = costs.predict(op).latency_s / op.prefill_pairs()
    assert (np.diff(per_pair_s) < 0).all()
    assert (costs.predict(op).latency_s > roofline(op, costs.cluster).floor_s).all()
