"""Llama 2 and 3, Mistral, Yi, Phi-3, Granite, InternLM2, Qwen2, Qwen2.5, Qwen3: grouped attention and a SwiGLU MLP."""

from dataclasses import replace

from simulator.model.architectures import architecture
from simulator.model.block import Block
from simulator.model.decoder import Decoder, layer_windows
from simulator.model.hf_config import HfConfig
from simulator.model.spec import ModelSpec


@architecture("llama", "mistral", "phi3", "granite", "internlm2", "qwen2", "qwen3", "qwen3_vl_text")
def read_llama(config: HfConfig, name: str) -> ModelSpec:
    """Biases: ``attention_bias`` on all four projections (Llama); Qwen2 always on q, k and v; qk-norm: Qwen3."""
    decoder = Decoder.read(config)
    for key in ("num_local_experts", "num_experts", "n_routed_experts"):
        config.refuse(key, because="this architecture is dense", hint="is model_type right?")
    model_type = config.text("model_type")
    # InternLM2 spells it `bias`.
    bias = config.flag("attention_bias", default=config.flag("bias", default=False))
    mlp_bias = config.flag("mlp_bias", default=False)
    windows = layer_windows(config, decoder.num_layers)

    def block(layer: int) -> Block:
        attention = replace(
            decoder.attention(layer),
            window=windows[layer],
            qkv_bias=bias or model_type == "qwen2",
            output_bias=bias,
            qk_norm="head" if model_type in {"qwen3", "qwen3_vl_text"} else "none",
        )
        return Block(cells=(attention, decoder.mlp(layer, bias=mlp_bias)))

    return decoder.assemble(name, block)
