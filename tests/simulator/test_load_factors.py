"""Factors of a profile on steps, by their tokens and ranks."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from cluster_specs.load import load_cluster
from costmodel.pricing.analytic_costs import AnalyticCosts
from simulator.engine_profiles.engine_profile import EngineProfile, load_profile
from simulator.engine_profiles.load_factors import LoadFactors, LoadPoint
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan
from simulator.simulate import SimulatedPlan, simulate
from simulator.workload.parse import parse_workload

_CLUSTER = load_cluster("h100-sxm-8")
_COSTS = AnalyticCosts(_CLUSTER)


def _with(*points: tuple[int, int, float]) -> EngineProfile:
    factors = LoadFactors(
        points=[LoadPoint(tokens=tokens, ranks=ranks, weight=math.log(factor)) for tokens, ranks, factor in points],
        source="a test",
    )
    return load_profile("vllm-0.19").model_copy(update={"load_factors": factors})


def _run(profile: EngineProfile, *, concurrency: int, plan: str = "tp2", prompt: int = 64) -> SimulatedPlan:
    traffic = f"closed:isl={prompt},osl=64,concurrency={concurrency},ratio=1,prompts_per_slot=2"
    return simulate(
        parse_plan(plan), parse_workload(traffic), _CLUSTER, _COSTS, model=load_model("llama-3.1-70b"), profile=profile
    )


def test_a_factor_is_whole_at_its_point_and_none_far_away() -> None:
    """It falls with octaves of tokens and of ranks, symmetric in both."""
    factors = _with((64, 2, 1.3)).load_factors
    at = factors.at(np.array([64, 32, 128, 4, 1024]), 2)
    assert at[0] == pytest.approx(1.3)
    assert at[1] == pytest.approx(at[2])
    assert 1.0 < at[1] < 1.3
    assert at[3:] == pytest.approx(1.0, abs=0.01)
    assert factors.at(np.array([64]), 1) == pytest.approx(factors.at(np.array([64]), 4))
    assert factors.at(np.array([0]), 2) == factors.at(np.array([1]), 2)


def test_steps_near_the_point_take_longer_with_their_energy() -> None:
    """TPOT of as many sequences moves by the factor, with its interval; of one sequence and on other ranks it stays."""
    before, after = (_run(profile, concurrency=64) for profile in (load_profile("vllm-0.19"), _with((64, 2, 1.3))))
    ratio = after.metrics["tpot_s"]["mean"] / before.metrics["tpot_s"]["mean"]
    assert 1.2 < ratio <= 1.31
    assert after.metrics["energy_j_per_output_token"] > 1.15 * before.metrics["energy_j_per_output_token"]
    assert after.interval is not None
    assert before.interval is not None
    for end in range(2):
        ends = after.interval["tpot_s.mean"][end] / before.interval["tpot_s.mean"][end]
        assert ends == pytest.approx(ratio, rel=0.05)
    for other in ({"concurrency": 1}, {"concurrency": 64, "plan": "tp8"}):
        same = [_run(p, **other).metrics["tpot_s"]["mean"] for p in (load_profile("vllm-0.19"), _with((64, 2, 1.3)))]
        assert same[1] == pytest.approx(same[0], rel=0.03)


def test_prompts_have_factors_of_their_own_tokens() -> None:
    """A point at a prompt's tokens moves its first token, and hardly what follows."""
    before, after = (
        _run(profile, concurrency=1, prompt=4096) for profile in (load_profile("vllm-0.19"), _with((4096, 2, 1.5)))
    )
    first, rest = (after.metrics[name]["mean"] / before.metrics[name]["mean"] for name in ("ttft_s", "tpot_s"))
    assert first > 1.4
    assert rest == pytest.approx(1.0, abs=0.01)


def test_shares_of_time_still_add_up() -> None:
    """The breakdown by op counts the factors as the engine does."""
    found = _run(_with((64, 2, 1.3), (512, 2, 0.8)), concurrency=64).metrics["breakdown_ops"]
    assert sum(found.values()) == pytest.approx(1.0)


def test_points_are_checked() -> None:
    """Figures need a source, and no factor is beyond a tenth or ten."""
    point = LoadPoint(tokens=8, ranks=1, weight=2.0)
    with pytest.raises(ValidationError, match="points need a source"):
        LoadFactors(points=[point])
    with pytest.raises(ValidationError, match="8 tokens on 1 ranks is 54"):
        LoadFactors(points=[point, point], source="a test")
    assert LoadFactors().at(np.array([1.0, 9.0]), 4).tolist() == [1.0, 1.0]
