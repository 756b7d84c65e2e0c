"""How much an engine lets the encoder of images and audio do in a step, and what it keeps memory for."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Literal

from cluster_specs.errors import UserError
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.model.spec import ModelSpec
from simulator.workload.parts import Traffic

EncoderMode = Literal["weights", "data"]
# Towers whose items an engine can spread over its tensor ranks: vLLM's ``supports_encoder_tp_data``, SGLang's page on
# DP for multi-modal encoders.
_SPREAD: Final[Mapping[str, frozenset[str]]] = {
    "vllm": frozenset({"llama4", "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_vl_moe"}),
    "sglang": frozenset({"qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"}),
}


def with_encoder_mode(model: ModelSpec, profile: EngineProfile, mode: EncoderMode | None) -> ModelSpec:
    """Return the model with its encoder cut over the tensor ranks, or with whole items spread over them (``data``).

    Raises ``UserError`` for a mode that cannot act, or that the engine does not have for the model.
    """
    if mode is None:
        return model
    option = f"--mm-encoder-tp-mode {mode}"
    if model.encoder is None:
        raise UserError(f"{option} cannot act: no encoder runs for these requests", hint="leave it out")
    if mode == "weights":
        return model
    if model.architecture not in _SPREAD.get(profile.engine, frozenset()):
        known = ", ".join(sorted(_SPREAD.get(profile.engine, ()))) or "none"
        raise UserError(
            f"{option}: {profile.name} does not spread images of {model.architecture} models over tensor ranks",
            hint=f"architectures of which it does: {known}",
        )
    return replace(model, encoder=replace(model.encoder, is_spread=True))


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
