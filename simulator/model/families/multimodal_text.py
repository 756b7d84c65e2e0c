"""The text decoder of multimodal checkpoints: Qwen3-VL, Qwen3.5 and Kimi-K2.5.

Requests are text, and engines can leave the vision tower out of memory (vLLM ``--language-model-only``): it is not part
of the model here.
"""

from dataclasses import replace
from typing import Final

from simulator.model.architectures import architecture, from_hf_config
from simulator.model.hf_config import HfConfig
from simulator.model.spec import ModelSpec

WITHOUT_TOWER: Final = ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "kimi_k25")
# Keys of the wrapper that its text decoder takes over where it has none of its own.
_INHERITED: Final = ("quantization_config", "tie_word_embeddings", "torch_dtype", "dtype")


@architecture(*WITHOUT_TOWER)
def read_text_decoder(config: HfConfig, name: str) -> ModelSpec:
    """Read ``text_config``, whose ``model_type`` names the decoder."""
    text = config.section("text_config", {key: config.raw(key) for key in _INHERITED if key in config})
    if text is None:
        raise config.fault("text_config", "an object with the text decoder's keys")
    return replace(from_hf_config(text, name=name), architecture=config.text("model_type"))
