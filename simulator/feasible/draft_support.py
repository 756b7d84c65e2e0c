"""Which engine starts drafts of speculative decoding with which layout."""

from typing import Final

from simulator.feasible.server_setup import ServerSetup
from simulator.plan.plan import Plan

# Said of the drafts that can be stated: looked up in the text, or of a draft model.
_IN_PIPELINES: Final = {
    # The draft model is verified against the degrees of the target (vllm/config/speculative.py) and needs SupportsPP,
    # which heads and draft models lack; what is accepted does not reach the other stages. Pull 50514 is EAGLE-3 alone.
    "vllm": "vllm starts no drafts with pipeline stages, but for EAGLE-3's heads",
    # server_args.py: a speculative algorithm beside pp_size above 1 only in the prefill pool of two.
    "sglang": "sglang starts no drafts with pipeline stages",
    # PyExecutor._executor_loop_pp calls no drafter.
    "tensorrt-llm": "tensorrt-llm runs neither a draft model nor looked-up drafts with pipeline stages",
}


def draft_refusal(setup: ServerSetup, plan: Plan) -> str | None:
    """Why the engine does not start the drafts that are asked for on a plan; None if it does.

    TensorRT-LLM runs heads of the model inside its last stage.
    """
    if not setup.overrides.speculative_tokens or plan.pp == 1:
        return None
    engine = setup.profile.engine
    if engine == "tensorrt-llm" and setup.draft_method == "mtp":
        return None
    return _IN_PIPELINES.get(engine, f"{engine} is not known to start drafts with pipeline stages")
