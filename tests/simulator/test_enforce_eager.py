"""A server told to capture no graphs: the host starts every kernel, and the command says so."""

import pytest

from cluster_specs.errors import UserError
from simulator.launch import launch_lines
from simulator.plan.plan import parse_plan
from simulator.simulate import limits_facts
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of, start_of

_CHAT = parse_workload("chat-synthetic", limit=20)


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ("vllm-0.33", " --enforce-eager"),
        ("vllm-0.6", " --enforce-eager"),
        ("sglang-0.5", " --disable-cuda-graph"),
        ("tensorrt-llm-1.0", '"cuda_graph_config": null'),
    ],
)
def test_every_engine_is_told_in_its_own_words(engine: str, told: str) -> None:
    """The flag, or the options file, turns graphs off with the option and not without; the limits say which."""
    for is_eager in (False, True):
        serving = serving_of(engine=engine, enforce_eager=is_eager)
        start = start_of(serving, "tp2", _CHAT)
        assert (told in "\n".join(launch_lines(serving, start))) == is_eager
        assert limits_facts(start).get("enforce_eager", False) == is_eager


@pytest.mark.parametrize("engine", ["vllm-0.33", "sglang-0.5", "tensorrt-llm-1.0"])
def test_a_decode_step_lasts_as_long_as_its_launches(engine: str) -> None:
    """Without graphs a small decode step takes its launches and no padding, where a captured one is much shorter."""
    tables = {}
    for is_eager in (False, True):
        compiled = start_of(serving_of(engine=engine, enforce_eager=is_eager), "tp8", _CHAT).compiled
        tables[is_eager] = compiled.tables()
    floor_ps = compiled.stages[0].launches * compiled.profile.host.launch_s * 1e12
    assert tables[True].token_decode_ps[0, 9] == pytest.approx(floor_ps)
    assert tables[False].token_decode_ps[0, 9] < 0.7 * floor_ps
    assert (tables[True].padded_decode, tables[True].padded_mixed) == (0, 0)


def test_memory_that_graphs_would_take_is_left_to_the_cache() -> None:
    """Where an engine sets memory aside for graphs, it sets none aside when it captures none."""
    blocks = [
        start_of(serving_of(engine="vllm-0.33", enforce_eager=is_eager), "tp1", _CHAT).limits.num_gpu_blocks
        for is_eager in (False, True)
    ]
    assert blocks[1] > blocks[0]


def test_an_engine_without_graphs_refuses_the_option() -> None:
    """Told to an engine that captures none, it would have no effect."""
    with pytest.raises(UserError, match="--enforce-eager cannot act: orca captures no graphs"):
        serving_of(engine="orca", enforce_eager=True).start(parse_plan("tp1"), _CHAT)
