"""Plans that change what the model answers are named, and never put before one that does not."""

import pytest

from cluster_specs.errors import UserError
from simulator.feasible.changed_formats import changed_formats
from simulator.feasible.plan_space import Axes
from simulator.plan.pool_plan import parse_layout
from simulator.report.search_answer import answer_lines
from simulator.results.objective import parse_objective, parse_slo
from simulator.search.search import search
from simulator.search.search_result import SearchResult
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of

_WORKLOAD = parse_workload("synthetic:isl=500,osl=40,rate=2,n=12,seed=1")
_FORMATS = Axes(weight_dtypes=(None, "w4a16"))


@pytest.mark.parametrize(
    ("model", "cluster", "plan", "changed"),
    [
        ("llama-3.1-8b", "h100-sxm-1", "tp1", ()),
        ("llama-3.1-8b", "h100-sxm-1", "tp1-w.bf16-kv.bf16", ()),
        ("llama-3.1-8b", "h100-sxm-1", "tp1-w.fp32", ()),
        ("llama-3.1-8b", "h100-sxm-1", "tp1-w.w4a16", ("w4a16 weights",)),
        ("llama-3.1-8b", "h100-sxm-1", "tp1-w.fp8-kv.fp8", ("fp8 weights", "fp8 KV cache")),
        ("llama-3.1-8b", "h100-sxm-2", "prefill.tp1-kv.fp8+decode.tp1-kv.fp8", ("fp8 KV cache",)),
        # An FP8 checkpoint beside 16-bit activations keeps its weights; without FP8 arithmetic it has no choice.
        ("deepseek-v3", "h200-sxm-8", "tp8-w.w8a16", ()),
        ("deepseek-v3", "a100-sxm-80gb-2x8", "tp8-w.w8a16", ()),
        ("deepseek-v3", "h200-sxm-8", "tp8-kv.fp8", ("fp8 KV cache",)),
    ],
)
def test_coarser_formats_are_named(model: str, cluster: str, plan: str, changed: tuple[str, ...]) -> None:
    """What a plan rounds further than the checkpoint is named; what it keeps, widens or must take is not."""
    serving = serving_of(model, cluster)
    assert changed_formats(serving.model, parse_layout(plan), serving.cluster.device, serving.profile) == changed


def _found(model: str, cluster: str, **asked: object) -> SearchResult:
    slo = parse_slo(["ttft_s.p99<=1e-6"]) if asked.pop("hopeless", False) else None
    return search(
        serving_of(model, cluster),
        _WORKLOAD,
        parse_objective("e2e_s"),
        slo=slo,
        **asked,  # type: ignore[arg-type]
    )


def test_faster_but_coarser_plans_are_ranked_apart() -> None:
    """4-bit weights win on this model, and the best plan is in the checkpoint's formats all the same."""
    found = _found("llama-3.1-8b", "h100-sxm-2", axes=_FORMATS)
    together = _found("llama-3.1-8b", "h100-sxm-2", axes=_FORMATS, formats_together=True)
    assert [str(result.plan) for result in found.ranked] == ["tp2", "dp2", "pp2"]
    assert {str(result.plan) for result in found.changing} == {f"{name}-w.w4a16" for name in ("tp2", "dp2", "pp2")}
    assert found.best is found.ranked[0]
    assert not together.changing
    assert {str(result.plan) for result in together.ranked} == {str(result.plan) for result in found.simulated}
    assert str(together.ranked[0].plan) == "tp2-w.w4a16"
    assert "it changes the model's answers: w4a16 weights, coarser than the checkpoint's" in answer_lines(together)
    by_plan = {plan["plan"]: plan.get("changes_answers") for plan in found.to_json()["plans"]}
    assert by_plan["tp2"] is None
    assert by_plan["tp2-w.w4a16"] == ["w4a16 weights"]


def test_formats_that_were_asked_for_alone_are_ranked() -> None:
    """Where every plan is coarser they were asked for: they are ranked, and the answer says what they change."""
    found = _found("llama-3.1-8b", "h100-sxm-2", axes=Axes(weight_dtypes=("fp8",)))
    assert len(found.ranked) == 3
    assert not found.changing
    assert any("changes the model's answers: fp8 weights" in line for line in answer_lines(found))


def test_a_coarser_plan_is_named_best_where_no_other_can_start() -> None:
    """70 billion parameters fit one device in 8 bits or fewer alone, and the answer says that this is why."""
    found = _found("llama-3.1-70b", "h100-sxm-1", axes=_FORMATS)
    assert not found.ranked
    assert found.best is found.changing[0]
    first, second = answer_lines(found)[:2]
    assert first == "no plan in the checkpoint's own formats can start"
    assert second.startswith("best plan: tp1-w.w4a16")


def test_limits_bind_coarser_plans_too() -> None:
    """A plan that breaks a limit is among those that do, whatever its formats."""
    found = _found("llama-3.1-8b", "h100-sxm-2", axes=_FORMATS, hopeless=True)
    assert found.best is None
    assert len(found.breaking) == 6


def test_ranking_formats_together_needs_coarser_ones() -> None:
    """The flag is refused where no plan would move."""
    with pytest.raises(UserError, match="nothing to do"):
        _found("llama-3.1-8b", "h100-sxm-2", formats_together=True)
