"""GPT-2, GPT-NeoX (Pythia), BLOOM and OPT: multi-head attention, a plain two-matrix MLP, LayerNorm, biases."""

from cluster_specs.lazy_dataclass import dataclass
from simulator.model.architectures import architecture
from simulator.model.block import Block
from simulator.model.cells.attention import SelfAttention
from simulator.model.cells.mlp import FeedForward, Mlp
from simulator.model.decoder import activation_of, dtype_of
from simulator.model.hf_config import HfConfig
from simulator.model.norm import Norm
from simulator.model.quantisation.quantisation import read_quantisation
from simulator.model.spec import Embedding, ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """What the four spell differently."""

    hidden: int
    inter: int
    num_layers: int
    num_heads: int
    max_position: int
    activation: str
    has_rope: bool = False
    bias: bool = True
    attention_bias: bool = True
    tied_default: bool = True
    has_final_norm: bool = True


@architecture("gpt2")
def read_gpt2(config: HfConfig, name: str) -> ModelSpec:
    """Learned positions; the inner width is four times the hidden one unless ``n_inner`` says otherwise."""
    config.refuse("scale_attn_by_inverse_layer_idx", because="scaling by layer is not modelled")
    hidden, positions = config.integer("n_embd"), config.integer("n_positions")
    sizes = _Sizes(
        hidden=hidden,
        inter=config.integer("n_inner", 4 * hidden),
        num_layers=config.layers("n_layer"),
        num_heads=config.integer("n_head"),
        max_position=positions,
        activation=activation_of(config, "activation_function"),
    )
    return _assemble(config, name, sizes, Embedding(width=hidden, positions=positions))


@architecture("gpt_neox")
def read_gpt_neox(config: HfConfig, name: str) -> ModelSpec:
    """Rotary positions, untied head; attention and MLP run side by side on the same input, at the same cost."""
    hidden = config.integer("hidden_size")
    sizes = _Sizes(
        hidden=hidden,
        inter=config.integer("intermediate_size"),
        num_layers=config.layers("num_hidden_layers"),
        num_heads=config.integer("num_attention_heads"),
        max_position=config.integer("max_position_embeddings"),
        activation=activation_of(config, "hidden_act"),
        has_rope=True,
        tied_default=False,
        attention_bias=config.flag("attention_bias", default=True),
    )
    return _assemble(config, name, sizes, Embedding(width=hidden))


@architecture("bloom")
def read_bloom(config: HfConfig, name: str) -> ModelSpec:
    """ALiBi instead of positions, a norm behind the embedding."""
    hidden = config.first_integer("hidden_size", "n_embed")
    sizes = _Sizes(
        hidden=hidden,
        inter=4 * hidden,
        num_layers=config.layers("n_layer" if "n_layer" in config else "num_hidden_layers"),
        num_heads=config.first_integer("n_head", "num_attention_heads"),
        max_position=config.integer("seq_length", 2048),
        activation="gelu",
    )
    norm = Norm(kind="layernorm", width=hidden)
    return _assemble(config, name, sizes, Embedding(width=hidden, norm=norm))


@architecture("opt")
def read_opt(config: HfConfig, name: str) -> ModelSpec:
    """Learned positions with an offset of two; the smallest models project a narrower embedding."""
    hidden, positions = config.integer("hidden_size"), config.integer("max_position_embeddings")
    width = config.integer("word_embed_proj_dim", hidden)
    norm_before = config.flag("do_layer_norm_before", default=True)
    sizes = _Sizes(
        hidden=hidden,
        inter=config.integer("ffn_dim"),
        num_layers=config.layers("num_hidden_layers"),
        num_heads=config.integer("num_attention_heads"),
        max_position=positions,
        activation=activation_of(config, "activation_function"),
        bias=config.flag("enable_bias", default=True),
        has_final_norm=norm_before and not config.flag("_remove_final_layer_norm", default=False),
    )
    embedding = Embedding(width=width, positions=positions + 2, projected=width != hidden)
    return _assemble(config, name, sizes, embedding)


def _assemble(config: HfConfig, name: str, sizes: _Sizes, embedding: Embedding) -> ModelSpec:
    if sizes.hidden % sizes.num_heads:
        key = "n_head" if "n_head" in config else "num_attention_heads"
        raise config.fault(key, f"a divisor of the hidden size {sizes.hidden}")
    dtype = dtype_of(config)
    quantisation = read_quantisation(config, dtype)
    norm = Norm(kind="layernorm", width=sizes.hidden)
    attention = SelfAttention(
        hidden=sizes.hidden,
        num_heads=sizes.num_heads,
        num_kv_heads=sizes.num_heads,
        head_dim=sizes.hidden // sizes.num_heads,
        dtype=dtype,
        weights=quantisation.of("model.layers.0.self_attn"),
        norm=norm,
        qkv_bias=sizes.bias and sizes.attention_bias,
        output_bias=sizes.bias and sizes.attention_bias,
        has_rope=sizes.has_rope,
    )
    feed_forward = FeedForward(
        hidden=sizes.hidden,
        inter=sizes.inter,
        dtype=dtype,
        weights=quantisation.of("model.layers.0.mlp"),
        gated=False,
        activation=sizes.activation,
        bias=sizes.bias,
    )
    return ModelSpec(
        name=name,
        architecture=config.text("model_type"),
        hidden_size=sizes.hidden,
        vocab_size=config.integer("vocab_size"),
        max_position=sizes.max_position,
        dtype=dtype,
        quantisation=quantisation.scheme,
        tied_embeddings=config.flag("tie_word_embeddings", default=sizes.tied_default),
        unique_blocks=(Block(cells=(attention, Mlp(feed_forward=feed_forward, norm=norm))),),
        layers=(0,) * sizes.num_layers,
        embedding=embedding,
        final_norm=norm if sizes.has_final_norm else None,
    )
