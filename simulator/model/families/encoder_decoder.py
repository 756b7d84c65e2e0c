"""T5, BART and Whisper: an encoder that runs once per request, and a decoder that attends to it in every layer.

Qwen2-Audio has Whisper's encoder as a tower: pairs of its tokens are averaged, projected and stand in the prompt.
"""

from dataclasses import replace
from typing import Final, Literal

from simulator.model.architectures import architecture
from simulator.model.block import Block, distinct
from simulator.model.cells.attention import SelfAttention
from simulator.model.cells.cross_attention import CrossAttention
from simulator.model.cells.encoder_attention import EncoderAttention
from simulator.model.cells.mlp import FeedForward, Mlp
from simulator.model.decoder import activation_of, dtype_of
from simulator.model.encoder import Encoder
from simulator.model.hf_config import HfConfig
from simulator.model.item_rules import Clip
from simulator.model.linear import Linear, WeightFormat
from simulator.model.norm import Norm
from simulator.model.spec import Embedding, ModelSpec

_KERNEL: Final = 3  # frames of both convolutions
_FRAMES_PER_S: Final = 100.0
_BART_OFFSET: Final = 2  # rows of its tables of positions that no position uses
# What Qwen2AudioEncoderConfig assumes for keys a nested config leaves out.
_QWEN2_AUDIO: Final = {
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "num_mel_bins": 128,
    "max_source_positions": 1500,
    "activation_function": "gelu",
}


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
    dtype, hidden = dtype_of(config), config.integer("d_model")
    own = _attention(config, "decoder", dtype)
    cross = CrossAttention(projections=own, encoder_tokens=config.integer("max_source_positions"))
    targets = config.integer("max_target_positions")
    return ModelSpec(
        name=name,
        architecture="whisper",
        hidden_size=hidden,
        vocab_size=config.integer("vocab_size"),
        max_position=targets,
        dtype=dtype,
        quantisation=None,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        unique_blocks=(Block(cells=(own, cross, _mlp(config, "decoder", dtype))),),
        layers=(0,) * config.layers("decoder_layers"),
        embedding=Embedding(width=hidden, positions=targets),
        final_norm=own.norm,
        encoder=_audio_encoder(config, dtype),
    )


@architecture("bart")
def read_bart(config: HfConfig, name: str) -> ModelSpec:
    """Learned positions and a norm behind the embedding on both sides, norms behind each sublayer, none at the end."""
    config.refuse("quantization_config", because="quantised encoder-decoders are not modelled")
    dtype, hidden = dtype_of(config), config.integer("d_model")
    positions = config.integer("max_position_embeddings", 1024)
    rows = positions + _BART_OFFSET
    own = _attention(config, "decoder", dtype, has_key_bias=True)
    seen = _attention(config, "encoder", dtype, has_key_bias=True)
    cross = CrossAttention(projections=own, encoder_tokens=positions)
    return ModelSpec(
        name=name,
        architecture="bart",
        hidden_size=hidden,
        vocab_size=config.integer("vocab_size"),
        max_position=positions,
        dtype=dtype,
        quantisation=None,
        tied_embeddings=config.flag("tie_word_embeddings", default=True),
        unique_blocks=(Block(cells=(own, cross, _mlp(config, "decoder", dtype))),),
        layers=(0,) * config.layers("decoder_layers"),
        embedding=Embedding(width=hidden, positions=rows, norm=own.norm),
        final_norm=None,
        encoder=Encoder(
            kind="text",
            dtype=dtype,
            unique_blocks=(Block(cells=(EncoderAttention(projections=seen), _mlp(config, "encoder", dtype))),),
            layers=(0,) * config.layers("encoder_layers"),
            tokens=positions,
            other_parameters=rows * hidden + seen.norm.parameters(),
        ),
    )


def qwen2_audio_tower(config: HfConfig, decoder: ModelSpec) -> Encoder | None:
    """Read the ``audio_config`` of Qwen2-Audio; None where it has none."""
    audio = config.section("audio_config", _QWEN2_AUDIO)
    if audio is None:
        return None
    width, plain = audio.integer("d_model"), WeightFormat(scheme=decoder.dtype)
    projector = Linear(n=decoder.hidden_size, k=width, weights=plain, dtype=decoder.dtype, bias=True)
    return _audio_encoder(audio, decoder.dtype, projector=(projector,), joins_prompt=True)


def _audio_encoder(
    config: HfConfig, dtype: str, *, projector: tuple[Linear, ...] = (), joins_prompt: bool = False
) -> Encoder:
    """Read Whisper's encoder; where it joins the prompt, two of its tokens become one."""
    hidden, frames = config.integer("d_model"), config.integer("max_source_positions")
    plain = WeightFormat(scheme=dtype)
    attention = _attention(config, "encoder", dtype)
    return Encoder(
        kind="audio",
        dtype=dtype,
        unique_blocks=(Block(cells=(EncoderAttention(projections=attention), _mlp(config, "encoder", dtype))),),
        layers=(0,) * config.layers("encoder_layers"),
        tokens=frames,
        merged=2 if joins_prompt else 1,
        front=tuple(
            Linear(n=hidden, k=_KERNEL * channels, weights=plain, dtype=dtype, bias=True)
            for channels in (config.integer("num_mel_bins"), hidden)
        ),
        projector=projector,
        other_parameters=frames * hidden + attention.norm.parameters(),
        rule=Clip(
            span_s=2 * frames / _FRAMES_PER_S, tokens=frames, frames_per_s=_FRAMES_PER_S, joins_prompt=joins_prompt
        ),
    )


def _attention(
    config: HfConfig, side: Literal["encoder", "decoder"], dtype: str, *, has_key_bias: bool = False
) -> SelfAttention:
    hidden, heads = config.integer("d_model"), config.integer(f"{side}_attention_heads")
    if hidden % heads:
        raise config.fault(f"{side}_attention_heads", f"a divisor of d_model = {hidden}")
    return SelfAttention(
        hidden=hidden,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        dtype=dtype,
        weights=WeightFormat(scheme=dtype),
        norm=Norm(kind="layernorm", width=hidden),
        qkv_bias=True,
        has_key_bias=has_key_bias,
        output_bias=True,
        has_rope=False,
    )


def _mlp(config: HfConfig, side: Literal["encoder", "decoder"], dtype: str) -> Mlp:
    hidden = config.integer("d_model")
    feed_forward = FeedForward(
        hidden=hidden,
        inter=config.integer(f"{side}_ffn_dim"),
        dtype=dtype,
        weights=WeightFormat(scheme=dtype),
        gated=False,
        activation=activation_of(config, "activation_function"),
        bias=True,
    )
    return Mlp(feed_forward=feed_forward, norm=Norm(kind="layernorm", width=hidden))
