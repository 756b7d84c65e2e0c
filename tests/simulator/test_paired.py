"""Two plans of one search compared: what is wrong with both does not count, what is each plan's own counts twice."""

import math
from dataclasses import replace
from functools import cache

import pytest

from cluster_specs.load import load_cluster
from costmodel.bundled_fits import choose_costs
from simulator.engine_profiles.engine_profile import load_profile
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan
from simulator.report.search_answer import answer_lines
from simulator.results.objective import parse_objective
from simulator.search.paired import Effects, effects, versus
from simulator.search.search import search, with_intervals
from simulator.search.search_result import SearchResult
from simulator.serving import Serving, StartedPlan
from simulator.simulate import replay
from simulator.steps.step_ends import VOLTAGE
from simulator.workload.parse import parse_workload

_WORKLOAD = "closed:isl=256,osl=64,concurrency=8,prompts_per_slot=4,warmup_per_slot=0"


def _serving() -> Serving:
    cluster = load_cluster("h100-sxm-8")
    return Serving(
        model=load_model("llama-3.1-8b"),
        cluster=cluster,
        profile=load_profile("vllm-0.33"),
        costs=lambda clock: choose_costs(None, cluster, clock),
    )


@cache
def _found(metric: str = "e2e_s.mean") -> SearchResult:
    serving = _serving()
    workload = parse_workload(_WORKLOAD)
    plans = [parse_plan(text) for text in ("tp4", "dp2-tp2", "pp2-tp2", "tp8")]
    found = search(serving, workload, parse_objective(metric), plans=plans, threads=1)
    return with_intervals(found, serving, workload, first=4, threads=1)


def test_intervals_of_the_objective_alone_are_the_same_ones() -> None:
    """Where the objective's interval is all that is wanted, it and every comparison are those of a whole answer."""
    whole, serving, workload = _found(), _serving(), parse_workload(_WORKLOAD)
    bare = replace(whole, ranked=tuple(replace(result, interval=None) for result in whole.ranked), versus_best={})
    found = with_intervals(bare, serving, workload, first=4, of=(), threads=1)
    for one, other in zip(found.ranked, whole.ranked, strict=True):
        assert one.interval is not None
        assert other.interval is not None
        assert one.interval["e2e_s.mean"] == other.interval["e2e_s.mean"]
        assert "energy_j" in other.interval.keys() - one.interval.keys()
    assert found.versus_best == whole.versus_best


def test_a_ratio_is_surer_than_the_two_plans_apart() -> None:
    """The interval of the ratio is narrower than that of two independent plans, and holds the ratio."""
    found = _found()
    assert found.versus_best
    by_name = {str(result.plan): result for result in found.ranked}
    best = found.ranked[0]
    for name, known in found.versus_best.items():
        assert known.ratio_low < known.ratio < known.ratio_high
        apart = 0.0
        for result in (best, by_name[name]):
            assert result.interval is not None
            low, high = result.interval["e2e_s.mean"]
            apart += (math.log(high / low) / 2) ** 2
        assert math.log(known.ratio_high / known.ratio) < math.sqrt(apart)


def test_the_json_and_the_answer_name_every_comparison() -> None:
    """Each plan compared has ``versus_best`` in the JSON and a sentence in the answer; the best plan has neither."""
    found = _found()
    plans = {item["plan"]: item for item in found.to_json()["plans"]}
    assert {name for name, item in plans.items() if "versus_best" in item} == set(found.versus_best)
    assert str(found.ranked[0].plan) not in found.versus_best
    text = "\n".join(answer_lines(found))
    for name, known in found.versus_best.items():
        assert plans[name]["versus_best"]["ratio_interval"] == [known.ratio_low, known.ratio_high]
        assert f"against {name}: E2E mean there is {known.ratio:.3g} times as much" in text


def test_joules_of_two_plans_at_one_clock_share_what_is_wrong_with_the_devices_power() -> None:
    """The interval of a ratio of joules is narrower than that of either plan's own joules, though each is in doubt."""
    found = _found("energy_j")
    assert found.versus_best
    by_name = {str(result.plan): result for result in found.ranked}
    for name, known in found.versus_best.items():
        assert by_name[name].interval is not None
        low, high = by_name[name].interval["energy_j"]
        assert math.log(known.ratio_high / known.ratio) < math.log(high / low) / 2


def test_a_lower_clock_is_compared_with_all_that_the_law_of_voltage_is_off() -> None:
    """Joules at half the clock over those at the top differ by the law alone: its whole width stays in the ratio."""
    at_top, lower = (
        Effects(value=2.0, shared={VOLTAGE: 0.0}, own=0.0),
        Effects(value=1.5, shared={VOLTAGE: 0.2}, own=0.0),
    )
    known = versus(lower, at_top, parse_objective("energy_j"))
    assert math.log(known.ratio_high / known.ratio) == pytest.approx(0.2)
    serving = _serving()
    workload = parse_workload(_WORKLOAD)
    of_clock = {}
    for text in ("tp4", "tp4-f990"):
        start = serving.start(parse_plan(text), workload)
        assert isinstance(start, StartedPlan)
        told = effects(serving, replay(serving, start, workload), workload, "energy_j")
        assert told is not None
        of_clock[text] = told.shared[VOLTAGE]
    assert of_clock["tp4"] == 0.0
    assert of_clock["tp4-f990"] > 0.05


def test_what_two_plans_share_cancels_and_what_is_their_own_does_not() -> None:
    """Equal effects leave no doubt; own ones add in quadrature; opposite ones add up."""
    aim = parse_objective("e2e_s.mean")
    shared = {"products": 0.3, "engine constants": 0.1}
    best, same = Effects(value=1.0, shared=shared, own=0.0), Effects(value=1.02, shared=shared, own=0.0)
    sure = versus(best, same, aim)
    assert (sure.ratio_low, sure.ratio, sure.ratio_high) == (1.02, 1.02, 1.02)
    assert sure.best_is_better_frac == 1.0
    apart = versus(best, Effects(value=1.02, shared=shared, own=0.05), aim)
    assert math.log(apart.ratio_high / 1.02) == pytest.approx(0.05)
    assert 0.5 < apart.best_is_better_frac < 1.0
    opposite = versus(best, Effects(value=1.02, shared={"products": -0.3, "engine constants": 0.1}, own=0.0), aim)
    assert math.log(opposite.ratio_high / 1.02) == pytest.approx(0.6)


def test_a_ratio_at_the_end_of_its_interval_is_right_in_nineteen_of_twenty() -> None:
    """Where the interval of 90 % ends at 1, the best plan is better with a probability of 95 %, more or less alike."""
    width = 0.1
    for metric, value in (("e2e_s.mean", math.exp(width)), ("throughput_tokens_per_s", math.exp(-width))):
        best, other = Effects(value=1.0, shared={}, own=0.0), Effects(value=value, shared={}, own=width)
        known = versus(best, other, parse_objective(metric))
        assert known.best_is_better_frac == pytest.approx(0.95)
        assert any(end == pytest.approx(1.0) for end in (known.ratio_low, known.ratio_high))
