"""Pixtral's vision tower, in front of Mistral 3 and of LLaVA checkpoints: rows of patches at an image's own shape.

Source: Hugging Face transformers 5, ``modeling_pixtral`` and ``modeling_mistral3``.
"""

from typing import Final

from simulator.model.encoder import Encoder
from simulator.model.families.tower_block import tower_block
from simulator.model.hf_config import HfConfig
from simulator.model.item_rules import PatchRows
from simulator.model.linear import Linear, WeightFormat
from simulator.model.norm import Norm
from simulator.model.spec import ModelSpec

# What PixtralVisionConfig assumes for keys a nested config leaves out.
PIXTRAL_DEFAULTS: Final = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_channels": 3,
    "image_size": 1024,
    "patch_size": 16,
    "hidden_act": "gelu",
}


def mistral3_tower(config: HfConfig, decoder: ModelSpec) -> Encoder | None:
    """Read the ``vision_config`` of Mistral 3, whose projector merges patches; None where it has none."""
    vision = config.section("vision_config", PIXTRAL_DEFAULTS)
    if vision is None:
        return None
    bias = config.flag("multimodal_projector_bias", default=False)
    return pixtral_tower(vision, decoder, merge=config.integer("spatial_merge_size", 2), bias=bias)


def pixtral_tower(vision: HfConfig, decoder: ModelSpec, *, merge: int, bias: bool) -> Encoder:
    """Read a tower; ``merge`` x ``merge`` patches become one row, by a matrix of its own where they are several."""
    dtype, plain = decoder.dtype, WeightFormat(scheme=decoder.dtype)
    width = vision.integer("hidden_size")
    norm = Norm(kind="rmsnorm", width=width)
    block = tower_block(
        vision,
        norm,
        heads_key="num_attention_heads",
        width_key="hidden_size",
        inter=vision.integer("intermediate_size"),
        dtype=dtype,
        has_bias=False,
        gated=True,
    )

    def linear(n: int, k: int, *, has_bias: bool = False) -> Linear:
        return Linear(n=n, k=k, weights=plain, dtype=dtype, bias=has_bias)

    hidden, patch = decoder.hidden_size, vision.integer("patch_size")
    merger = () if merge == 1 else (linear(width, width * merge**2),)
    norms = norm.parameters() * (1 if merge == 1 else 2)  # before the first layer, and before patches are merged
    return Encoder(
        kind="vision",
        dtype=dtype,
        unique_blocks=(block,),
        layers=(0,) * vision.layers("num_hidden_layers"),
        tokens=0,
        merged=merge**2,
        front=(linear(width, vision.integer("num_channels") * patch**2),),
        projector=(*merger, linear(hidden, width, has_bias=bias), linear(hidden, hidden, has_bias=bias)),
        other_parameters=norms,
        rule=PatchRows(patch=patch, merge=merge, longest_edge=vision.integer("image_size")),
    )
