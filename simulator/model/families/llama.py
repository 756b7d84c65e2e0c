"""Dense decoders of Llama's kind: grouped attention, then a feed-forward; a table says in what each differs.

A layer with a norm behind each sublayer and none before (OLMo 2, EXAONE 4) has as many norms of the same width and
costs the same. What multiplies embeddings, residuals or logits by a constant counts as nothing.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

from simulator.model.architectures import architecture
from simulator.model.block import Block
from simulator.model.decoder import Decoder, layer_windows
from simulator.model.hf_config import HfConfig
from simulator.model.spec import ModelSpec

Bias = bool | tuple[str, bool]  # always so, or the key that says so and what its absence means
_ATTENTION: Final = ("attention_bias", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """In what a model type differs from Llama."""

    qkv_bias: Bias = _ATTENTION
    output_bias: Bias = _ATTENTION
    mlp_bias: Bias = ("mlp_bias", False)
    qk_norm: Literal["none", "head", "layer"] = "none"
    uses_window: bool = True  # where a window is stated and ``use_sliding_window`` is not


_QWEN2: Final = Traits(qkv_bias=True, output_bias=False, uses_window=False)
_QWEN3: Final = Traits(qk_norm="head", uses_window=False)
_TRAITS: Final[dict[str, Traits]] = {
    "llama": Traits(),
    "mistral": Traits(),
    "ministral": Traits(),
    "ministral3": Traits(),
    "phi3": Traits(),
    "granite": Traits(),
    "internlm2": Traits(qkv_bias=("bias", False), output_bias=("bias", False)),
    "qwen2": _QWEN2,
    "qwen2_vl_text": _QWEN2,
    "qwen2_5_vl_text": _QWEN2,
    "qwen3": _QWEN3,
    "qwen3_vl_text": _QWEN3,
}


@architecture(*_TRAITS)
def read_llama(config: HfConfig, name: str) -> ModelSpec:
    """Every layer alike, but for windows."""
    traits = _TRAITS[config.text("model_type")]
    decoder = Decoder.read(config)
    for key in ("num_local_experts", "num_experts", "n_routed_experts"):
        config.refuse(key, because="this architecture is dense", hint="is model_type right?")
    qkv_bias, output_bias = _bias(config, traits.qkv_bias), _bias(config, traits.output_bias)
    mlp_bias = _bias(config, traits.mlp_bias)
    windows = layer_windows(config, decoder.num_layers, use_default=traits.uses_window)

    def block(layer: int) -> Block:
        attention = replace(
            decoder.attention(layer),
            window=windows[layer],
            qkv_bias=qkv_bias,
            output_bias=output_bias,
            qk_norm=traits.qk_norm,
        )
        return Block(cells=(attention, decoder.mlp(layer, bias=mlp_bias)))

    return decoder.assemble(name, block)


def _bias(config: HfConfig, bias: Bias) -> bool:
    return bias if isinstance(bias, bool) else config.flag(bias[0], default=bias[1])
