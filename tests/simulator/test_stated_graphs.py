"""A server told which graphs to capture: the steps run as told, and the command says so in the engine's words."""

from typing import Any

import pytest

from cluster_specs.errors import UserError
from simulator.launch import launch_lines
from simulator.plan.plan import parse_plan
from simulator.simulate import limits_facts
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of, start_of

_CHAT = parse_workload("chat-synthetic", limit=20)


@pytest.mark.parametrize(
    ("engine", "stated", "told"),
    [
        ("vllm-0.33", {"max_cudagraph_capture_size": 2048}, " --max-cudagraph-capture-size 2048"),
        ("vllm-0.11", {"max_cudagraph_capture_size": 8}, " --cuda-graph-sizes 1 2 4 8"),
        ("vllm-0.18", {"cudagraph_mode": "PIECEWISE"}, '\'{"cudagraph_mode": "PIECEWISE"}\''),
        ("vllm-0.10", {"cudagraph_mode": "FULL_DECODE_ONLY"}, '\'{"cudagraph_mode": "FULL_DECODE_ONLY"}\''),
        ("sglang-0.5", {"max_cudagraph_capture_size": 64}, " --cuda-graph-max-bs 64"),
    ],
)
def test_the_command_states_them(engine: str, stated: dict[str, Any], told: str) -> None:
    """Flags of that version carry what is stated, and the limits of the result repeat it."""
    serving = serving_of(engine=engine, **stated)
    start = start_of(serving, "tp2", _CHAT)
    assert told in "\n".join(launch_lines(serving, start))
    assert stated.items() <= limits_facts(start).items()
    assert not stated.keys() & limits_facts(start_of(serving_of(engine=engine), "tp2", _CHAT)).keys()


def test_steps_up_to_the_stated_size_do_not_wait_for_launches() -> None:
    """A step of 1,024 tokens of a small model is shorter as a graph than the host starts its kernels."""
    own, large = (
        start_of(serving_of(engine="vllm-0.18", **stated), "tp8", _CHAT).compiled.tables()
        for stated in ({}, {"max_cudagraph_capture_size": 2048})
    )
    assert (own.padded_mixed, large.padded_mixed) == (512, 2048)
    assert large.token_mixed_ps[0, 1024] < 0.7 * own.token_mixed_ps[0, 1024]
    assert (large.token_decode_ps[0, :513] == own.token_decode_ps[0, :513]).all()


def test_steps_with_prompts_run_without_a_graph_where_the_mode_says_so() -> None:
    """FULL_DECODE_ONLY leaves steps of decodes as they are; steps with prompts last as long as their launches."""
    own, decodes = (
        start_of(serving_of(engine="vllm-0.18", **stated), "tp8", _CHAT).compiled
        for stated in ({}, {"cudagraph_mode": "FULL_DECODE_ONLY"})
    )
    floor_ps = own.stages[0].launches * own.profile.host.launch_s * 1e12
    assert decodes.tables().token_mixed_ps[0, 64] == pytest.approx(floor_ps)
    assert (decodes.tables().token_decode_ps == own.tables().token_decode_ps).all()


@pytest.mark.parametrize(
    ("engine", "stated", "said"),
    [
        ("orca", {"max_cudagraph_capture_size": 8}, "--max-cudagraph-capture-size cannot act: orca captures no graphs"),
        ("orca", {"cudagraph_mode": "PIECEWISE"}, "--cudagraph-mode cannot act: orca captures no graphs"),
        ("vllm-0.6", {"cudagraph_mode": "PIECEWISE"}, "vllm-0.6 captures a fixed list of sizes in one mode"),
        ("sglang-0.5", {"cudagraph_mode": "PIECEWISE"}, "names modes of vLLM, sglang-0.5 has none of them"),
        (
            "vllm-0.33",
            {"cudagraph_mode": "PIECEWISE", "enforce_eager": True},
            "--enforce-eager says that no graphs are captured, --cudagraph-mode says which",
        ),
    ],
)
def test_what_an_engine_cannot_be_told_is_refused(engine: str, stated: dict[str, Any], said: str) -> None:
    """Nothing that is stated is left without effect."""
    with pytest.raises(UserError, match=said) as refused:
        serving_of(engine=engine, **stated).start(parse_plan("tp1"), _CHAT)
    assert refused.value.hint
