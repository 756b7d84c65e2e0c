"""Every answer names what people choose without a search, and by how much the best plan differs from it."""

import pytest

from simulator.feasible.plan_space import Axes
from simulator.plan.plan import parse_plan
from simulator.report.search_answer import answer_lines
from simulator.results.objective import parse_objective
from simulator.search.search import search
from simulator.search.search_result import SearchResult
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of

_WORKLOAD = parse_workload("synthetic:isl=500,osl=40,rate=2,n=12,seed=1")


def _found(model: str, cluster: str, objective: str = "e2e_s", **asked: object) -> SearchResult:
    return search(serving_of(model, cluster), _WORKLOAD, parse_objective(objective), **asked)  # type: ignore[arg-type]


def test_the_usual_plan_is_compared_by_the_objective() -> None:
    """On two nodes it is a pipeline of two stages; its ratio is that of the values shown for both plans."""
    found = _found("llama-3.1-8b", "h100-sxm-2x4")
    said = found.to_json()["usual_plan"]
    values = {plan["plan"]: plan["metrics"]["e2e_s"]["mean"] for plan in found.to_json()["plans"]}
    assert said["plan"] == "pp2-tp4"
    assert said["reason"] is None
    assert said["ratio"] == pytest.approx(values["pp2-tp4"] / values[str(found.ranked[0].plan)])
    assert said["ratio"] > 1
    assert any(line.startswith("the usual choice, pp2-tp4 (") for line in answer_lines(found))


def test_the_usual_plan_may_be_the_best() -> None:
    """One node at light load is served best by all of its devices together, and the answer says that this is usual."""
    found = _found("llama-3.1-8b", "h100-sxm-4")
    assert found.to_json()["usual_plan"] == {"plan": "tp4", "ratio": 1.0, "reason": None}
    assert any(line.startswith("it is the usual choice: ") for line in answer_lines(found))


def test_a_usual_plan_that_cannot_start_says_why() -> None:
    """Twenty-eight heads cannot be parted over eight devices: the reason stands in the answer."""
    found = _found("qwen2.5-7b", "h100-sxm-8")
    said = found.to_json()["usual_plan"]
    assert said["plan"] == "tp8"
    assert said["ratio"] is None
    assert said["reason"]
    assert f"cannot start: {said['reason']}" in "\n".join(answer_lines(found))


def test_nothing_is_usual_where_nothing_is_chosen() -> None:
    """One device has one layout, and plans that were stated are compared with each other alone."""
    assert _found("llama-3.1-8b", "h100-sxm-1").to_json()["usual_plan"] is None
    assert _found("llama-3.1-8b", "h100-sxm-2", plans=[parse_plan("tp2")]).to_json()["usual_plan"] is None


def test_least_energy_states_its_price() -> None:
    """The saving against the fastest plan and the longer mean latency are those of the two plans' metrics."""
    found = _found("llama-3.1-8b", "h100-sxm-2", "energy_j_per_output_token", axes=Axes(clocks_mhz=(None, 990.0)))
    best = found.ranked[0].metrics
    fastest = min(found.ranked, key=lambda result: result.metrics["e2e_s"]["mean"])
    saved = 100 * (1 - best["energy_j_per_output_token"] / fastest.metrics["energy_j_per_output_token"])
    longer = best["e2e_s"]["mean"] / fastest.metrics["e2e_s"]["mean"]
    line = next(line for line in answer_lines(found) if line.startswith(f"against the fastest plan, {fastest.plan}: "))
    assert f" {saved:.3g} % less energy" in line
    assert f"E2E mean {longer:.3g} times as long" in line
