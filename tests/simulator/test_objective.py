"""Objectives and limits as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from simulator.commands.search import search
from simulator.report.formats import TITLES
from simulator.results.metrics import RequestSlo
from simulator.results.objective import metric_paths, parse_objective, parse_objectives, parse_slo, read_metric

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
    ("text", "limit"),
    [
        ("ttft_p99<500ms", "ttft_s.p99<=0.5"),
        ("p99_ttft_ms <= 500", "ttft_s.p99<=0.5"),
        ("TTFT.p99<=0.5s", "ttft_s.p99<=0.5"),
        ("median_itl<40000us", "itl_s.p50<=0.04"),
        ("mean_e2el_ms<=1e3", "e2e_s.mean<=1"),
        ("queue_s.p95<2", "queue_s.p95<=2"),
        ("slo_attainment_frac>95%", "slo_attainment_frac>=0.95"),
        ("throughput_tokens_per_s>1e3", "throughput_tokens_per_s>=1000"),
    ],
)
def test_limits_are_read_as_people_write_them(text: str, limit: str) -> None:
    """Names of benchmark clients, units and plain signs mean the limit in SI units that the answer shows."""
    assert [str(found) for found in parse_slo([text]).per_plan] == [limit]


def test_a_latency_with_a_unit_binds_requests() -> None:
    """A latency without a statistic bounds each request however it is written."""
    assert parse_slo(["ttft<500ms", "tpot_ms<=50"]).per_request == RequestSlo(ttft_s=0.5, tpot_s=0.05)


def test_an_objective_is_named_once() -> None:
    """Two spellings of one metric are one metric, and no objective is dropped without a word."""
    assert [aim.path for aim in parse_objectives(["e2e", "energy_j"])] == ["e2e_s.mean", "energy_j"]
    with pytest.raises(UserError, match=r"ttft_s\.p99 is named twice"):
        parse_objectives(["ttft_p99", "e2e", "ttft_s.p99"])


@pytest.mark.parametrize("text", ["ttft_p99", "p99_ttft", "ttft_s_p99", "TTFT_MS.P99"])
def test_objectives_are_read_as_people_write_them(text: str) -> None:
    """The spellings of a limit's metric are those of an objective."""
    assert parse_objective(text).path == "ttft_s.p99"


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["ttft<=1", "ttft_s<=2"], "bounded twice"),
        (["ttft_p99<=1", "p99_ttft_ms<=2000"], "bounded twice"),
        (["ttft_ms<=1s"], "is in ms, the limit in s"),
        (["energy_j<=5ms"], "not measured in ms"),
        (["ttft_p99<=5%"], "not measured in %"),
        (["p50_ttft_p99<=1"], "two statistics"),
    ],
)
def test_limits_that_contradict_themselves_are_refused(texts: list[str], named: str) -> None:
    """A metric bounded twice, two units, a unit that the metric has not: one message that says which."""
    with pytest.raises(UserError, match=named):
        parse_slo(texts)


@pytest.mark.parametrize("text", ["ttft_s<=fast", "latency<=1", "ttft_s.p42<=1", "ttft_s>=1", "", "ttft_s.p99<=1e"])
def test_bad_limit_is_refused_with_a_hint(text: str) -> None:
    """Each malformed limit ends in one message that names it and says what to write."""
    with pytest.raises(UserError) as caught:
        parse_slo([text])
    assert caught.value.hint
