"""Readers of Hugging Face architectures, one file per family; importing this package registers them."""

from simulator.model.families import (
    classic,
    cohere,
    deepseek,
    encoder_decoder,
    gemma,
    gemma4,
    gpt_oss,
    llama,
    llama4,
    minimax_m3,
    mixture,
    multimodal_text,
    qwen_hybrid,
    routed,
    state_space,
    vision,
)

__all__ = [
    "classic",
    "cohere",
    "deepseek",
    "encoder_decoder",
    "gemma",
    "gemma4",
    "gpt_oss",
    "llama",
    "llama4",
    "minimax_m3",
    "mixture",
    "multimodal_text",
    "qwen_hybrid",
    "routed",
    "state_space",
    "vision",
]
