"""Readers of Hugging Face architectures, one file per family; importing this package registers them."""

from simulator.model.families import deepseek, gemma, gpt_oss, llama, mixture

__all__ = ["deepseek", "gemma", "gpt_oss", "llama", "mixture"]
