"""The plan space explained: every plan once, each refusal with whose it is, and apex's own on the page of limits."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cluster_specs.errors import UserError
from simulator.cli import apex
from simulator.feasible.plan_space import Axes, check_axes, enumerate_plans
from simulator.launch import launch_lines
from simulator.plan.plan import parse_plan
from simulator.plan.refused import REFUSERS
from simulator.search.space import explain_space
from simulator.serving import StartedPlan
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of

_CHAT = parse_workload("synthetic:isl=550,osl=250,rate=4,n=20")
_LIMITS = Path(__file__).parents[2] / "docs" / "limits.md"


def _explained(*more: str, model: str = "mixtral-8x7b") -> Result:
    common = f"search --model {model} --cluster h100-sxm-8 --costs analytic --trace chat-synthetic --limit 20"
    return CliRunner().invoke(apex, [*common.split(), "--explain-space", *more])


def _pattern(text: str) -> str:
    return re.sub(r"\d+", "N", text)


@pytest.mark.parametrize(
    ("model", "cluster", "engine"),
    [
        ("llama-3.1-70b", "h100-sxm-8", "vllm-0.33"),
        ("qwen3-32b", "h100-sxm-8", "sglang-0.5"),
        ("mixtral-8x7b", "h100-sxm-8", "tensorrt-llm-1.2"),
        ("deepseek-v3", "h200-sxm-8", "vllm-0.33"),
    ],
)
def test_what_apex_itself_refuses_is_on_the_page_of_limits(model: str, cluster: str, engine: str) -> None:
    """Every plan starts, is refused by somebody else, or for a reason that docs/limits.md has; none is left out."""
    serving = serving_of(model, cluster, engine)
    space = explain_space(serving, _CHAT, None, None)
    listed = enumerate_plans(serving.model, serving.cluster, Axes(), serving.profile.layouts)
    assert sorted([*space.starts, *(str(refusal.plan) for refusal in space.refused)]) == sorted(map(str, listed))
    known = [_pattern(line.split("|")[1].strip()) for line in _LIMITS.read_text().splitlines() if line.startswith("| ")]
    assert {_pattern(refusal.reason) for refusal in space.refused if refusal.by == "apex"} <= set(known)


def test_plans_that_no_engine_runs_are_the_engines_refusals_and_are_simulated_when_asked_for() -> None:
    """The paper's plans of Llama-70B: twenty of thirty are no vLLM's, and none is refused by it with the switch."""
    axes = Axes(more=frozenset({"cells"}))
    refused = explain_space(serving_of("llama-3.1-70b", "h200-sxm-8", "vllm-0.33"), _CHAT, axes, None).refused
    assert sum(refusal.by == "engine" for refusal in refused) == 20
    serving = replace(serving_of("llama-3.1-70b", "h200-sxm-8", "vllm-0.33"), allow_unsupported=True)
    assert not [refusal for refusal in explain_space(serving, _CHAT, axes, None).refused if refusal.by == "engine"]


def test_the_command_says_who_refuses_what() -> None:
    """`apex search --explain-space` counts every plan once, by who refuses it, as text and as JSON."""
    space = json.loads(_explained("--json").stdout)
    counts = space["counts"]
    assert counts["enumerated"] == counts["starts"] + sum(counts["refused"].values()) == 36
    assert list(counts["refused"]) == list(REFUSERS)
    assert space["not_asked_for"] == ["cells", "dcp", "placement", "redundant", "stages"]
    told = _explained("--axes", "cells").stdout
    assert "50 plans enumerated" in told
    assert "refused by engine (14): the engine does not run it" in told
    assert "vllm keeps one copy of the experts in a stage, moe.dp is 2 to 8" in told


@pytest.mark.parametrize("option", [["--top", "3"], ["--objective", "ttft_s.p99"], ["--no-interval"]])
def test_what_acts_on_simulated_plans_alone_is_refused(option: list[str]) -> None:
    """Nothing is ranked where nothing is simulated."""
    result = _explained(*option, model="tiny-llama")
    assert isinstance(result.exception, UserError)
    assert "--explain-space simulates nothing" in str(result.exception)


@pytest.mark.parametrize(
    ("model", "engine", "plan", "said"),
    [
        ("llama-3.1-70b", "vllm-0.33", "pp41_39-tp4", "export VLLM_PP_LAYER_PARTITION=41,39"),
        ("llama-3.1-70b", "sglang-0.5", "pp41_39-tp4", "export SGLANG_PP_LAYER_PARTITION=41,39"),
        ("llama-3.1-70b", "sglang-0.5", "pp2-tp4", "--pp-size 2"),
        ("qwen3-32b", "sglang-0.5", "attn.dp4-tp2", "--tp-size 8 --dp-size 4 --enable-dp-attention"),
        ("mixtral-8x7b", "sglang-0.5", "tp8-ep2", "--tp-size 8 --ep-size 2"),
        ("mixtral-8x7b", "tensorrt-llm-1.2", "tp8-ep2", "--tp_size 8 --ep_size 2"),
        ("deepseek-v3", "sglang-0.5", "attn.dp8-moe.ep8-mlp.dp8", "--ep-size 8 --moe-dense-tp-size 1"),
        ("deepseek-v3", "sglang-0.5", "tp8-ep8-moe.redundant32", "--enable-eplb --ep-num-redundant-experts 32"),
        ("deepseek-v3", "vllm-0.33", "tp8-ep8-moe.redundant8", """--eplb-config '{"num_redundant_experts": 8}'"""),
    ],
)
def test_layouts_are_started_by_the_engines_own_settings(model: str, engine: str, plan: str, said: str) -> None:
    """What a plan says of a stage is in the flags or the environment of its command."""
    serving = serving_of(model, "h200-sxm-8", engine)
    start = serving.start(parse_plan(plan), _CHAT)
    assert isinstance(start, StartedPlan), start
    assert said in "\n".join(launch_lines(serving, start))


@pytest.mark.parametrize(
    ("model", "engine", "axis", "others"),
    [
        ("llama-3.1-70b", "sglang-0.5", "dcp", "cells, placement, stages"),
        ("llama-3.1-70b", "vllm-0.33", "redundant", "cells, placement, stages"),
        ("llama-3.1-70b", "vllm-0.33", "dcp", "cells, placement, stages"),
    ],
)
def test_an_axis_that_adds_no_plan_is_refused(model: str, engine: str, axis: str, others: str) -> None:
    """What was asked for and cannot act is an error that names the axes which would."""
    serving = serving_of(model, "h100-sxm-8", engine)
    axes = Axes(more=frozenset({axis}))
    with pytest.raises(UserError, match=f"--axes {axis} cannot act") as refused:
        check_axes(serving.model, serving.cluster, axes, serving.profile.layouts, serving.profile.name)
    assert others in refused.value.hint
