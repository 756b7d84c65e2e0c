"""How much an engine lets the encoder of images and audio do in a step, and what it keeps memory for."""

from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.model.spec import ModelSpec
from simulator.workload.parts import Traffic


def encoder_budget(profile: EngineProfile, model: ModelSpec, workload: Traffic, max_num_batched_tokens: int) -> int:
    """Rows the encoder hands over in one step at most, which its cache holds too; 0 = as many as chunks reach.

    vLLM's V1 engine takes the larger of its tokens per step and the largest item (``compute_mm_encoder_budget``).
    SGLang, TensorRT-LLM and vLLM's V0 engine have none.
    """
    if profile.engine != "vllm" or profile.policy != "vllm-v1":
        return 0
    largest = largest_rows(model, workload)
    return max(max_num_batched_tokens, largest) if largest else 0


def largest_rows(model: ModelSpec, workload: Traffic) -> int:
    """Rows of the largest item the model takes; 0 where requests have none."""
    items = workload.items
    if items is None or model.encoder is None:
        return 0
    rule = model.encoder.rule
    return int(items.embeds.max()) if rule is None else rule.largest.embeds


def kept_rows(profile: EngineProfile, model: ModelSpec, workload: Traffic, max_num_batched_tokens: int) -> int:
    """Rows that memory is set aside for: those of the budget, without one those of the largest item."""
    return encoder_budget(profile, model, workload, max_num_batched_tokens) or largest_rows(model, workload)
