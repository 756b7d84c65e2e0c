"""MiniMax-M3: grouped attention over the blocks of keys an indexer chooses, experts beside a shared one.

The first layers see everything and are dense, as ``sparse_attention_config`` and ``moe_layer_freq`` (or ``layer_types``
and ``mlp_layer_types``) say. Source: vLLM ``models/minimax_m3`` and the classes of `transformers`.
"""

from dataclasses import replace

from simulator.model.architectures import architecture
from simulator.model.block import Block
from simulator.model.cell import Cell
from simulator.model.cells.block_indexer import BlockIndexer
from simulator.model.cells.mlp import Mlp
from simulator.model.cells.moe import MixtureOfExperts
from simulator.model.decoder import Decoder
from simulator.model.hf_config import HfConfig
from simulator.model.spec import ModelSpec

_FULL, _SPARSE = "full_attention", "minimax_m3_sparse"


@architecture("minimax_m3_text", "minimax_m3_vl_text")
def read_minimax_m3(config: HfConfig, name: str) -> ModelSpec:
    """Read the text decoder; a layer that nothing is said of sees everything and holds experts."""
    config.refuse("attention_output_gate", because="a gate on its attention is not modelled")
    decoder = Decoder.read(config)
    index = config.section("sparse_attention_config") or config
    sees_few = _named(decoder, "layer_types", (_FULL, _SPARSE)) or _flagged(decoder, index, "sparse_attention_freq")
    if not index.flag("use_sparse_attention", default=True) or not sees_few:
        sees_few = (False,) * decoder.num_layers
    has_experts = _named(decoder, "mlp_layer_types", ("dense", "sparse")) or _flagged(decoder, config, "moe_layer_freq")
    has_experts = has_experts or (True,) * decoder.num_layers
    has_norm = config.flag("use_qk_norm", default=True)

    def block(layer: int) -> Block:
        attention = replace(decoder.attention(layer), qk_norm="head" if has_norm else "none")
        cells: list[Cell] = [attention]
        if sees_few[layer]:
            size = index.first_integer("sparse_block_size", "index_block_size", default=128)
            blocks = index.first_integer("sparse_topk_blocks", "index_topk_blocks", default=16)
            cells = [_indexer(decoder, index, layer), replace(attention, chosen_keys=size * blocks)]
        if has_experts[layer]:
            return Block(cells=(*cells, _experts(decoder, layer)))
        width = config.integer("dense_intermediate_size", decoder.inter)
        dense = decoder.feed_forward(f"model.layers.{layer}.mlp", width)
        return Block(cells=(*cells, Mlp(feed_forward=dense, norm=decoder.norm)))

    return decoder.assemble(name, block)


def _named(decoder: Decoder, key: str, kinds: tuple[str, str]) -> tuple[bool, ...]:
    """Return for every layer whether it is of the second kind, empty where the config does not say."""
    types = decoder.config.strings(key)
    if types and (len(types) != decoder.num_layers or set(types) - set(kinds)):
        must = f"a list of num_hidden_layers = {decoder.num_layers} names, {' or '.join(kinds)}"
        raise decoder.config.fault(key, must)
    return tuple(kind == kinds[1] for kind in types)


def _flagged(decoder: Decoder, section: HfConfig, key: str) -> tuple[bool, ...]:
    """Read one 0 or 1 per layer, empty where the section does not say."""
    flags = section.integers(key)
    if flags and (len(flags) != decoder.num_layers or set(flags) - {0, 1}):
        raise section.fault(key, f"a list of num_hidden_layers = {decoder.num_layers} flags, 0 or 1")
    return tuple(map(bool, flags))


def _indexer(decoder: Decoder, index: HfConfig, layer: int) -> BlockIndexer:
    return BlockIndexer(
        hidden=decoder.hidden,
        num_heads=index.first_integer("sparse_num_index_heads", "index_n_heads", default=4),
        head_dim=index.first_integer("sparse_index_dim", "index_head_dim", default=128),
        dtype=decoder.dtype,
        weights=decoder.quantisation.of(f"model.layers.{layer}.self_attn.index_q_proj"),
    )


def _experts(decoder: Decoder, layer: int) -> MixtureOfExperts:
    config = decoder.config
    experts, topk = config.integer("num_local_experts"), config.integer("num_experts_per_tok")
    if topk > experts:
        raise config.fault("num_experts_per_tok", f"at most num_local_experts = {experts}")
    shared = config.integer(
        "shared_intermediate_size", config.integer("n_shared_experts", 1, least=0) * decoder.inter, least=0
    )
    prefix = f"model.layers.{layer}.mlp"
    return MixtureOfExperts(
        hidden=decoder.hidden,
        inter=decoder.inter,
        num_experts=experts,
        topk=topk,
        dtype=decoder.dtype,
        weights=decoder.quantisation.of(f"{prefix}.experts"),
        norm=decoder.norm,
        router_dtype="fp32",
        correction_bias=config.flag("use_routing_bias", default=True),
        shared=decoder.feed_forward(f"{prefix}.shared_experts", shared) if shared else None,
    )
