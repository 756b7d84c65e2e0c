"""How long an engine holds prompts back while sequences decode: its profile's default, or what a user states."""

from typing import Final

from cluster_specs.errors import UserError
from simulator.engine_profiles.engine_profile import PromptWaiting
from simulator.feasible.server_setup import ServerSetup
from simulator.plan.plan import Plan

_SETTINGS: Final = (
    "batch_wait_timeout_iters",
    "batch_wait_max_tokens_ratio",
    "attention_dp_timeout_iters",
    "attention_dp_batching_wait_iters",
)
_NONE: Final = PromptWaiting.trusted({"source": "this engine starts prompts at once"})


def prompt_waiting(setup: ServerSetup, *, is_chunked: bool) -> PromptWaiting:
    """Return the engine's waiting with what the user states laid over it; raises ``UserError``."""
    stated = {name: value for name in _SETTINGS if (value := getattr(setup.overrides, name)) is not None}
    profile = setup.profile
    if stated and profile.waiting is None:
        raise UserError(
            f"{' and '.join(stated)} cannot act: {profile.name} starts prompts at once, whatever decodes",
            hint="these are settings of TensorRT-LLM: --engine tensorrt-llm-1.0",
        )
    waiting = (profile.waiting or _NONE).model_copy(update=stated)
    _check(waiting)
    if is_chunked and (holds_batches(waiting) or waiting.attention_dp_timeout_iters):
        raise UserError(
            "prompts that wait for one another are not simulated together with chunked prefill",
            hint="pass --no-chunked-prefill, or leave the waiting out",
        )
    return waiting


def holds_batches(waiting: PromptWaiting) -> bool:
    """Whether prompts wait for company without attention data parallelism."""
    return waiting.batch_wait_timeout_iters > 0


def waiting_refusal(setup: ServerSetup, plan: Plan) -> str | None:
    """Why the engine's waiting is not simulated for a plan; None where it is, or where nobody waits."""
    waiting = prompt_waiting(setup, is_chunked=False)
    if holds_batches(waiting) and plan.attention_dp == 1 and (plan.pp > 1 or setup.overrides.speculative_tokens):
        return "prompts that wait for company are simulated without pipeline stages and speculative decoding only"
    waits_for_ranks = plan.attention_dp > 1 and waiting.attention_dp_timeout_iters > 0
    if waits_for_ranks and (plan.pp > 1 or setup.overrides.speculative_tokens):
        return "ranks that wait for one another's prompts are simulated without pipeline stages and drafts only"
    return None


def _check(waiting: PromptWaiting) -> None:
    """Refuse one half of a setting that needs both."""
    if (waiting.batch_wait_timeout_iters > 0) != (waiting.batch_wait_max_tokens_ratio > 0):
        raise UserError(
            f"batch_wait_timeout_iters is {waiting.batch_wait_timeout_iters} and batch_wait_max_tokens_ratio "
            f"{waiting.batch_wait_max_tokens_ratio:g}: neither acts without the other",
            hint="state both above zero, or none",
        )
    if waiting.attention_dp_batching_wait_iters > 0 and waiting.attention_dp_timeout_iters == 0:
        raise UserError(
            f"attention_dp_batching_wait_iters is {waiting.attention_dp_batching_wait_iters}, but ranks do not wait "
            "for one another's prompts",
            hint="state attention_dp_timeout_iters as well",
        )
