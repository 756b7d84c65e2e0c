"""Llama 4: chunked layers beside global ones, a shared expert beside one routed expert, and a vision tower.

A chunked layer's query sees the keys of its own chunk. It is priced as a sliding window of the chunk's length: exact
up to one chunk (8,192 tokens), an upper bound beyond.
"""

from dataclasses import replace
from typing import Final

from simulator.model.architectures import architecture
from simulator.model.block import Block
from simulator.model.cells.mlp import Mlp
from simulator.model.cells.moe import MixtureOfExperts
from simulator.model.decoder import Decoder
from simulator.model.encoder import Encoder
from simulator.model.families.vision import square_patches, vision_tower
from simulator.model.hf_config import HfConfig
from simulator.model.item_rules import Tiles
from simulator.model.linear import Linear, WeightFormat
from simulator.model.spec import ModelSpec

_MOST_TILES: Final = 16  # of one image (``Llama4ImageProcessor``)


@architecture("llama4_text")
def read_llama4_text(config: HfConfig, name: str) -> ModelSpec:
    """Read the text decoder alone."""
    return _decoder(Decoder.read(config), name)


@architecture("llama4")
def read_llama4(config: HfConfig, name: str) -> ModelSpec:
    """Read ``text_config``, and the vision tower where there is a ``vision_config``."""
    text = config.section("text_config", {"model_type": "llama4_text"})
    if text is None:
        raise config.fault("text_config", "an object with the text decoder's keys")
    decoder = _decoder(Decoder.read(text, outer=config), name)
    vision = config.section("vision_config", {"hidden_act": "gelu"})
    return decoder if vision is None else replace(decoder, encoder=_tower(vision, decoder))


def _decoder(decoder: Decoder, name: str) -> ModelSpec:
    config = decoder.config
    chunk = config.integer("attention_chunk_size", 8192)
    step = config.integer("interleave_moe_layer_step", 1)
    has_norm = config.flag("use_qk_norm", default=True)
    rotated = config.integers("no_rope_layers") or tuple(
        int((layer + 1) % 4 != 0) for layer in range(decoder.num_layers)
    )
    if len(rotated) != decoder.num_layers:
        raise config.fault("no_rope_layers", f"a list of num_hidden_layers = {decoder.num_layers} flags")
    experts, topk = config.integer("num_local_experts"), config.integer("num_experts_per_tok")
    if topk > experts:
        raise config.fault("num_experts_per_tok", f"at most num_local_experts = {experts}")

    types = config.strings("layer_types")
    if types and (len(types) != decoder.num_layers or set(types) - {"chunked_attention", "full_attention"}):
        raise config.fault("layer_types", f"a list of {decoder.num_layers} names, chunked_attention or full_attention")
    sparse = set(config.integers("moe_layers")) or {
        layer for layer in range(decoder.num_layers) if (layer + 1) % step == 0
    }

    def block(layer: int) -> Block:
        has_rope = bool(rotated[layer])
        attention = replace(
            decoder.attention(layer),
            has_rope=has_rope,
            window=chunk if (types[layer] == "chunked_attention" if types else has_rope) else 0,
            qk_norm="unweighted" if has_norm and has_rope else "none",
        )
        prefix = f"language_model.model.layers.{layer}.feed_forward"
        if layer not in sparse:
            dense = decoder.feed_forward(prefix, config.integer("intermediate_size_mlp"))
            return Block(cells=(attention, Mlp(feed_forward=dense, norm=decoder.norm)))
        mixture = MixtureOfExperts(
            hidden=decoder.hidden,
            inter=decoder.inter,
            num_experts=experts,
            topk=topk,
            dtype=decoder.dtype,
            weights=decoder.quantisation.of(f"{prefix}.experts"),
            norm=decoder.norm,
            shared=decoder.feed_forward(f"{prefix}.shared_expert", decoder.inter),
        )
        return Block(cells=(attention, mixture))

    return decoder.assemble(name, block)


def _tower(vision: HfConfig, decoder: ModelSpec) -> Encoder:
    """Patches through the tower, four neighbours shuffled into one, an adapter of two matrices, a projector."""
    width, adapted = vision.integer("hidden_size"), vision.integer("projector_input_dim", 4096)
    output = vision.integer("projector_output_dim", 4096)
    plain = WeightFormat(scheme=decoder.dtype)
    shapes = ((adapted, 4 * width), (output, adapted), (decoder.hidden_size, output))
    patches, side = square_patches(vision), vision.integer("image_size")
    return vision_tower(
        vision,
        decoder.dtype,
        outputs=patches // 4,
        rule=Tiles(side=side, most=_MOST_TILES, tokens=patches + 1, embeds=patches // 4),
        projector=tuple(Linear(n=n, k=k, weights=plain, dtype=decoder.dtype) for n, k in shapes),
        class_token=True,
        patch_bias=False,
    )
