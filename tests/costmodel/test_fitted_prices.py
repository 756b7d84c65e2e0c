"""Prices from a model fitted to an imagined machine whose true times are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from cluster_specs.load import load_cluster
from costmodel.cost_model import Source
from costmodel.families.all import OP_FAMILIES
from costmodel.families.rows import iter_row_ops
from costmodel.fit_file.contents import Artefact
from costmodel.fitted_costs import FittedCosts, load_costs
from costmodel.fitting.fit_device import fit_device
from costmodel.ops.op_types import Attention, Collective, Elementwise, Gemm, Moe, Op
from costmodel.ops.roofline import roofline
from costmodel.pricing.analytic_costs import AnalyticCosts
from profiles_db.store import Store, open_store

from .conftest import DEVICE, M, collective_rows, common, true_gemm_s

FAMILIES = ("gemm", "attention", "moe", "elementwise", "collective")
HEADS = {"num_heads": 8, "num_kv_heads": 1, "head_dim": 128, "v_head_dim": 128}
EXPERTS = {"hidden": 2048, "inter": 768, "num_experts": 128, "topk": 8}


@pytest.fixture
def costs(artefact: Artefact, cluster: ClusterSpec) -> FittedCosts:
    """Fitted prices with nothing asked yet."""
    return FittedCosts(artefact, cluster)


@pytest.mark.parametrize("family", FAMILIES)
def test_measured_points_come_back_verbatim(
    family: str, costs: FittedCosts, store: Store, cluster: ClusterSpec
) -> None:
    """Every point that was fitted is returned to the last bit and labelled measured."""
    table = store.read(family, device=DEVICE)
    columns = {name: np.asarray(table[name].to_pylist()) for name in table.column_names}
    checked = 0
    for op, rows in iter_row_ops(OP_FAMILIES[family], columns, cluster):
        found = costs.predict(op)
        measured = found.source == Source.MEASURED
        truth = columns["latency_s"][rows].astype(np.float64)
        # Where two paths were measured, the one an engine does not take is another time of the same point.
        on_path = np.isin(found.latency_s, columns["latency_s"].astype(np.float64))
        assert np.all(measured & on_path)
        if family != "collective":
            assert np.array_equal(found.latency_s, truth)
        checked += len(rows)
    assert checked == table.num_rows


def test_between_points_the_truth_is_met_within_the_interval(costs: FittedCosts, cluster: ClusterSpec) -> None:
    """Sizes between measured ones are within 3 % of the imagined machine and labelled fitted."""
    m = np.array([3, 12, 24, 48, 100, 200, 320, 700, 900])
    found = costs.predict(Gemm(m=m, n=2048, k=4096))
    truth = np.array([true_gemm_s(cluster, size, 2048, 4096) for size in m.tolist()])
    assert np.all(np.abs(np.log(found.latency_s / truth)) < 0.03)
    fitted = ~np.isin(m, M)
    assert np.all(found.source[fitted] == Source.FITTED)
    assert np.all((found.low_s < found.latency_s) & (found.latency_s < found.high_s))


def test_ragged_sizes_have_their_own_branch(costs: FittedCosts) -> None:
    """A size that fills its tiles and the next one differ by the measured tenth, between knots too."""
    aligned, ragged = costs.predict(Gemm(m=np.array([320, 321]), n=2048, k=4096)).latency_s
    assert ragged / aligned == pytest.approx(1.1, rel=0.02)


def test_an_unseen_shape_borrows_and_says_so(costs: FittedCosts, cluster: ClusterSpec) -> None:
    """An (n, k) between measured ones is within 5 % of the truth and labelled borrowed, with a wider interval."""
    found = costs.predict(Gemm(m=np.array([16, 64, 512]), n=3072, k=2048))
    truth = np.array([true_gemm_s(cluster, size, 3072, 2048) for size in (16, 64, 512)])
    assert np.all(np.abs(np.log(found.latency_s / truth)) < 0.05)
    assert np.all(found.source == Source.BORROWED)


@pytest.mark.parametrize(
    "op",
    [
        Gemm(m=np.arange(1, 4000, 7), n=2048, k=4096),
        Gemm(m=np.arange(1, 4000, 7), n=3000, k=3000),
        Attention(**HEADS, num_prefill=1, prefill_q=np.arange(1, 9000, 11), prefill_kv=np.arange(1, 9000, 11)),
        Attention(**HEADS, num_decode=np.arange(1, 600), decode_kv=3000, decode_kv_max=3000),
        Moe(num_tokens=np.arange(1, 9000, 11), **EXPERTS),
        Elementwise(op="rmsnorm", rows=np.arange(1, 60000, 97), width=8192, bytes_per_row=4.0 * 8192),
        Collective(kind="all_reduce", message_bytes=np.arange(256, 1 << 30, 9_999_999), ranks=8),
    ],
    ids=lambda op: type(op).__name__,
)
def test_no_estimate_beats_the_roofline(op: Op, costs: FittedCosts, cluster: ClusterSpec) -> None:
    """Interpolated, borrowed and extrapolated prices stay above what the stated peaks allow."""
    found = costs.predict(op)
    assert np.all(found.latency_s >= roofline(op, cluster).floor_s * (1 - 1e-9))


@pytest.mark.parametrize(
    "op",
    [
        Gemm(m=8 * np.arange(1, 500), n=2048, k=4096),
        Attention(**HEADS, num_prefill=2, prefill_q=np.arange(1, 20000, 11), prefill_kv=np.arange(1, 20000, 11)),
        Attention(**HEADS, num_prefill=1, prefill_q=512, prefill_kv=np.arange(512, 20000, 11)),
        Attention(**HEADS, num_decode=16, decode_kv=np.arange(1, 40000, 11), decode_kv_max=0),
        Attention(**HEADS, num_decode=16, decode_kv=1000, decode_kv_max=np.arange(1000, 40000, 11)),
        Moe(num_tokens=np.arange(1, 9000, 11), **EXPERTS),
        Collective(kind="all_reduce", message_bytes=np.arange(256, 1 << 30, 9_999_999), ranks=16),
    ],
    ids=["gemm", "prefill", "prefix", "decode", "skew", "moe", "two levels"],
)
def test_time_never_falls_with_work_on_a_machine_where_it_does_not(op: Op, costs: FittedCosts) -> None:
    """Where measurements grow with work, so do prices between and beyond them (to rounding)."""
    latency_s = costs.predict(op).latency_s
    assert np.all(np.diff(latency_s) >= -1e-9 * latency_s[1:])


def test_unequal_decode_lengths_cost_no_less_than_the_longest_alone(costs: FittedCosts) -> None:
    """One long sequence among short ones is never cheaper than by itself."""
    alone = costs.predict(Attention(**HEADS, num_decode=1, decode_kv=16384, decode_kv_max=16384)).latency_s
    among = costs.predict(Attention(**HEADS, num_decode=4, decode_kv=4100, decode_kv_max=16384)).latency_s
    assert among >= alone


def test_calls_without_sequences_cost_nothing(costs: FittedCosts) -> None:
    """A column of zero sequences in an array has zero price, the others their own."""
    found = costs.predict(Attention(**HEADS, num_decode=np.array([0, 4]), decode_kv=256, decode_kv_max=256))
    assert found.latency_s[0] == 0.0
    assert found.latency_s[1] > 0


def test_arrays_of_heads_and_widths_agree_with_one_at_a_time(costs: FittedCosts) -> None:
    """Prices do not depend on how ops are grouped into arrays."""
    together = costs.predict(Gemm(m=np.array([5, 500]), n=np.array([2048, 4096]), k=1024)).latency_s
    apart = [costs.predict(Gemm(m=m, n=n, k=1024)).latency_s for m, n in ((5, 2048), (500, 4096))]
    assert together.tolist() == [float(latency) for latency in apart]
    heads = np.array([8, 32])
    both = Attention(
        num_heads=heads,
        num_kv_heads=heads // 8,
        head_dim=128,
        v_head_dim=128,
        num_decode=4,
        decode_kv=99,
        decode_kv_max=99,
    )
    one = replace(both, num_heads=8, num_kv_heads=1)
    assert costs.predict(both).latency_s[0] == costs.predict(one).latency_s


def test_out_of_domain_sizes_follow_the_named_policy_and_are_counted(artefact: Artefact, cluster: ClusterSpec) -> None:
    """Roofline holds utilisation, clip holds time, raise refuses; all count."""
    op = Gemm(m=np.array([1024, 8192]), n=2048, k=4096)
    held = FittedCosts(artefact, cluster)
    inside, outside = held.predict(op).latency_s
    assert inside == true_gemm_s(cluster, 1024, 2048, 4096)
    assert outside == pytest.approx(true_gemm_s(cluster, 8192, 2048, 4096), rel=0.15)
    assert held.queries.extrapolated == {"gemm": 1}
    assert "1 gemm outside the measured range" in held.queries.summary()
    clipped = FittedCosts(artefact, cluster, out_of_domain="clip").predict(op)
    assert clipped.latency_s[1] == pytest.approx(clipped.latency_s[0])
    assert clipped.source[1] == Source.EXTRAPOLATED
    with pytest.raises(UserError, match="outside the measured range"):
        FittedCosts(artefact, cluster, out_of_domain="raise").predict(op)
    with pytest.raises(UserError, match="must be one of"):
        FittedCosts(artefact, cluster, out_of_domain="guess")


def test_intervals_widen_with_the_distance_from_the_domain(costs: FittedCosts) -> None:
    """Four octaves out is less certain than one."""
    found = costs.predict(Gemm(m=np.array([2048, 16384]), n=2048, k=4096))
    near, far = np.log(found.high_s / found.latency_s)
    assert far > near


def test_what_was_not_measured_is_priced_by_the_analytic_model_and_counted(
    costs: FittedCosts, cluster: ClusterSpec
) -> None:
    """A number format, an attention variant and an op without rows get exactly the analytic price, by name."""
    analytic = AnalyticCosts(cluster)
    for op in (
        Gemm(m=7, n=64, k=64, dtype="w4a16"),
        Attention(num_heads=16, num_kv_heads=1, head_dim=576, v_head_dim=512, variant="mla", num_decode=3, decode_kv=9),
        Elementwise(op="rope", rows=9, width=128, bytes_per_row=512.0),
        Collective(kind="send_recv", message_bytes=4096, ranks=2, group_stride=8),
    ):
        found = costs.predict(op)
        assert found.latency_s == analytic.predict(op).latency_s
        assert found.source == Source.ANALYTIC
    assert costs.queries.analytic == {"gemm": 1, "attention": 1, "elementwise": 1, "collective": 1}


def test_all_reduce_takes_the_engines_own_kernel_when_small_and_nccl_when_large(
    costs: FittedCosts, cluster: ClusterSpec
) -> None:
    """Up to 8 MiB the custom all-reduce's time, above it NCCL's."""
    truth = AnalyticCosts(cluster).predict(
        Collective(kind="all_reduce", message_bytes=np.array([2**20, 2**26]), ranks=8)
    )
    found = costs.predict(Collective(kind="all_reduce", message_bytes=np.array([2**20, 2**26]), ranks=8))
    assert found.latency_s / truth.latency_s == pytest.approx([0.9, 1.5])


def test_groups_over_two_levels_are_composed_from_measured_and_analytic_phases(
    costs: FittedCosts, cluster: ClusterSpec
) -> None:
    """Sixteen ranks cost reduce-scatter and all-gather inside a node plus an all-reduce of an eighth across."""
    message = 2**24
    inside = [
        float(costs.predict(Collective(kind=kind, message_bytes=message, ranks=8)).latency_s)
        for kind in ("reduce_scatter", "all_gather")
    ]
    across = AnalyticCosts(cluster).predict(
        Collective(kind="all_reduce", message_bytes=message // 8, ranks=2, group_stride=8)
    )
    whole = costs.predict(Collective(kind="all_reduce", message_bytes=message, ranks=16))
    assert float(whole.latency_s) == pytest.approx(sum(inside) + float(across.latency_s))
    assert whole.source == Source.ANALYTIC


def test_compute_time_follows_the_clock_and_memory_time_does_not(artefact: Artefact, cluster: ClusterSpec) -> None:
    """At half the clock a large GEMM takes nearly twice as long, a weight-bound one the same."""
    full = FittedCosts(artefact, cluster)
    half = FittedCosts(artefact, cluster, artefact.provenance.unlocked_mhz / 2)
    op = Gemm(m=np.array([1, 1024]), n=4096, k=4096)
    weight_bound, compute_bound = half.predict(op).latency_s / full.predict(op).latency_s
    assert weight_bound < 1.1
    assert 1.5 < compute_bound <= 2.0


def test_energy_stays_between_idle_and_tdp(costs: FittedCosts, cluster: ClusterSpec) -> None:
    """Average power of any price lies between the device's idle power and its limit."""
    found = costs.predict(Gemm(m=np.arange(1, 3000, 13), n=4096, k=4096))
    power_w = found.energy_j / found.latency_s
    assert np.all(power_w > cluster.device.idle_w)
    assert np.all(power_w <= cluster.device.tdp_w * (1 + 1e-9))


def test_a_model_of_another_device_is_refused(artefact: Artefact) -> None:
    """The message names both devices."""
    with pytest.raises(UserError, match=r"h100-sxm.*a100-sxm-80gb"):
        FittedCosts(artefact, load_cluster("a100-sxm-80gb-8"))


def test_no_file_means_the_analytic_model(cluster: ClusterSpec) -> None:
    """Without a fitted model prices are analytic, at the clock asked for."""
    costs = load_costs(None, cluster, 1410.0)
    assert isinstance(costs, AnalyticCosts)
    assert costs.clock_mhz == 1410.0


@given(
    tokens=st.lists(st.integers(0, 200_000), min_size=1, max_size=5),
    heads=st.tuples(st.integers(1, 16), st.integers(1, 12)),
    lengths=st.tuples(st.integers(0, 5000), st.integers(0, 100_000)),
    window=st.sampled_from([0, 128, 4096]),
    clock_mhz=st.sampled_from([None, 700.0, 1980.0]),
)
def test_any_call_has_a_finite_price_inside_its_interval(
    artefact: Artefact,
    cluster: ClusterSpec,
    *,
    tokens: list[int],
    heads: tuple[int, int],
    lengths: tuple[int, int],
    window: int,
    clock_mhz: float | None,
) -> None:
    """Whatever the sizes: finite, never negative, low <= latency <= high, one label per point."""
    costs = FittedCosts(artefact, cluster, clock_mhz)
    size = np.array(tokens)
    q, prefix = lengths
    attention = Attention(
        num_heads=heads[0] * heads[1],
        num_kv_heads=heads[0],
        head_dim=128,
        v_head_dim=128,
        window=window,
        num_prefill=size % 4,
        prefill_q=q,
        prefill_kv=q + prefix,
        num_decode=size,
        decode_q=1 + size % 3,
        decode_kv=prefix + 3,
        decode_kv_max=2 * prefix + 3,
    )
    for op in (
        attention,
        Gemm(m=size, n=64 * heads[0], k=64 * heads[1]),
        Moe(num_tokens=size, hidden=1024, inter=512, num_experts=16 * heads[0], topk=heads[1], ep=1),
        Collective(kind="all_reduce", message_bytes=size * 4096, ranks=1 + heads[0] % 16),
    ):
        found = costs.predict(op)
        assert np.all(np.isfinite(found.latency_s) & np.isfinite(found.energy_j))
        assert np.all(found.latency_s >= 0)
        assert np.all(found.low_s <= found.latency_s * (1 + 1e-12))
        assert np.all(found.high_s >= found.latency_s * (1 - 1e-12))
        assert found.source.shape == found.latency_s.shape == size.shape


def test_one_rank_in_each_node_is_priced_as_it_was_measured(tmp_path: Path, cluster: ClusterSpec) -> None:
    """A pair eight devices apart meets on the network: rows of two ranks on two nodes are its price, not NVLink's."""
    store = open_store(tmp_path / "db", bundled=None)
    sizes = [2**power for power in range(10, 29, 2)]
    shape = {"kind": "all_reduce", "ranks": 2, "nodes": 2, "level": "network"}
    rows = [common(3e-5 + size / 2e10, backend="nccl") | shape | {"message_bytes": size} for size in sizes]
    store.append("collective", rows, "run-1")
    costs = FittedCosts(fit_device(store, DEVICE, cluster), cluster)
    found = costs.predict(
        Collective(kind="all_reduce", message_bytes=np.array(sizes), ranks=2, group_stride=cluster.devices_per_node)
    )
    assert found.latency_s.tolist() == [row["latency_s"] for row in rows]
    assert (found.source == Source.MEASURED).all()


def test_what_is_left_to_the_analytic_model_keeps_its_distance(tmp_path: Path, cluster: ClusterSpec) -> None:
    """Four ranks in steps of four: two meet inside each node, and the phase across nodes pays the network."""
    store = open_store(tmp_path / "db", bundled=None)
    store.append("collective", collective_rows(cluster), "run-1")
    costs = FittedCosts(fit_device(store, DEVICE, cluster), cluster)
    message = 2.0**26
    whole = costs.predict(Collective(kind="all_reduce", message_bytes=message, ranks=4, group_stride=4))
    across = AnalyticCosts(cluster).predict(
        Collective(kind="all_reduce", message_bytes=message / 2, ranks=2, group_stride=8)
    )
    inside = [
        costs.predict(Collective(kind=kind, message_bytes=message, ranks=2, group_stride=4)).latency_s
        for kind in ("reduce_scatter", "all_gather")
    ]
    assert float(whole.latency_s) == pytest.approx(sum(inside) + float(across.latency_s))
