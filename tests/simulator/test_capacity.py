"""The most traffic a plan takes within limits."""

from dataclasses import replace

import numpy as np
import pytest

from cluster_specs.errors import UserError
from simulator.feasible.plan_space import Axes
from simulator.plan.plan import parse_plan
from simulator.results.objective import SUSTAINABLE_RATE, Metrics, parse_objective, parse_slo
from simulator.search.capacity import check_capacity, find_capacity
from simulator.search.search import search
from simulator.search.search_result import SearchResult
from simulator.serving import Refusal
from simulator.simulate import replay
from simulator.workload.parse import parse_workload
from simulator.workload.workload import Workload
from tests.simulator.deployments import serving_of

_TRACE = "synthetic:isl=512,osl=32,rate=2,n=600,seed=1"  # short answers: steady for most of its span
_AIM = parse_objective(SUSTAINABLE_RATE)


def _search(cluster: str, limits: list[str], axes: Axes | None = None) -> SearchResult:
    workload = parse_workload(_TRACE)
    return search(serving_of(cluster=cluster), workload, _AIM, slo=parse_slo(limits), axes=axes)


def test_limits_hold_up_to_the_rate_and_break_beyond() -> None:
    """Replayed by hand on the grid, the rate found is that of the densest arrivals that keep the limit."""
    serving, slo = serving_of(cluster="h100-sxm-1"), parse_slo(["ttft_s.p99<=0.5"])
    workload = parse_workload(_TRACE)
    start = serving.start(parse_plan("tp1"), workload)
    assert not isinstance(start, Refusal)

    def measure(scaled: Workload) -> Metrics:
        return replay(serving, start, scaled).metrics

    found = find_capacity(measure, workload, slo).requests_per_s
    rate_per_s = (len(workload) - 1) / float(workload.arrival_s[-1] - workload.arrival_s[0])
    assert found > 4 * rate_per_s
    for nudge, is_kept in ((0.9, True), (1.1, False)):
        longer = parse_workload(f"synthetic:isl=512,osl=32,rate={found * nudge},n=3000,seed=2")
        assert (slo.broken(measure(longer)) == ()) == is_kept


def test_only_a_trace_that_cannot_be_repeated_is_short() -> None:
    """Repeats of plain requests are as good as new ones; those of shared prefixes are not, and the answer says so."""
    serving, slo = serving_of(cluster="h100-sxm-1"), parse_slo(["ttft_s.p99<=2"])
    for text, is_short in ((_TRACE, False), ("sessions:chat,rate=0.5,n=20,turns=2", True)):
        workload = parse_workload(text)
        start = serving.start(parse_plan("tp1"), workload)
        assert not isinstance(start, Refusal)
        found = find_capacity(lambda scaled, start=start: replay(serving, start, scaled).metrics, workload, slo)
        assert found.is_short == is_short


def test_two_replicas_take_twice_the_traffic() -> None:
    """Independent replicas add up, but for the unevenness of a short trace."""
    limits = ["tpot_s.p99<=0.03"]
    rates = {
        str(result.plan): result.metrics[SUSTAINABLE_RATE]
        for cluster in ("h100-sxm-1", "h100-sxm-2")
        for result in _search(cluster, limits).ranked
    }
    assert rates["dp2"] == pytest.approx(2 * rates["tp1"], rel=0.25)


def test_limits_nothing_keeps_leave_no_rate() -> None:
    """A first token faster than one prompt can be computed is kept at no rate."""
    found = _search("h100-sxm-1", ["ttft_s.p50<=1e-4"])
    assert [result.metrics[SUSTAINABLE_RATE] for result, _ in found.breaking] == [0.0]


def test_pools_have_a_rate_too() -> None:
    """Plans of one pool and of two are ranked by the same figure, best first."""
    found = _search("h100-sxm-2", ["tpot_s.p99<=0.05"], Axes(pools=True))
    rates = [result.metrics[SUSTAINABLE_RATE] for result in found.ranked]
    assert any("+" in str(result.plan) for result in found.ranked)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0


def test_a_rate_without_limits_or_arrivals_means_nothing() -> None:
    """Without a limit any rate would do; a closed loop has no arrivals; as a limit it would bound itself."""
    with pytest.raises(UserError, match="no limit on the plan"):
        _search("h100-sxm-1", ["ttft_s<=1"])
    for text, reason in (
        ("closed:isl=64,osl=8,concurrency=2", "closed loop"),
        ("synthetic:isl=64,osl=8,n=3,arrivals=burst", "arrive at once"),
    ):
        with pytest.raises(UserError, match=reason):
            check_capacity(parse_workload(text), parse_slo(["ttft_s.p99<=1"]))
    with pytest.raises(UserError, match="limits are what"):
        parse_slo([f"{SUSTAINABLE_RATE}>=1"])


def test_a_long_trace_recorded_at_any_hour_has_a_rate() -> None:
    """Rates at which the trace would outlast the engine's clock are judged by its head, whatever its calendar."""
    serving = serving_of(cluster="h100-sxm-1")
    workload = parse_workload("synthetic:isl=512,osl=32,rate=0.00005,n=200,seed=1")  # 46 days
    epoch = replace(workload, arrival_s=np.round(workload.arrival_s) + 1.7e9)
    start = serving.start(parse_plan("tp1"), workload)
    assert not isinstance(start, Refusal)

    def measure(scaled: Workload) -> Metrics:
        return replay(serving, start, scaled).metrics

    assert find_capacity(measure, epoch, parse_slo(["ttft_s.p99<=1e-9"])).requests_per_s == 0.0
    found = find_capacity(measure, epoch, parse_slo(["e2e_s.mean<=0.3"])).requests_per_s
    shifted = replace(epoch, arrival_s=epoch.arrival_s - 1.7e9)
    assert found == find_capacity(measure, shifted, parse_slo(["e2e_s.mean<=0.3"])).requests_per_s > 0
