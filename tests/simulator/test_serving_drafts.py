"""Speculative decoding from a user's settings to the metrics, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest

from cluster_specs.errors import UserError
from cluster_specs.load import load_cluster
from costmodel.pricing.analytic_costs import AnalyticCosts
from simulator.feasible.server_setup import Overrides
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan
from simulator.results.run_work import run_work
from simulator.simulate import SimulatedPlan, simulate
from simulator.workload.parse import parse_workload

_CLUSTER = load_cluster("h100-sxm-8")


def _run(plan: str = "tp4", profile: str = "vllm-0.33", **overrides: Any) -> SimulatedPlan:
    return simulate(
        parse_plan(plan),
        parse_workload("chat-synthetic", limit=60),
        _CLUSTER,
        AnalyticCosts(_CLUSTER),
        model=load_model("llama-3.1-70b"),
        profile=profile,
        overrides=Overrides(**overrides),
    )


def test_accepted_drafts_shorten_the_time_per_token() -> None:
    """Right drafts speed decoding up by about what they gain; wrong ones, and a draft model, slow it down."""
    plain = _run().metrics
    right = _run(speculative_tokens=3, speculative_acceptance=0.8).metrics
    wrong = _run(speculative_tokens=3, speculative_acceptance=0.0).metrics
    model = _run(speculative_tokens=3, speculative_acceptance=0.8, draft_step_s=4e-3).metrics
    assert plain["tokens_per_decode"] == wrong["tokens_per_decode"] == 1.0
    assert right["tokens_per_decode"] == pytest.approx((1 - 0.8**4) / 0.2, rel=0.1)
    gain = plain["tpot_s"]["mean"] / right["tpot_s"]["mean"]
    assert 0.8 * right["tokens_per_decode"] < gain < 1.05 * right["tokens_per_decode"]
    assert right["tpot_s"]["mean"] < model["tpot_s"]["mean"]
    assert plain["tpot_s"]["mean"] < wrong["tpot_s"]["mean"]
    assert model["breakdown"]["draft_frac"] > 0.05
    assert sum(model["breakdown_ops"].values()) == pytest.approx(1.0, abs=1e-9)


def test_the_draft_model_draws_idle_power() -> None:
    """Energy is that of a run in which the devices idle for as long as the draft model runs."""
    result = _run(speculative_tokens=3, speculative_acceptance=0.8, draft_step_s=4e-3)
    totals = result.run.replicas
    idle = replace(totals, draft_ps=0 * totals.draft_ps, busy_ps=totals.busy_ps - totals.draft_ps)
    runs = result.run, replace(result.run, replicas=idle)
    parts = [run_work(result.start.compiled, run, result.start.plan, _CLUSTER).energy_j for run in runs]
    assert parts[0] is not None
    assert float(totals.draft_ps.sum()) > 0
    assert parts[0] == pytest.approx(parts[1], rel=1e-9)


def test_json_says_how_drafts_were_set() -> None:
    """The limits name the drafts where there are any, and keep silent where there are none."""
    limits = _run(speculative_tokens=2, speculative_acceptance=0.5).to_json()["limits"]
    assert (limits["num_speculative_tokens"], limits["speculative_acceptance"]) == (2, 0.5)
    assert "num_speculative_tokens" not in _run().to_json()["limits"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"speculative_tokens": 3}, "without speculative_acceptance"),
        ({"speculative_acceptance": 0.5}, "there are none"),
        ({"speculative_method": "mtp"}, "there are none"),
        ({"speculative_tokens": 2, "speculative_acceptance": (0.5, 0.4, 0.3)}, "3 shares for 2 drafts"),
        ({"speculative_tokens": 2, "speculative_acceptance": 0.5, "speculative_method": "mtp"}, "no multi-token"),
        (
            {"speculative_tokens": 2, "speculative_acceptance": 0.5, "speculative_method": "draft_model"},
            "without draft_step_s",
        ),
        (
            {
                "speculative_tokens": 2,
                "speculative_acceptance": 0.5,
                "speculative_method": "ngram",
                "draft_step_s": 0.001,
            },
            "has no draft model",
        ),
        ({"draft_step_s": 0.1}, "there are none"),
        ({"speculative_tokens": 8192, "speculative_acceptance": 0.5}, "less than max_num_batched_tokens"),
        ({"speculative_tokens": 2, "speculative_acceptance": 0.5, "plan": "pp2-tp4"}, "vllm starts no drafts"),
        ({"speculative_tokens": 2, "speculative_acceptance": 0.5, "profile": "sglang-0.5"}, "for policy sglang"),
    ],
)
def test_what_cannot_be_simulated_is_refused(settings: dict[str, Any], message: str) -> None:
    """Half a setting, and layouts whose scheduler is not modelled with drafts, are refused by name."""
    with pytest.raises(UserError, match=message):
        _run(**settings)


def _deepseek(plan: str = "tp8", profile: str = "vllm-0.33", **overrides: Any) -> SimulatedPlan:
    cluster = load_cluster("h200-sxm-8")
    return simulate(
        parse_plan(plan),
        parse_workload("chat-synthetic", limit=40),
        cluster,
        AnalyticCosts(cluster),
        model=load_model("deepseek-v3"),
        profile=profile,
        overrides=Overrides(**overrides),
    )


def test_the_prediction_layer_of_deepseek_has_the_published_size() -> None:
    """DeepSeek's README_WEIGHTS: 11.5 billion parameters beside the shared embedding and head."""
    model = load_model("deepseek-v3")
    added = model.with_draft_layer().parameters() - model.parameters()
    assert added == pytest.approx(11.5e9, rel=0.02)
    assert load_model("llama-3.1-8b").draft_layers == load_model("kimi-k2").draft_layers == 0


def test_a_prediction_layer_takes_memory_cache_and_time() -> None:
    """Its weights and one more layer of KV are on every rank, and a step takes longer by its passes, more for more."""
    stated: dict[str, Any] = {"speculative_tokens": 3, "speculative_acceptance": (0.85, 0.7, 0.55)}
    free = _deepseek(**stated)
    own = _deepseek(**stated, speculative_method="mtp")
    layer = own.start.memory.weights_bytes - free.start.memory.weights_bytes
    assert 11.5e9 / 8 < layer < 2 * 11.5e9 / 8
    assert own.start.memory.kv_tokens < 61 / 62 * free.start.memory.kv_tokens
    assert own.metrics["tokens_per_decode"] == free.metrics["tokens_per_decode"]
    lone = _deepseek(speculative_tokens=1, speculative_acceptance=0.85, speculative_method="mtp")
    steps = [(run.run.replicas.busy_ps / run.run.replicas.steps).mean() for run in (free, lone, own)]
    layers = 61 * (steps[2] / steps[0] - 1)
    assert steps[2] > steps[1]
    assert 2 < layers < 12  # three passes and three heads
    assert '"method": "mtp"' in "\n".join(own.launch)


def test_a_prediction_layer_drafts_on_attention_ranks_and_in_tensorrt_llm() -> None:
    """Ranks that step together draft too; the file for TensorRT-LLM names the layer, and stages refuse."""
    stated: dict[str, Any] = {
        "speculative_tokens": 1,
        "speculative_acceptance": 0.85,
        "speculative_method": "mtp",
        "profile": "tensorrt-llm-1.2",
    }
    ranks = _deepseek("attn.dp8-moe.ep8", **stated)
    assert ranks.metrics["tokens_per_decode"] > 1.7
    assert "MTP" in "\n".join(ranks.launch)
    with pytest.raises(UserError, match="without pipeline stages only"):
        _deepseek("pp2-tp4", **stated)
