"""Qwen3-Next and Qwen3.5: three layers of linear attention to one of full, gated attention; dense or with experts."""

from dataclasses import replace

from simulator.model.architectures import architecture
from simulator.model.block import Block
from simulator.model.cells.attention import SelfAttention
from simulator.model.cells.gated_delta import GatedDelta
from simulator.model.decoder import Decoder
from simulator.model.families.mixture import experts_of
from simulator.model.hf_config import HfConfig
from simulator.model.spec import ModelSpec

_KINDS = ("linear_attention", "full_attention")


@architecture("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", reads=["attn_output_gate", "linear_num_key_heads"])
def read_hybrid(config: HfConfig, name: str) -> ModelSpec:
    """``layer_types`` says which layers are linear, else every ``full_attention_interval``-th is not."""
    decoder = Decoder.read(config)
    kinds = _layer_kinds(config, decoder.num_layers)
    is_sparse = "num_experts" in config
    dense = set(config.integers("mlp_only_layers"))

    def block(layer: int) -> Block:
        token_mixer = _linear(decoder, layer) if kinds[layer] == _KINDS[0] else _full(decoder, layer)
        channel_mixer = experts_of(decoder, layer) if is_sparse and layer not in dense else decoder.mlp(layer)
        return Block(cells=(token_mixer, channel_mixer))

    return decoder.assemble(name, block)


def _layer_kinds(config: HfConfig, num_layers: int) -> tuple[str, ...]:
    kinds = config.strings("layer_types")
    if not kinds:
        interval = config.integer("full_attention_interval", 4)
        return tuple(_KINDS[(layer + 1) % interval == 0] for layer in range(num_layers))
    if len(kinds) != num_layers or set(kinds) - set(_KINDS):
        raise config.fault("layer_types", f"a list of num_hidden_layers = {num_layers} names, {' or '.join(_KINDS)}")
    return kinds


def _full(decoder: Decoder, layer: int) -> SelfAttention:
    gated = decoder.config.flag("attn_output_gate", default=True)
    return replace(decoder.attention(layer), qk_norm="head", output_gate=gated)


def _linear(decoder: Decoder, layer: int) -> GatedDelta:
    config = decoder.config
    return GatedDelta(
        hidden=decoder.hidden,
        num_key_heads=config.integer("linear_num_key_heads"),
        num_value_heads=config.integer("linear_num_value_heads"),
        key_head_dim=config.integer("linear_key_head_dim"),
        value_head_dim=config.integer("linear_value_head_dim"),
        conv_kernel=config.integer("linear_conv_kernel_dim"),
        dtype=decoder.dtype,
        weights=decoder.quantisation.matrix(f"model.layers.{layer}.linear_attn", "in_proj_qkvz"),
        output_weights=decoder.quantisation.matrix(f"model.layers.{layer}.linear_attn", "out_proj"),
        norm=decoder.norm,
    )
