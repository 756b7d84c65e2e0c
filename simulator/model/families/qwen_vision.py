"""Vision towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: patches at an image's own resolution, merged four to one.

Qwen2.5-VL attends within windows in all but a few layers; Qwen3-VL hands rows of earlier layers to the decoder too,
through mergers of their own. Source: Hugging Face transformers 5, ``modeling_qwen2_vl`` and its two successors; the
bounds on pixels are those that the published checkpoints' ``preprocessor_config.json`` state.
"""

from dataclasses import replace
from typing import Final, Literal

from cluster_specs.lazy_dataclass import dataclass
from simulator.model.block import Block, distinct
from simulator.model.cells.encoder_attention import EncoderAttention
from simulator.model.encoder import Encoder
from simulator.model.families.tower_block import tower_block
from simulator.model.hf_config import HfConfig
from simulator.model.item_rules import PatchGrid
from simulator.model.linear import Linear, WeightFormat
from simulator.model.norm import Norm
from simulator.model.spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class _Generation:
    """What a generation's towers share: norms, feed-forward, defaults of their config class, bounds on pixels."""

    norm: Literal["layernorm", "rmsnorm"]
    gated: bool
    has_patch_bias: bool
    min_pixels: int
    max_pixels: int
    defaults: dict[str, object]


_SECOND: Final = {
    "depth": 32,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
QWEN2_VL: Final = _Generation(
    norm="layernorm",
    gated=False,
    has_patch_bias=False,
    min_pixels=56 * 56,
    max_pixels=12_845_056,
    defaults={**_SECOND, "embed_dim": 1280, "mlp_ratio": 4, "hidden_act": "quick_gelu"},
)
QWEN2_5_VL: Final = _Generation(
    norm="rmsnorm",
    gated=True,
    has_patch_bias=False,
    min_pixels=56 * 56,
    max_pixels=12_845_056,
    defaults={
        **_SECOND,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "hidden_act": "silu",
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
)
QWEN3_VL: Final = _Generation(
    norm="layernorm",
    gated=False,
    has_patch_bias=True,
    min_pixels=65_536,
    max_pixels=16_777_216,
    defaults={
        **_SECOND,
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "patch_size": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "num_position_embeddings": 2304,
    },
)


def qwen_tower(generation: _Generation, config: HfConfig, decoder: ModelSpec) -> Encoder | None:
    """Read the ``vision_config`` of a checkpoint; None where it has none."""
    vision = config.section("vision_config", generation.defaults)
    if vision is None:
        return None
    is_second = generation is QWEN2_VL
    width_key = "embed_dim" if is_second else "hidden_size"
    width = vision.integer(width_key)
    inter = width * vision.integer("mlp_ratio") if is_second else vision.integer("intermediate_size")
    patch, merge = vision.integer("patch_size"), vision.integer("spatial_merge_size")
    dtype, plain = decoder.dtype, WeightFormat(scheme=decoder.dtype)
    norm = Norm(kind=generation.norm, width=width)
    attends_to_all = tower_block(
        vision,
        norm,
        heads_key="num_heads",
        width_key=width_key,
        inter=inter,
        dtype=dtype,
        has_bias=True,
        gated=generation.gated,
    )
    windowed = vision.integer("window_size", 0, least=0)
    window_tokens = (windowed // (patch * merge)) ** 2 * merge**2
    whole = vision.integers("fullatt_block_indexes")

    def block(layer: int) -> Block:
        if not window_tokens or layer in whole:
            return attends_to_all
        attention, feed_forward = attends_to_all.cells
        assert isinstance(attention, EncoderAttention)
        return Block(cells=(replace(attention, window_tokens=window_tokens), feed_forward))

    unique, layers = distinct([block(layer) for layer in range(vision.layers("depth"))])
    merged = width * merge**2

    def linear(n: int, k: int, *, bias: bool = True) -> Linear:
        return Linear(n=n, k=k, weights=plain, dtype=dtype, bias=bias)

    merger = (linear(merged, merged), linear(decoder.hidden_size, merged))
    deep = len(vision.integers("deepstack_visual_indexes"))
    pixels = vision.integer("in_channels") * vision.integer("temporal_patch_size") * patch**2
    positions = vision.integer("num_position_embeddings", 0, least=0) * width
    deep_norm = Norm(kind=generation.norm, width=merged)
    return Encoder(
        kind="vision",
        dtype=dtype,
        unique_blocks=unique,
        layers=layers,
        tokens=0,
        merged=merge**2,
        front=(linear(width, pixels, bias=generation.has_patch_bias),),
        projector=merger * (1 + deep),
        other_parameters=positions + norm.parameters() + deep * deep_norm.parameters(),
        rule=_rule(generation, config, patch, merge),
    )


def _rule(generation: _Generation, config: HfConfig, patch: int, merge: int) -> PatchGrid:
    """Bounds on pixels as ``preprocessor_config.json`` beside the config states them, else the published ones."""
    least, most = generation.min_pixels, generation.max_pixels
    stated = config.section("preprocessor_config")
    if stated is not None:
        size = stated.section("size") or stated
        bound = 2**30  # pixels: an image of 32,768 x 32,768
        least = stated.integer("min_pixels", size.integer("shortest_edge", least, most=bound), most=bound)
        most = stated.integer("max_pixels", size.integer("longest_edge", most, most=bound), most=bound)
        if most < max(least, (patch * merge) ** 2):
            raise stated.fault("max_pixels", f"at least min_pixels = {least} and a merged patch")
    return PatchGrid(patch=patch, merge=merge, min_pixels=least, max_pixels=most)
