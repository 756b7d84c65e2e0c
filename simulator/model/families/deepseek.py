"""DeepSeek-V2, V3 and R1: latent attention, first layers dense, then routed experts beside shared ones."""

from simulator.model.architectures import architecture
from simulator.model.block import Block
from simulator.model.cells.latent_attention import LatentAttention
from simulator.model.cells.moe import MixtureOfExperts
from simulator.model.decoder import Decoder
from simulator.model.hf_config import HfConfig
from simulator.model.spec import ModelSpec


@architecture("deepseek_v2", "deepseek_v3", "kimi_k2")
def read_deepseek(config: HfConfig, name: str) -> ModelSpec:
    """``q_lora_rank`` null projects queries directly; multi-token-prediction layers are not part of the model."""
    decoder = Decoder.read(config)
    dense = config.integer("first_k_dense_replace", 0, least=0)
    every = config.integer("moe_layer_freq", 1)
    if dense > decoder.num_layers:
        raise config.fault("first_k_dense_replace", f"at most num_hidden_layers = {decoder.num_layers}")

    def block(layer: int) -> Block:
        attention = LatentAttention(
            hidden=decoder.hidden,
            num_heads=decoder.num_heads,
            q_lora_rank=config.integer("q_lora_rank", 0),
            kv_lora_rank=config.integer("kv_lora_rank"),
            qk_nope_head_dim=config.integer("qk_nope_head_dim"),
            qk_rope_head_dim=config.integer("qk_rope_head_dim"),
            v_head_dim=config.integer("v_head_dim"),
            dtype=decoder.dtype,
            weights=decoder.quantisation.of(f"model.layers.{layer}.self_attn"),
            norm=decoder.norm,
        )
        if layer < dense or layer % every:
            return Block(cells=(attention, decoder.mlp(layer)))
        return Block(cells=(attention, _experts(decoder, layer)))

    return decoder.assemble(name, block)


def _experts(decoder: Decoder, layer: int) -> MixtureOfExperts:
    config = decoder.config
    experts, topk = config.integer("n_routed_experts"), config.integer("num_experts_per_tok")
    if topk > experts:
        raise config.fault("num_experts_per_tok", f"at most n_routed_experts = {experts}")
    prefix = f"model.layers.{layer}.mlp"
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
        correction_bias=config.text("topk_method", "greedy") == "noaux_tc",
        shared=decoder.feed_forward(f"{prefix}.shared_experts", shared * inter) if shared else None,
    )
