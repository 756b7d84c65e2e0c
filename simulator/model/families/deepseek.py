"""DeepSeek-V2, V3, R1, V3.2 and Kimi K2, GLM-4.5 and GLM-5: first layers dense, then routed experts beside shared ones.

DeepSeek's attention is latent; GLM's is grouped and its router fp32 (vLLM ``glm4_moe.py``). Multi-token-prediction
layers are counted apart: they run where they draft (``ModelSpec.with_draft_layer``).
"""

from dataclasses import replace
from typing import Final

from simulator.model.architectures import architecture
from simulator.model.block import Block
from simulator.model.cells.indexer import Indexer
from simulator.model.cells.latent_attention import LatentAttention
from simulator.model.cells.mlp import Mlp
from simulator.model.cells.moe import MixtureOfExperts
from simulator.model.decoder import Decoder
from simulator.model.hf_config import HfConfig
from simulator.model.spec import ModelSpec

# GLM's router always corrects its choice by a learned bias and does not say so in the config.
_TOPK_METHODS: Final = dict.fromkeys(("glm4_moe", "glm4v_moe_text", "glm4_moe_lite"), "noaux_tc")


@architecture("deepseek_v2", "deepseek_v3", "glm4_moe_lite", "kimi_k2")
def read_deepseek(config: HfConfig, name: str) -> ModelSpec:
    """Latent attention in every layer; ``q_lora_rank`` null projects queries directly."""
    decoder = Decoder.read(config)
    spec = decoder.assemble(
        name, lambda layer: Block(cells=(_latent_attention(decoder, layer), _feed_forward(decoder, layer)))
    )
    return _with_draft_layers(spec, config)


@architecture("deepseek_v32", "glm_moe_dsa", reads=["index_topk"])
def read_sparse(config: HfConfig, name: str) -> ModelSpec:
    """Latent attention over the keys an indexer chooses, in every layer."""
    decoder = Decoder.read(config)
    topk = config.integer("index_topk")

    def block(layer: int) -> Block:
        indexer = Indexer(
            hidden=decoder.hidden,
            q_lora_rank=config.integer("q_lora_rank"),
            num_heads=config.integer("index_n_heads"),
            head_dim=config.integer("index_head_dim"),
            rope_head_dim=config.integer("qk_rope_head_dim"),
            dtype=decoder.dtype,
            weights=decoder.quantisation.of(f"model.layers.{layer}.self_attn.indexer"),
        )
        attention = replace(_latent_attention(decoder, layer), index_topk=topk)
        return Block(cells=(indexer, attention, _feed_forward(decoder, layer)))

    return _with_draft_layers(decoder.assemble(name, block), config)


def _with_draft_layers(spec: ModelSpec, config: HfConfig) -> ModelSpec:
    return replace(spec, draft_layers=config.integer("num_nextn_predict_layers", 0, least=0))


def _latent_attention(decoder: Decoder, layer: int) -> LatentAttention:
    config, formats = decoder.config, decoder.quantisation
    module, rank = f"model.layers.{layer}.self_attn", config.integer("q_lora_rank", 0)
    down = ("q_a_proj", "kv_a_proj_with_mqa") if rank else ("kv_a_proj_with_mqa",)
    return LatentAttention(
        hidden=decoder.hidden,
        num_heads=decoder.num_heads,
        q_lora_rank=rank,
        kv_lora_rank=config.integer("kv_lora_rank"),
        qk_nope_head_dim=config.integer("qk_nope_head_dim"),
        qk_rope_head_dim=config.integer("qk_rope_head_dim"),
        v_head_dim=config.integer("v_head_dim"),
        dtype=decoder.dtype,
        weights=formats.matrix(module, *down, fused="fused_qkv_a_proj"),
        norm=decoder.norm,
        query_weights=formats.matrix(module, "q_b_proj" if rank else "q_proj"),
        latent_weights=formats.matrix(module, "kv_b_proj"),
        output_weights=formats.matrix(module, "o_proj"),
    )


@architecture("glm4_moe", "glm4v_moe_text")
def read_glm(config: HfConfig, name: str) -> ModelSpec:
    """Read GLM-4.5: grouped attention with biases on q, k and v, and a norm per head where ``use_qk_norm`` says so."""
    decoder = Decoder.read(config)
    bias = config.flag("attention_bias", default=False)
    has_norm = config.flag("use_qk_norm", default=False)

    def block(layer: int) -> Block:
        attention = replace(decoder.attention(layer), qkv_bias=bias, qk_norm="head" if has_norm else "none")
        return Block(cells=(attention, _feed_forward(decoder, layer)))

    return _with_draft_layers(decoder.assemble(name, block), config)


def _feed_forward(decoder: Decoder, layer: int) -> Mlp | MixtureOfExperts:
    """Dense in the first layers and, with a frequency, in between; experts elsewhere."""
    config = decoder.config
    dense = config.integer("first_k_dense_replace", 0, least=0)
    types = config.strings("mlp_layer_types")
    if types:
        if len(types) < decoder.num_layers or set(types) - {"dense", "sparse"}:
            raise config.fault("mlp_layer_types", f"a list of {decoder.num_layers} names, dense or sparse")
        return _experts(decoder, layer) if types[layer] == "sparse" else decoder.mlp(layer)
    if dense > decoder.num_layers:
        raise config.fault("first_k_dense_replace", f"at most num_hidden_layers = {decoder.num_layers}")
    if layer < dense or layer % config.integer("moe_layer_freq", 1):
        return decoder.mlp(layer)
    return _experts(decoder, layer)


def _experts(decoder: Decoder, layer: int) -> MixtureOfExperts:
    config = decoder.config
    experts, topk = config.integer("n_routed_experts"), config.integer("num_experts_per_tok")
    if topk > experts:
        raise config.fault("num_experts_per_tok", f"at most n_routed_experts = {experts}")
    prefix = f"model.layers.{layer}.mlp"
    method = config.text("topk_method", _TOPK_METHODS.get(config.text("model_type"), "greedy"))
    inter = config.integer("moe_intermediate_size")
    shared = config.integer("n_shared_experts", 0, least=0)
    return MixtureOfExperts(
        hidden=decoder.hidden,
        inter=inter,
        num_experts=experts,
        topk=topk,
        dtype=decoder.dtype,
        weights=decoder.quantisation.of(f"{prefix}.experts"),
        norm=decoder.norm,
        router_dtype="fp32" if config.text("model_type") in _TOPK_METHODS else "",
        correction_bias=method == "noaux_tc",
        shared=decoder.feed_forward(f"{prefix}.shared_experts", shared * inter) if shared else None,
    )
