"""Gemma 4: full layers with wider and fewer key/value heads, whose keys are their values where the config says so.

The E models add per-layer inputs, and their last layers read the KV cache of an earlier layer of their kind. The
mixture runs a dense feed-forward and experts side by side, each with norms of its own, and a norm over the sum. Caps on
logits count as nothing. Source: vLLM ``gemma4.py`` and the classes of `transformers`.
"""

from dataclasses import replace

from cluster_specs.lazy_dataclass import dataclass
from simulator.model.architectures import architecture
from simulator.model.block import Block
from simulator.model.cell import Cell
from simulator.model.cells.attention import SelfAttention
from simulator.model.cells.moe import MixtureOfExperts
from simulator.model.cells.per_layer_input import PerLayerInput
from simulator.model.decoder import Decoder, layer_windows
from simulator.model.hf_config import HfConfig
from simulator.model.spec import Embedding, ModelSpec, PerLayerTable


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layers:
    """What differs by layer."""

    windows: tuple[int, ...]
    num_own_kv: int  # layers with a KV cache of their own; the later ones read that of an earlier layer
    heads: tuple[tuple[int, int], ...]  # key/value heads of each layer, and their width
    keys_are_values: bool  # in full layers
    qkv_bias: bool


@architecture("gemma4_text", reads=["num_kv_shared_layers"])
def read_gemma4(config: HfConfig, name: str) -> ModelSpec:
    """Read the text decoder; ``hidden_size_per_layer_input`` absent is 256, as in its class."""
    if config.raw("use_bidirectional_attention") == "all":
        raise config.fault("use_bidirectional_attention", "vision or absent: a decoder sees no later tokens")
    decoder = Decoder.read(config)
    keys_are_values = config.flag("attention_k_eq_v", default=False)
    shared = config.integer("num_kv_shared_layers", 0, least=0)
    if shared >= decoder.num_layers:
        raise config.fault("num_kv_shared_layers", f"less than num_hidden_layers = {decoder.num_layers}")
    windows = layer_windows(config, decoder.num_layers, pattern_default=6)
    layers = _Layers(
        windows=(*windows[:-1], 0),  # the last layer always sees everything
        num_own_kv=decoder.num_layers - shared,
        heads=_kv_heads(decoder, (*windows[:-1], 0), keys_are_values=keys_are_values),
        keys_are_values=keys_are_values,
        qkv_bias=config.flag("attention_bias", default=False),
    )
    narrow = config.integer("hidden_size_per_layer_input", 256, least=0)

    def block(layer: int) -> Block:
        cells: list[Cell] = [_attention(decoder, layers, layer), *_feed_forward(decoder, layers, layer)]
        if narrow:
            cells.append(
                PerLayerInput(
                    hidden=decoder.hidden,
                    width=narrow,
                    dtype=decoder.dtype,
                    weights=decoder.quantisation.of(f"model.layers.{layer}.per_layer_input_gate"),
                    norm=decoder.norm,
                    activation=decoder.activation,
                )
            )
        return Block(cells=tuple(cells))

    model = decoder.assemble(name, block, tied_default=True)
    if not narrow:
        return model
    rows = config.integer("vocab_size_per_layer_input", 262_144)
    table = PerLayerTable(rows=rows, width=narrow, num_layers=decoder.num_layers)
    return replace(model, embedding=Embedding(width=decoder.hidden, per_layer=table))


def _kv_heads(decoder: Decoder, windows: tuple[int, ...], *, keys_are_values: bool) -> tuple[tuple[int, int], ...]:
    """Return key/value heads and width of every layer: full layers differ, or single ones where a table says so."""
    config, plain = decoder.config, (decoder.num_kv_heads, decoder.head_dim)
    table = config.section("per_layer_config")
    if table is None:
        few = config.integer("num_global_key_value_heads", plain[0]) if keys_are_values else plain[0]
        wide = (few, config.integer("global_head_dim", 512))
        return tuple(plain if window else wide for window in windows)
    heads = [plain] * decoder.num_layers
    for key in table.keys():  # noqa: SIM118 - a config is no mapping
        single = table.section(key)
        if single is None or not key.isdecimal() or int(key) >= decoder.num_layers:
            raise table.fault(key, f"the sizes of one of {decoder.num_layers} layers")
        kept = (single.integer("num_key_value_heads", plain[0]), single.integer("head_dim", plain[1]))
        if single.unread():
            raise single.fault(single.unread()[0], "num_key_value_heads or head_dim: others are not modelled by layer")
        heads[int(key)] = kept
    return tuple(heads)


def _attention(decoder: Decoder, layers: _Layers, layer: int) -> SelfAttention:
    is_full = not layers.windows[layer]
    kv_heads, head_dim = layers.heads[layer]
    return replace(
        decoder.attention(layer),
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        window=layers.windows[layer],
        qkv_bias=layers.qkv_bias,
        output_bias=layers.qkv_bias,
        qk_norm="head",
        post_norm=decoder.norm,
        keys_are_values=layers.keys_are_values and is_full,
        has_own_kv=layer < layers.num_own_kv,
    )


def _feed_forward(decoder: Decoder, layers: _Layers, layer: int) -> tuple[Cell, ...]:
    """Return the dense feed-forward, and the experts beside it where there are any."""
    config = decoder.config
    wide = config.flag("use_double_wide_mlp", default=False) and layer >= layers.num_own_kv
    inter = decoder.inter * (2 if wide else 1)
    mlp = decoder.mlp(layer, post_norm=decoder.norm)
    mlp = replace(mlp, feed_forward=replace(mlp.feed_forward, inter=inter))
    if not config.flag("enable_moe_block", default=False):
        return (mlp,)
    experts, topk = config.integer("num_experts"), config.integer("top_k_experts")
    if topk > experts:
        raise config.fault("top_k_experts", f"at most num_experts = {experts}")
    mixture = MixtureOfExperts(
        hidden=decoder.hidden,
        inter=config.integer("moe_intermediate_size"),
        num_experts=experts,
        topk=topk,
        dtype=decoder.dtype,
        weights=decoder.quantisation.of(f"model.layers.{layer}.experts"),
        norm=decoder.norm,
        post_norms=(decoder.norm, decoder.norm),
        router_scales=True,
    )
    return mlp, mixture
