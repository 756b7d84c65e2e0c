"""Cohere's Command R and Command A: one LayerNorm without shift per layer, attention and MLP side by side on it.

Command A (``cohere2``): three sliding layers with rope to one full layer without positions. The scale on the logits
counts as nothing. Engines add both results before one all-reduce (vLLM ``commandr.py``).
"""

from dataclasses import replace

from simulator.model.architectures import architecture
from simulator.model.block import Block
from simulator.model.decoder import Decoder, layer_windows
from simulator.model.hf_config import HfConfig
from simulator.model.norm import Norm
from simulator.model.spec import ModelSpec


@architecture("cohere", "cohere2")
def read_cohere(config: HfConfig, name: str) -> ModelSpec:
    """``use_qk_norm`` (Command R+) gives every head of q and k a scale of its own; embedding and head are tied."""
    decoder = Decoder.read(config)
    is_second = config.text("model_type") == "cohere2"
    norm = Norm(kind="layernorm", width=decoder.hidden, learned="scale")
    if is_second and "rms_norm_eps" in config:
        norm = Norm(kind="rmsnorm", width=decoder.hidden)
    decoder = replace(decoder, norm=norm)
    windows = layer_windows(config, decoder.num_layers, pattern_default=4) if is_second else (0,) * decoder.num_layers
    bias = config.flag("attention_bias", default=False)
    qk_norm = config.flag("use_qk_norm", default=False)

    def block(layer: int) -> Block:
        attention = replace(
            decoder.attention(layer),
            window=windows[layer],
            has_rope=not is_second or bool(windows[layer]),
            qkv_bias=bias,
            output_bias=bias,
            qk_norm="each_head" if qk_norm else "none",
            is_reduced=False,
        )
        return Block(cells=(attention, decoder.mlp_beside_attention(layer)))

    return decoder.assemble(name, block, tied_default=True)
