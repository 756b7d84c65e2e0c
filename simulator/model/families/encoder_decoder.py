"""T5 and Whisper: an encoder that runs once per request, and a decoder that attends to it in every layer."""

from dataclasses import replace
from typing import Literal

from simulator.model.architectures import architecture
from simulator.model.block import Block, distinct
from simulator.model.cells.attention import SelfAttention
from simulator.model.cells.cross_attention import CrossAttention
from simulator.model.cells.encoder_attention import EncoderAttention
from simulator.model.cells.mlp import FeedForward, Mlp
from simulator.model.decoder import activation_of, dtype_of
from simulator.model.encoder import Encoder
from simulator.model.hf_config import HfConfig
from simulator.model.linear import Linear, WeightFormat
from simulator.model.norm import Norm
from simulator.model.spec import Embedding, ModelSpec


@architecture("t5")
def read_t5(config: HfConfig, name: str) -> ModelSpec:
    """Relative position buckets in the first layer of each stack; gated MLP where ``feed_forward_proj`` says so."""
    config.refuse("quantization_config", because="quantised encoder-decoders are not modelled")
    projection = config.text("feed_forward_proj", "relu")
    known = {"relu": ("relu", False), "gated-gelu": ("gelu", True), "gated-silu": ("silu", True)}
    if projection not in known:
        raise config.fault("feed_forward_proj", f"one of {', '.join(known)}")
    activation, gated = known[projection]
    dtype = dtype_of(config)
    plain, hidden = WeightFormat(scheme=dtype), config.integer("d_model")
    norm = Norm(kind="rmsnorm", width=hidden)
    later = SelfAttention(
        hidden=hidden,
        num_heads=config.integer("num_heads"),
        num_kv_heads=config.integer("num_heads"),
        head_dim=config.integer("d_kv"),
        dtype=dtype,
        weights=plain,
        norm=norm,
        has_rope=False,
    )
    first = replace(later, position_buckets=config.integer("relative_attention_num_buckets", 32))
    feed_forward = FeedForward(
        hidden=hidden, inter=config.integer("d_ff"), dtype=dtype, weights=plain, gated=gated, activation=activation
    )
    mlp, positions = Mlp(feed_forward=feed_forward, norm=norm), config.integer("n_positions", 512)
    cross = CrossAttention(projections=later, encoder_tokens=positions)
    encoder_layers = config.layers("num_layers")
    encoder = [
        Block(cells=(EncoderAttention(projections=first if layer == 0 else later), mlp))
        for layer in range(encoder_layers)
    ]
    decoder = [
        Block(cells=(first if layer == 0 else later, cross, mlp))
        for layer in range(config.layers("num_decoder_layers", encoder_layers))
    ]
    tower, tower_layers = distinct(encoder)
    unique, layers = distinct(decoder)
    return ModelSpec(
        name=name,
        architecture="t5",
        hidden_size=hidden,
        vocab_size=config.integer("vocab_size"),
        max_position=positions,
        dtype=dtype,
        quantisation=None,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        unique_blocks=unique,
        layers=layers,
        embedding=Embedding(width=hidden),
        final_norm=norm,
        encoder=Encoder(
            kind="text",
            dtype=dtype,
            unique_blocks=tower,
            layers=tower_layers,
            tokens=positions,
            other_parameters=norm.parameters(),
        ),
    )


@architecture("whisper")
def read_whisper(config: HfConfig, name: str) -> ModelSpec:
    """Two convolutions turn mel frames into ``max_source_positions`` tokens; keys have no bias."""
    config.refuse("quantization_config", because="quantised encoder-decoders are not modelled")
    dtype = dtype_of(config)
    hidden, frames = config.integer("d_model"), config.integer("max_source_positions")
    norm, plain = Norm(kind="layernorm", width=hidden), WeightFormat(scheme=dtype)
    activation = activation_of(config, "activation_function")

    def attention(side: Literal["encoder", "decoder"]) -> SelfAttention:
        heads = config.integer(f"{side}_attention_heads")
        if hidden % heads:
            raise config.fault(f"{side}_attention_heads", f"a divisor of d_model = {hidden}")
        return SelfAttention(
            hidden=hidden,
            num_heads=heads,
            num_kv_heads=heads,
            head_dim=hidden // heads,
            dtype=dtype,
            weights=plain,
            norm=norm,
            qkv_bias=True,
            has_key_bias=False,
            output_bias=True,
            has_rope=False,
        )

    def mlp(side: Literal["encoder", "decoder"]) -> Mlp:
        inter = config.integer(f"{side}_ffn_dim")
        feed_forward = FeedForward(
            hidden=hidden, inter=inter, dtype=dtype, weights=plain, gated=False, activation=activation, bias=True
        )
        return Mlp(feed_forward=feed_forward, norm=norm)

    own = attention("decoder")
    cross = CrossAttention(projections=own, encoder_tokens=frames)
    targets, kernel = config.integer("max_target_positions"), 3
    return ModelSpec(
        name=name,
        architecture="whisper",
        hidden_size=hidden,
        vocab_size=config.integer("vocab_size"),
        max_position=targets,
        dtype=dtype,
        quantisation=None,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        unique_blocks=(Block(cells=(own, cross, mlp("decoder"))),),
        layers=(0,) * config.layers("decoder_layers"),
        embedding=Embedding(width=hidden, positions=targets),
        final_norm=norm,
        encoder=Encoder(
            kind="audio",
            dtype=dtype,
            unique_blocks=(Block(cells=(EncoderAttention(projections=attention("encoder")), mlp("encoder"))),),
            layers=(0,) * config.layers("encoder_layers"),
            tokens=frames,
            front=tuple(
                Linear(n=hidden, k=kernel * channels, weights=plain, dtype=dtype, bias=True)
                for channels in (config.integer("num_mel_bins"), hidden)
            ),
            other_parameters=frames * hidden + norm.parameters(),
        ),
    )
