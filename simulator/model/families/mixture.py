"""Mixtral, Qwen2-MoE, Qwen3-MoE and MiniMax-M2: grouped attention, and experts in all or some layers.

Engines keep MiniMax-M2's router in fp32 (vLLM ``minimax_m2.py``).
"""

from dataclasses import replace
from typing import Literal

from simulator.model.architectures import architecture
from simulator.model.block import Block
from simulator.model.cells.moe import MixtureOfExperts
from simulator.model.decoder import Decoder, layer_windows
from simulator.model.hf_config import HfConfig
from simulator.model.spec import ModelSpec


@architecture("mixtral", "qwen2_moe", "qwen3_moe", "qwen3_vl_moe_text", "qwen3_omni_moe_text", "minimax_m2")
def read_mixture(config: HfConfig, name: str) -> ModelSpec:
    """Dense layers: ``mlp_only_layers`` and those ``decoder_sparse_step`` leaves out (Qwen)."""
    decoder = Decoder.read(config)
    if 0 in config.integers("attn_type_list"):
        raise config.fault("attn_type_list", "all 1: linear attention layers are not modelled")
    model_type = config.text("model_type")
    windows = layer_windows(config, decoder.num_layers, use_default=not model_type.startswith("qwen"))
    dense = set(config.integers("mlp_only_layers"))
    step = config.integer("decoder_sparse_step", 1)
    qk_norm = _qk_norm(config, model_type)

    def block(layer: int) -> Block:
        attention = replace(
            decoder.attention(layer),
            window=windows[layer],
            qkv_bias=_has_qkv_bias(config, model_type),
            qk_norm=qk_norm,
        )
        if layer in dense or (layer + 1) % step:
            return Block(cells=(attention, decoder.mlp(layer)))
        return Block(cells=(attention, experts_of(decoder, layer)))

    return decoder.assemble(name, block)


def experts_of(decoder: Decoder, layer: int) -> MixtureOfExperts:
    """Return the experts of one layer, with the shared one beside them where there is one."""
    config = decoder.config
    experts = config.first_integer("num_local_experts", "num_experts")
    topk = config.integer("num_experts_per_tok")
    if topk > experts:
        raise config.fault("num_experts_per_tok", f"at most the {experts} experts")
    prefix = f"model.layers.{layer}.mlp"
    shared = config.integer(
        "shared_expert_intermediate_size", config.integer("shared_intermediate_size", 0, least=0), least=0
    )
    return MixtureOfExperts(
        hidden=decoder.hidden,
        inter=config.integer("moe_intermediate_size", decoder.inter),
        num_experts=experts,
        topk=topk,
        dtype=decoder.dtype,
        weights=decoder.quantisation.of(f"{prefix}.experts"),
        norm=decoder.norm,
        router_dtype="fp32" if config.text("model_type") == "minimax_m2" else "",
        correction_bias=config.flag("use_routing_bias", default=False),
        shared=decoder.feed_forward(f"{prefix}.shared_expert", shared) if shared else None,
        shared_gate=bool(shared) and config.text("model_type").startswith("qwen"),
    )


def _qk_norm(config: HfConfig, model_type: str) -> Literal["none", "head", "layer"]:
    if model_type in {"qwen3_moe", "qwen3_vl_moe_text", "qwen3_omni_moe_text"}:
        return "head"
    if model_type != "minimax_m2" or not config.flag("use_qk_norm", default=True):
        return "none"
    kind = config.text("qk_norm_type", "per_layer")
    if kind not in {"per_layer", "per_head"}:
        raise config.fault("qk_norm_type", "per_layer or per_head")
    return "layer" if kind == "per_layer" else "head"


def _has_qkv_bias(config: HfConfig, model_type: str) -> bool:
    return config.flag("attention_bias", default=config.flag("qkv_bias", default=model_type == "qwen2_moe"))
