"""Objectives and limits as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from simulator.commands.search import search
from simulator.report.formats import TITLES
from simulator.results.metrics import RequestSlo
from simulator.results.objective import metric_paths, parse_objective, parse_slo, read_metric

_METRICS = {"ttft_s": {"mean": 0.2, "p99": 1.5}, "throughput_tokens_per_s": 800.0, "energy_j": None}


def test_a_latency_alone_means_its_mean() -> None:
    """`--objective e2e_s` ranks by the mean, as the documentation says."""
    assert parse_objective("e2e_s").path == "e2e_s.mean"


def test_more_is_better_for_rates_and_less_for_latencies() -> None:
    """The sort key puts the better plan first in both directions, and a plan without the metric last."""
    assert parse_objective("ttft_s.p99").rank(_METRICS) == 1.5
    assert parse_objective("throughput_tokens_per_s").rank(_METRICS) == -800.0
    assert parse_objective("energy_j").rank(_METRICS) == float("inf")


@given(st.sampled_from(metric_paths()))
def test_every_listed_metric_is_an_objective(path: str) -> None:
    """What an error message lists as a metric is accepted as one."""
    assert parse_objective(path).path == path


def test_the_help_and_the_table_name_every_metric() -> None:
    """`apex search --help` names every metric and nothing else, and each that is no latency has a column head."""
    plain = {path for path in metric_paths() if "." not in path}
    latencies = {path.partition(".")[0] for path in metric_paths() if "." in path}
    words = set((search.epilog or "").replace(",", " ").split())
    assert {name for name in plain | latencies if name not in words} == set()
    assert {word for word in words if "_" in word} <= plain | latencies
    assert set(TITLES) == plain


def test_limits_bind_requests_or_plans() -> None:
    """A latency without statistic bounds each request (goodput); everything else bounds the plan."""
    slo = parse_slo(["ttft_s<=2", "tpot_s <= 0.05", "ttft_s.p99<=1", "throughput_tokens_per_s>=1e3"])
    assert slo.per_request == RequestSlo(ttft_s=2.0, tpot_s=0.05)
    assert [str(limit) for limit in slo.per_plan] == ["ttft_s.p99<=1", "throughput_tokens_per_s>=1000"]
    assert [str(limit) for limit in slo.broken(_METRICS)] == ["ttft_s.p99<=1", "throughput_tokens_per_s>=1000"]
    assert parse_slo(["ttft_s.p99<=1.5"]).broken(_METRICS) == ()


def test_an_unknown_value_breaks_a_limit() -> None:
    """A limit on a metric the simulation could not give is not taken as kept."""
    assert parse_slo(["energy_j<=1e9"]).broken(_METRICS) != ()
    assert read_metric(_METRICS, "energy_j") is None


@pytest.mark.parametrize(
    "text", ["ttft_s<2", "ttft_s<=fast", "latency<=1", "ttft_s.p42<=1", "ttft_s>=1", "", "ttft_s.p99<=1e"]
)
def test_bad_limit_is_refused_with_a_hint(text: str) -> None:
    """Each malformed limit ends in one message that names it and says what to write."""
    with pytest.raises(UserError) as caught:
        parse_slo([text])
    assert caught.value.hint
