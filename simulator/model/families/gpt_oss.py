"""gpt-oss: sliding and full layers in turn, attention sinks, biases everywhere, experts in MXFP4."""

from dataclasses import replace

from simulator.model.architectures import architecture
from simulator.model.block import Block
from simulator.model.cells.moe import MixtureOfExperts
from simulator.model.decoder import Decoder, layer_windows
from simulator.model.hf_config import HfConfig
from simulator.model.spec import ModelSpec


@architecture("gpt_oss")
def read_gpt_oss(config: HfConfig, name: str) -> ModelSpec:
    """Without ``layer_types``, even layers slide and odd ones see everything."""
    decoder = Decoder.read(config)
    windows = layer_windows(config, decoder.num_layers, pattern_default=2)
    experts, topk = (
        config.integer("num_local_experts"),
        config.first_integer("num_experts_per_tok", "experts_per_token"),
    )
    if topk > experts:
        raise config.fault("num_experts_per_tok", f"at most num_local_experts = {experts}")
    bias = config.flag("attention_bias", default=True)

    def block(layer: int) -> Block:
        attention = replace(
            decoder.attention(layer), window=windows[layer], qkv_bias=bias, output_bias=bias, has_sinks=True
        )
        mixture = MixtureOfExperts(
            hidden=decoder.hidden,
            inter=decoder.inter,
            num_experts=experts,
            topk=topk,
            dtype=decoder.dtype,
            weights=decoder.quantisation.of(f"model.layers.{layer}.mlp.experts"),
            norm=decoder.norm,
            router_bias=True,
            expert_bias=True,
        )
        return Block(cells=(attention, mixture))

    return decoder.assemble(name, block)
