"""The text decoder of multimodal checkpoints, for example Qwen3-VL, Mistral Small 3 and Command A Vision.

Requests are text, and engines can leave the towers out of memory (vLLM ``--language-model-only``): they are not part of
the model here, and answers say so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from simulator.model.architectures import architecture, from_hf_config
from simulator.model.hf_config import HfConfig
from simulator.model.spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapper:
    """How a multimodal config holds its text decoder.

    Hugging Face leaves out of a nested config what equals the defaults of its class: ``defaults`` are those of the
    class that ``decoder``, the inner ``model_type``, names.
    """

    decoder: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    section: str = "text_config"
    may_be_flat: bool = False  # older files have the decoder's keys at the top level
    tower: str = "vision tower"


_MISTRAL: Final = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}
_QWEN2_VL: Final = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
}
_COHERE2: Final = {
    "vocab_size": 256000,
    "hidden_size": 8192,
    "intermediate_size": 22528,
    "num_hidden_layers": 40,
    "num_attention_heads": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
}
_GLM4V: Final = {
    "vocab_size": 151552,
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
}
WRAPPERS: Final[Mapping[str, Wrapper]] = {
    "qwen3_vl": Wrapper(decoder="qwen3_vl_text"),
    "qwen3_vl_moe": Wrapper(decoder="qwen3_vl_moe_text"),
    "qwen3_5": Wrapper(decoder="qwen3_5_text"),
    "qwen3_5_moe": Wrapper(decoder="qwen3_5_moe_text"),
    "kimi_k25": Wrapper(decoder="kimi_k2"),
    "mistral3": Wrapper(decoder="mistral", defaults=_MISTRAL),
    "qwen2_vl": Wrapper(decoder="qwen2_vl_text", defaults=_QWEN2_VL, may_be_flat=True),
    "qwen2_5_vl": Wrapper(decoder="qwen2_5_vl_text", defaults=_QWEN2_VL, may_be_flat=True),
    "cohere2_vision": Wrapper(decoder="cohere2", defaults=_COHERE2),
    "glm4v": Wrapper(decoder="glm4v_text", defaults=_GLM4V),
    "aya_vision": Wrapper(decoder="cohere2", defaults=_COHERE2),
}
# Keys of the wrapper that its text decoder takes over where it has none of its own.
_INHERITED: Final = ("quantization_config", "tie_word_embeddings", "torch_dtype", "dtype")


@architecture(*WRAPPERS)
def read_text_decoder(config: HfConfig, name: str) -> ModelSpec:
    """Read the section that holds the text decoder, whose ``model_type`` names it."""
    wrapper = WRAPPERS[config.text("model_type")]
    named = {key: config.raw(key) for key in _INHERITED if key in config} | {"model_type": wrapper.decoder}
    text = config.section(wrapper.section, named)
    if text is not None and text.text("model_type") == wrapper.decoder:
        text = config.section(wrapper.section, {**wrapper.defaults, **named})
    elif text is None and wrapper.may_be_flat:
        text = config.with_values(named)
    if text is None:
        raise config.fault(wrapper.section, "an object with the text decoder's keys")
    if text.text("model_type") in WRAPPERS:
        raise text.fault("model_type", "that of a text decoder")
    decoder = from_hf_config(text, name=name)
    return replace(decoder, architecture=config.text("model_type"), left_out=(wrapper.tower,))
