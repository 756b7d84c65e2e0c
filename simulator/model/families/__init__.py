"""Readers of Hugging Face architectures, one file per family; importing this package registers them."""

from simulator.model.families import (
    classic,
    cohere,
    deepseek,
    encoder_decoder,
    gemma,
    gpt_oss,
    llama,
    llama4,
    mixture,
    multimodal_text,
    qwen_hybrid,
    vision,
)

__all__ = [
    "classic",
    "cohere",
    "deepseek",
    "encoder_decoder",
    "gemma",
    "gpt_oss",
    "llama",
    "llama4",
    "mixture",
    "multimodal_text",
    "qwen_hybrid",
    "vision",
]
