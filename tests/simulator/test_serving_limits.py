"""The limits a plan starts with: the engine's own for the device, as far as the version takes them."""

from typing import Any

import pytest

from simulator.serving import StartedPlan
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of, start_of

_SHORT = parse_workload("synthetic:isl=200,osl=50,rate=1,n=3")


def _start(model: str, cluster: str, plan: str = "tp1", *, engine: str = "vllm-0.33", **overrides: Any) -> StartedPlan:
    return start_of(serving_of(model, cluster, engine, **overrides), plan, _SHORT)


@pytest.mark.parametrize(
    ("engine", "cluster", "tokens", "seqs"),
    [
        ("vllm-0.33", "a100-sxm-80gb-1", 2048, 256),
        ("vllm-0.33", "h100-sxm-1", 8192, 1024),
        ("vllm-0.18", "b200-1", 8192, 1024),
        ("vllm-0.33", "b200-1", 16384, 1024),
        ("sglang-0.5", "h100-sxm-1", 8192, 2048),
    ],
)
def test_a_plan_starts_with_the_defaults_of_its_device(engine: str, cluster: str, tokens: int, seqs: int) -> None:
    """Unstated limits are those the engine would choose on that device."""
    limits = _start("llama-3.1-8b", cluster, engine=engine).limits
    assert (limits.max_num_batched_tokens, limits.max_num_seqs) == (tokens, seqs)


@pytest.mark.parametrize(("engine", "tokens"), [("vllm-0.11", 8192), ("vllm-0.18", 4096), ("vllm-0.33", 4096)])
def test_no_more_tokens_than_the_sequences_can_have(engine: str, tokens: int) -> None:
    """Later versions take no more tokens per step than max_num_seqs requests of max_model_len have, unless told to."""
    asked = {"max_num_seqs": 4, "max_model_len": 1024}
    assert _start("llama-3.1-8b", "h100-sxm-1", engine=engine, **asked).limits.max_num_batched_tokens == tokens
    told = _start("llama-3.1-8b", "h100-sxm-1", engine=engine, max_num_batched_tokens=6000, **asked)
    assert told.limits.max_num_batched_tokens == 6000


@pytest.mark.parametrize(("cluster", "mebibytes"), [("h100-sxm-2", 256 + 1894), ("l40s-2", 256 + 400)])
def test_communicators_depend_on_the_cluster_s_links(cluster: str, mebibytes: int) -> None:
    """Devices on PCIe alone keep less memory for communicators than those on NVLink."""
    assert _start("llama-3.1-8b", cluster, "tp2").memory.runtime_bytes == mebibytes * 2**20


@pytest.mark.parametrize(
    ("model", "asked", "is_chunked", "tokens"),
    [
        ("llama-3.1-8b", {}, True, 512),
        ("llama-2-7b", {}, False, 2048),  # a context of 4,096
        ("llama-3.1-8b", {"max_model_len": 8192}, False, 8192),
        ("llama-2-7b", {"enable_chunked_prefill": True}, True, 512),
        ("llama-3.1-8b", {"enable_chunked_prefill": False}, False, 2048),
        ("llama-2-7b", {"max_num_batched_tokens": 3000}, False, 3000),
    ],
)
def test_vllm_0_6_chunks_long_contexts_alone(model: str, asked: dict[str, Any], is_chunked: bool, tokens: int) -> None:
    """Its default depends on the context; without chunks a step takes 2,048 tokens, or the longest sequence."""
    limits = _start(model, "h100-sxm-1", engine="vllm-0.6", **asked).limits
    assert (limits.enable_chunked_prefill, limits.max_num_batched_tokens) == (is_chunked, tokens)
