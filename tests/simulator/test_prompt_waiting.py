"""Settings of how prompts wait act, or are refused with the reason."""

from typing import Any

import pytest

from cluster_specs.errors import UserError
from simulator.plan.plan import parse_plan
from simulator.serving import Refusal
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of, start_of

_BOTH: dict[str, Any] = {"batch_wait_timeout_iters": 20, "batch_wait_max_tokens_ratio": 0.9}
_TRACE = "synthetic:isl=100,osl=10,rate=10,n=5"


@pytest.mark.parametrize(
    ("engine", "stated", "word"),
    [
        ("vllm-0.33", _BOTH, "vllm-0.33 starts prompts at once"),
        ("sglang-0.5", {"attention_dp_timeout_iters": 3}, "attention_dp_timeout_iters cannot act"),
        ("tensorrt-llm-1.0", {"batch_wait_timeout_iters": 20}, "neither acts without the other"),
        ("tensorrt-llm-1.0", {"batch_wait_max_tokens_ratio": 0.5}, "neither acts without the other"),
        ("tensorrt-llm-1.0", {"attention_dp_batching_wait_iters": 5}, "ranks do not wait"),
        ("tensorrt-llm-1.0", {**_BOTH, "enable_chunked_prefill": True}, "together with chunked prefill"),
    ],
)
def test_what_cannot_act_is_refused(engine: str, stated: dict[str, Any], word: str) -> None:
    """Another engine, half a setting, or a setting beside chunks."""
    with pytest.raises(UserError, match=word):
        start_of(serving_of("llama-3.1-8b", "h100-sxm-2", engine, **stated), "tp2", parse_workload(_TRACE))


def test_a_plan_the_waiting_is_not_modelled_for_is_refused() -> None:
    """Pipeline stages refuse, other plans of the same search start."""
    serving = serving_of("llama-3.1-8b", "h100-sxm-2", "tensorrt-llm-1.0", **_BOTH)
    refused = serving.start(parse_plan("pp2"), parse_workload(_TRACE))
    assert isinstance(refused, Refusal)
    assert "without pipeline stages" in refused.reason
    limits = start_of(serving, "tp2", parse_workload(_TRACE)).limits
    assert (limits.batch_wait_iters, limits.batch_wait_tokens, limits.ranks_wait_iters) == (20, 7373, 0)


def test_ranks_wait_by_a_rule_of_their_own() -> None:
    """With attention data parallelism the other setting is left out, as in the engine; the least busy rank is next."""
    stated = {**_BOTH, "attention_dp_timeout_iters": 50, "attention_dp_batching_wait_iters": 10}
    serving = serving_of("deepseek-v3", "h200-sxm-8", "tensorrt-llm-1.0", **stated)
    start = start_of(serving, "attn.dp8-moe.ep8", parse_workload(_TRACE))
    assert (start.limits.batch_wait_iters, start.limits.ranks_wait_iters) == (0, 50)
    assert (start.limits.ranks_batching_iters, start.router) == (10, "least_outstanding")
