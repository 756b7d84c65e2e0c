"""Gemma 3: five local layers to one global, four norms per layer, qk-norm, GeGLU, tied embeddings by default.

Gemma 2: local and global in turn, no qk-norm; its caps on logits count as nothing.
"""

from dataclasses import replace
from typing import Final, Literal

from simulator.model.architectures import architecture
from simulator.model.block import Block
from simulator.model.decoder import Decoder, layer_windows
from simulator.model.families.vision import SIGLIP_DEFAULTS, square_patches, vision_tower
from simulator.model.hf_config import HfConfig
from simulator.model.item_rules import FixedImage
from simulator.model.linear import Linear, WeightFormat
from simulator.model.spec import ModelSpec

# What Gemma3TextConfig assumes for keys a multimodal config leaves out.
_TEXT_DEFAULTS: Final = {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
    "model_type": "gemma3_text",
}


# Prompt tokens around those of an image: blank lines, its begin and its end.
_FRAMING: Final = 4


@architecture("gemma2")
def read_gemma2(config: HfConfig, name: str) -> ModelSpec:
    """Gemma 2."""
    return gemma_decoder(Decoder.read(config), name, pattern=2, qk_norm="none")


@architecture("gemma3_text")
def read_gemma(config: HfConfig, name: str) -> ModelSpec:
    """Text decoder of Gemma 3."""
    return gemma_decoder(Decoder.read(config), name)


@architecture("gemma3")
def read_gemma_multimodal(config: HfConfig, name: str) -> ModelSpec:
    """Read ``text_config``, and the SigLIP tower where there is a ``vision_config``."""
    text = config.section("text_config", _TEXT_DEFAULTS)
    if text is None:
        raise config.fault("text_config", "an object with the text decoder's keys")
    decoder = gemma_decoder(Decoder.read(text, outer=config), name)
    vision = config.section("vision_config", SIGLIP_DEFAULTS)
    if vision is None:
        return decoder
    width = vision.integer("hidden_size")
    projector = Linear(n=decoder.hidden_size, k=width, weights=WeightFormat(scheme=decoder.dtype), dtype=decoder.dtype)
    outputs, patches = config.integer("mm_tokens_per_image", 256), square_patches(vision)
    tower = vision_tower(
        vision,
        decoder.dtype,
        outputs=outputs,
        rule=FixedImage(tokens=patches, embeds=outputs, framing=_FRAMING),
        projector=(projector,),
        class_token=False,
        patch_bias=True,
    )
    # With the RMSNorm before the projector; tokens of an image see each other in the decoder too.
    tower = replace(tower, other_parameters=tower.other_parameters + width, keeps_items_whole=True)
    return replace(decoder, encoder=tower)


def gemma_decoder(
    decoder: Decoder, name: str, *, pattern: int = 6, qk_norm: Literal["none", "head"] = "head"
) -> ModelSpec:
    """Blocks of a text decoder whose every ``pattern``-th layer is global."""
    windows = layer_windows(decoder.config, decoder.num_layers, pattern_default=pattern)

    def block(layer: int) -> Block:
        attention = replace(decoder.attention(layer), window=windows[layer], qk_norm=qk_norm, post_norm=decoder.norm)
        return Block(cells=(attention, decoder.mlp(layer, post_norm=decoder.norm)))

    return decoder.assemble(name, block, tied_default=True)
