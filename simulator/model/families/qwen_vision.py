"""Vision towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: patches at an image's own resolution, merged four to one.

Qwen2.5-VL attends within windows in all but a few layers; Qwen3-VL hands rows of earlier layers to the decoder too,
through mergers of their own. Source: Hugging Face transformers 5, ``modeling_qwen2_vl`` and its two successors; the
bounds on pixels are those that the published checkpoints' ``preprocessor_config.json`` state.
"""

from dataclasses import replace
from typing import Final, Literal

from cluster_specs.lazy_dataclass import dataclass
from simulator.model.block import Block, distinct
from simulator.model.cells.attention import SelfAttention
from simulator.model.cells.encoder_attention import EncoderAttention
from simulator.model.cells.mlp import FeedForward, Mlp
from simulator.model.decoder import activation_of
from simulator.model.encoder import Encoder
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
    width = vision.integer("embed_dim" if is_second else "hidden_size")
    inter = width * vision.integer("mlp_ratio") if is_second else vision.integer("intermediate_size")
    heads, patch, merge = (vision.integer(key) for key in ("num_heads", "patch_size", "spatial_merge_size"))
    if width % heads:
        raise vision.fault("num_heads", f"a divisor of its width {width}")
    dtype, plain = decoder.dtype, WeightFormat(scheme=decoder.dtype)
    norm = Norm(kind=generation.norm, width=width)
    attention = SelfAttention(
        hidden=width,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width // heads,
        dtype=dtype,
        weights=plain,
        norm=norm,
        qkv_bias=True,
        output_bias=True,
    )
    feed_forward = FeedForward(
        hidden=width,
        inter=inter,
        dtype=dtype,
        weights=plain,
        gated=generation.gated,
        activation=activation_of(vision, "hidden_act"),
        bias=True,
    )
    windowed = vision.integer("window_size", 0, least=0)
    window_tokens = (windowed // (patch * merge)) ** 2 * merge**2
    whole = vision.integers("fullatt_block_indexes")

    def block(layer: int) -> Block:
        cell = EncoderAttention(projections=attention)
        if window_tokens and layer not in whole:
            cell = replace(cell, window_tokens=window_tokens)
        return Block(cells=(cell, Mlp(feed_forward=feed_forward, norm=norm)))

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
