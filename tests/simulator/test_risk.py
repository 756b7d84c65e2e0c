"""How likely a limit is kept follows from the interval of the metric it binds."""

import math

import pytest

from simulator.report.search_answer import answer_lines, ranking
from simulator.results.objective import Limit, parse_objective, parse_slo
from simulator.results.risk import chance_of_keeping
from simulator.search.search import search, with_intervals
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of

_METRICS = {"ttft_s": {"p99": 2.0}}
_ENDS = {"ttft_s.p99": (1.0, 8.0)}


@pytest.mark.parametrize(
    ("bound", "chance"),
    [
        (2.0, 0.5),  # the best estimate
        (8.0, 0.95),  # the upper end of a 90 % interval
        (1.0, 0.05),
        (4.0, 0.79459),  # half way up in logarithms: 0.8224 standard deviations
        (math.sqrt(2), 0.20541),
    ],
)
def test_chances_are_those_of_a_normal_logarithm(bound: float, chance: float) -> None:
    """Worked by hand: the interval is ln 2 wide below the estimate and ln 4 above, 1.6449 deviations each."""
    limit = Limit(path="ttft_s.p99", bound=bound, at_most=True)
    assert chance_of_keeping(limit, _METRICS, _ENDS) == pytest.approx(chance, abs=1e-4)
    other = Limit(path="ttft_s.p99", bound=bound, at_most=False)
    assert chance_of_keeping(other, _METRICS, _ENDS) == pytest.approx(1 - chance, abs=1e-4)


def test_what_is_not_known_has_no_chance() -> None:
    """Without the metric, its interval, or a logarithm of it nothing is said; a metric without doubt is kept or not."""
    limit = Limit(path="ttft_s.p99", bound=3.0, at_most=True)
    assert chance_of_keeping(limit, {}, _ENDS) is None
    assert chance_of_keeping(limit, _METRICS, None) is None
    assert chance_of_keeping(limit, _METRICS, {"ttft_s.p99": (0.0, 8.0)}) is None
    assert chance_of_keeping(limit, _METRICS, {"ttft_s.p99": (2.0, 2.0)}) == 1.0


def test_an_answer_says_which_limit_is_doubtful() -> None:
    """A limit just above the best plan's estimate is kept with little more than a half, and the answer says so."""
    serving = serving_of("llama-3.1-8b", "h100-sxm-2")
    workload = parse_workload("synthetic:isl=500,osl=40,rate=2,n=12,seed=1")
    aim = parse_objective("e2e_s")
    free = search(serving, workload, aim).ranked[0].metrics["tpot_s"]["p99"]
    slo = parse_slo([f"tpot_p99<={1.01 * free}"])
    found = with_intervals(search(serving, workload, aim, slo=slo), serving, workload, slo, first=10)
    (chance,) = found.chances(found.ranked[0]).values()
    assert 0.5 < chance < 0.65
    said = "\n".join(answer_lines(found))
    assert f"is kept with a probability of {100 * chance:.1f} %" in said
    assert "best plan that keeps each limit with at least 90.0 %: none of those shown" in said
    assert ranking(found, top=1)[0]["keeps limits"] == f"{100 * chance:.1f} %"
    assert found.to_json()["plans"][0]["keeps_frac"] == {str(slo.per_plan[0]): chance}
