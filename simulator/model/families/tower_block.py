"""A layer of a vision tower: plain attention over all patches and a feed-forward, behind a norm each."""

from simulator.model.block import Block
from simulator.model.cells.attention import SelfAttention
from simulator.model.cells.encoder_attention import EncoderAttention
from simulator.model.cells.mlp import FeedForward, Mlp
from simulator.model.decoder import activation_of
from simulator.model.hf_config import HfConfig
from simulator.model.linear import WeightFormat
from simulator.model.norm import Norm


def tower_block(
    config: HfConfig,
    norm: Norm,
    *,
    heads_key: str,
    width_key: str,
    inter: int,
    dtype: str,
    has_bias: bool,
    gated: bool,
    has_rope: bool = True,
) -> Block:
    """Read a layer as wide as its ``norm``; ``has_bias`` is that of every matrix.

    The two keys are those of its heads and of its width. Raises ``UserError`` for heads that do not divide the width.
    """
    width, heads = norm.width, config.integer(heads_key)
    if width % heads:
        raise config.fault(heads_key, f"a divisor of {width_key} = {width}")
    plain = WeightFormat(scheme=dtype)
    attention = SelfAttention(
        hidden=width,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width // heads,
        dtype=dtype,
        weights=plain,
        norm=norm,
        qkv_bias=has_bias,
        output_bias=has_bias,
        has_rope=has_rope,
    )
    feed_forward = FeedForward(
        hidden=width,
        inter=inter,
        dtype=dtype,
        weights=plain,
        gated=gated,
        activation=activation_of(config, "hidden_act"),
        bias=has_bias,
    )
    return Block(cells=(EncoderAttention(projections=attention), Mlp(feed_forward=feed_forward, norm=norm)))
