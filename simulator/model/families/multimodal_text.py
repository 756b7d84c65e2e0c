"""The text decoder of multimodal checkpoints, for example Qwen3-VL, Mistral Small 3 and Gemma 4.

Engines can leave the towers out of memory for requests of text (vLLM ``--language-model-only``): they are no part of
the model then, and answers say so. Towers that can be read serve images or audio (``ModelSpec.with_tower``).
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from cluster_specs.lazy_dataclass import dataclass
from simulator.model.architectures import architecture, from_hf_config
from simulator.model.encoder import Encoder
from simulator.model.families.encoder_decoder import qwen2_audio_tower
from simulator.model.families.pixtral_vision import mistral3_tower
from simulator.model.families.qwen_vision import QWEN2_5_VL, QWEN2_VL, QWEN3_VL, qwen_tower
from simulator.model.hf_config import HfConfig
from simulator.model.spec import ModelSpec

TowerReader = Callable[[HfConfig, ModelSpec], Encoder | None]  # of the wrapper's config and its decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapper:
    """How a multimodal config holds its text decoder: ``decoder`` is the inner ``model_type`` where none is stated."""

    decoder: str
    section: str = "text_config"
    may_be_flat: bool = False  # older files have the decoder's keys at the top level
    towers: tuple[str, ...] = ("vision tower",)
    read_tower: TowerReader | None = None


_THINKER: Final = "thinker_config"  # itself a wrapper, beside the parts that speak
_QWEN3: Final = partial(qwen_tower, QWEN3_VL)
_BOTH: Final = ("vision tower", "audio tower")
WRAPPERS: Final[Mapping[str, Wrapper]] = {
    "aya_vision": Wrapper(decoder="cohere2"),
    "cohere2_vision": Wrapper(decoder="cohere2"),
    "deepseek_vl_v2": Wrapper(decoder="deepseek_v2", section="language_config"),
    "gemma4": Wrapper(decoder="gemma4_text", towers=_BOTH),
    "glm4v": Wrapper(decoder="glm4v_text"),
    "glm4v_moe": Wrapper(decoder="glm4v_moe_text"),
    "idefics3": Wrapper(decoder="llama"),
    "internvl": Wrapper(decoder="qwen2"),
    "internvl_chat": Wrapper(decoder="qwen2", section="llm_config"),
    "kimi_k25": Wrapper(decoder="kimi_k2"),
    "kimi_vl": Wrapper(decoder="deepseek_v3"),
    "llava_next": Wrapper(decoder="llama"),
    "llava_onevision": Wrapper(decoder="qwen2"),
    "minimax_m3": Wrapper(decoder="minimax_m3_text"),
    "minimax_m3_vl": Wrapper(decoder="minimax_m3_vl_text"),
    "mistral3": Wrapper(decoder="mistral", read_tower=mistral3_tower),
    "paligemma": Wrapper(decoder="gemma"),
    "qwen2_5_vl": Wrapper(decoder="qwen2_5_vl_text", may_be_flat=True, read_tower=partial(qwen_tower, QWEN2_5_VL)),
    "qwen2_5_omni": Wrapper(decoder="qwen2_5_omni_thinker", section=_THINKER, towers=_BOTH),
    "qwen2_5_omni_thinker": Wrapper(decoder="qwen2", towers=_BOTH),
    "qwen2_audio": Wrapper(decoder="qwen2", towers=("audio tower",), read_tower=qwen2_audio_tower),
    "qwen2_vl": Wrapper(decoder="qwen2_vl_text", may_be_flat=True, read_tower=partial(qwen_tower, QWEN2_VL)),
    "qwen3_5": Wrapper(decoder="qwen3_5_text", read_tower=_QWEN3),
    "qwen3_5_moe": Wrapper(decoder="qwen3_5_moe_text", read_tower=_QWEN3),
    "qwen3_omni_moe": Wrapper(decoder="qwen3_omni_moe_thinker", section=_THINKER, towers=_BOTH),
    "qwen3_omni_moe_thinker": Wrapper(decoder="qwen3_omni_moe_text", towers=_BOTH),
    "qwen3_vl": Wrapper(decoder="qwen3_vl_text", read_tower=_QWEN3),
    "qwen3_vl_moe": Wrapper(decoder="qwen3_vl_moe_text", read_tower=_QWEN3),
    "smolvlm": Wrapper(decoder="llama"),
    "step3_vl": Wrapper(decoder="step3_text"),
    "step3p7": Wrapper(decoder="step3p5"),
}
# Keys of the wrapper that its text decoder takes over where it has none of its own.
_INHERITED: Final = ("quantization_config", "tie_word_embeddings", "torch_dtype", "dtype")


@architecture(*WRAPPERS)
def read_text_decoder(config: HfConfig, name: str) -> ModelSpec:
    """Read the section that holds the text decoder, whose ``model_type`` names it."""
    wrapper = WRAPPERS[config.text("model_type")]
    named = {key: config.raw(key) for key in _INHERITED if key in config}
    text = nested_decoder(config, wrapper.section, wrapper.decoder, named)
    if text is None and wrapper.may_be_flat:
        text = config.with_values({"model_type": wrapper.decoder})
    if text is None:
        raise config.fault(wrapper.section, "an object with the text decoder's keys")
    if text.text("model_type") in WRAPPERS and wrapper.section != _THINKER:
        raise text.fault("model_type", "that of a text decoder")
    decoder = from_hf_config(text, name=name)
    tower = None if wrapper.read_tower is None else wrapper.read_tower(config, decoder)
    return replace(decoder, architecture=config.text("model_type"), left_out=wrapper.towers, tower=tower)


def nested_decoder(
    config: HfConfig, section: str, decoder: str, inherited: Mapping[str, Any] | None = None
) -> HfConfig | None:
    """Return a nested decoder's config with what its class assumes for the keys it leaves out; None when absent.

    Hugging Face writes a nested config without the keys that equal its class's defaults. ``inherited`` are values of
    the outer config, ``decoder`` the ``model_type`` where the section states none.
    """
    named = {**(inherited or {}), "model_type": decoder}
    stated = config.section(section, named)
    if stated is None:
        return None
    return config.section(section, {**class_defaults(stated.text("model_type")), **named})


def class_defaults(model_type: str) -> dict[str, Any]:
    """Sizes that the config class of a ``model_type`` assumes, empty for types that are never nested."""
    text = (Path(__file__).parent / "class_defaults.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text).get(model_type, {})
    return table
