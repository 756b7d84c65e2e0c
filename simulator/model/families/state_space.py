"""Mamba-2, and Nemotron-H: layers of one cell each, state-space, attention without rotation, feed-forward or experts.

Source: ``mamba2.py`` and ``nemotron_h.py`` of vLLM 0.33 and the config classes of `transformers`.
"""

from dataclasses import replace
from typing import Final

from simulator.model.architectures import architecture
from simulator.model.block import Block, distinct
from simulator.model.cell import Cell
from simulator.model.cells.attention import SelfAttention
from simulator.model.cells.mamba2 import Mamba2
from simulator.model.cells.mlp import FeedForward, Mlp
from simulator.model.cells.moe import MixtureOfExperts
from simulator.model.decoder import Decoder, activation_of, dtype_of
from simulator.model.hf_config import MOST_LAYERS, HfConfig
from simulator.model.norm import Norm
from simulator.model.quantisation.quantisation import QKV, Quantisation, read_quantisation
from simulator.model.spec import Embedding, ModelSpec

# What a model without attention may be asked for where its config states no length: nothing in it depends on one.
_ANY_LENGTH: Final = 1 << 20
_LETTERS: Final = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
_STATE_DTYPES: Final = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "auto": ""}


@architecture("mamba2", reads=["state_size"])
def read_mamba2(config: HfConfig, name: str) -> ModelSpec:
    """Every layer is a state-space layer; requests keep its state in the format of the activations."""
    hidden, dtype = config.integer("hidden_size"), dtype_of(config)
    heads, head_dim = config.integer("num_heads"), config.integer("head_dim")
    if heads * head_dim != config.integer("expand", 2) * hidden:
        inner = config.integer("expand", 2) * hidden
        raise config.fault("num_heads", f"expand x hidden_size / head_dim = {inner} / {head_dim}")
    if not config.flag("rms_norm", default=True):
        raise config.fault("rms_norm", "true: state-space layers without their gated norm are not modelled")
    activation_of(config.with_values({"hidden_act": config.text("hidden_act", "silu")}), "hidden_act")
    quantisation = read_quantisation(config, dtype)
    norm = Norm(kind="rmsnorm", width=hidden)
    sizes = _mamba(config, "num_heads", "head_dim", "state_size", norm=norm, dtype=dtype)
    layers = config.layers("num_hidden_layers")
    blocks = [Block(cells=(_stored(sizes, quantisation, layer),)) for layer in range(layers)]
    unique, order = distinct(blocks)
    return ModelSpec(
        name=name,
        architecture=config.text("model_type"),
        hidden_size=hidden,
        vocab_size=config.integer("vocab_size"),
        max_position=config.integer("max_position_embeddings", _ANY_LENGTH),
        dtype=dtype,
        quantisation=quantisation.scheme,
        head_weights=quantisation.of("lm_head"),
        tied_embeddings=config.flag("tie_word_embeddings", default=False),
        unique_blocks=unique,
        layers=order,
        embedding=Embedding(width=hidden),
        final_norm=norm,
    )


@architecture("nemotron_h")
def read_nemotron_h(config: HfConfig, name: str) -> ModelSpec:
    """``hybrid_override_pattern`` says what each layer is; ``mamba_ssm_cache_dtype`` how the states are kept."""
    kinds = _layer_kinds(config)
    inters = _inner_widths(config, kinds)
    head_dim = config.first_integer("head_dim", "attention_head_dim", default=128)
    decoder = Decoder.read(
        config.with_values(
            {
                "num_hidden_layers": len(kinds),
                "intermediate_size": next(iter(inters.values()), 1),
                "head_dim": head_dim,
                "hidden_act": config.text("mlp_hidden_act", "relu2"),
            }
        )
    )
    decoder = replace(decoder, is_gated=False)
    sizes = _mamba(
        config, "mamba_num_heads", "mamba_head_dim", "ssm_state_size", norm=decoder.norm, dtype=decoder.dtype
    )
    stated = config.text("mamba_ssm_cache_dtype", "float32")
    if stated not in _STATE_DTYPES:
        raise config.fault("mamba_ssm_cache_dtype", f"one of {', '.join(_STATE_DTYPES)}")
    sizes = replace(sizes, state_dtype=_STATE_DTYPES[stated])

    def block(layer: int) -> Block:
        module = f"backbone.layers.{layer}.mixer"
        cell: Cell
        match kinds[layer]:
            case "mamba":
                cell = _stored(sizes, decoder.quantisation, layer)
            case "attention":
                cell = _attention(decoder, module)
            case "mlp":
                cell = Mlp(feed_forward=_feed_forward(decoder, module, inters[layer]), norm=decoder.norm)
            case _:
                cell = _experts(decoder, module)
        return Block(cells=(cell,))

    return decoder.assemble(name, block)


def _layer_kinds(config: HfConfig) -> tuple[str, ...]:
    """Read the kind of every layer: a letter each, or a list of names."""
    pattern = config.text("hybrid_override_pattern", "")
    key = "hybrid_override_pattern" if pattern else "layers_block_type"
    kinds = tuple(_LETTERS.get(letter, letter) for letter in pattern) or config.strings("layers_block_type")
    count = config.layers("num_hidden_layers", len(kinds))
    if not kinds or len(kinds) > MOST_LAYERS or len(kinds) != count or set(kinds) - set(_LETTERS.values()):
        letters = ", ".join(f"{letter} ({kind})" for letter, kind in _LETTERS.items())
        raise config.fault(key, f"num_hidden_layers = {count} of {letters}")
    return kinds


def _inner_widths(config: HfConfig, kinds: tuple[str, ...]) -> dict[int, int]:
    """Inner width of every feed-forward layer; written once, or once for each."""
    dense = [layer for layer, kind in enumerate(kinds) if kind == "mlp"]
    written = config.raw("intermediate_size")
    if not isinstance(written, list):
        width = config.integer("intermediate_size") if dense else 0
        return dict.fromkeys(dense, width)
    widths = config.integers("intermediate_size")
    if len(widths) not in {1, len(dense)} or min(widths) < 1:
        raise config.fault(
            "intermediate_size", f"one integer >= 1, or one for each of {len(dense)} feed-forward layers"
        )
    return dict(zip(dense, widths * (len(dense) if len(widths) == 1 else 1), strict=True))


def _mamba(config: HfConfig, heads: str, head_dim: str, state_dim: str, *, norm: Norm, dtype: str) -> Mamba2:
    """Sizes of a state-space layer, unquantised; Nemotron-H and Mamba-2 spell three of them differently."""
    count, groups = config.integer(heads), config.integer("n_groups", 8)
    if count % groups:
        raise config.fault("n_groups", f"a divisor of {heads} = {count}")
    return Mamba2(
        hidden=norm.width,
        num_heads=count,
        num_groups=groups,
        head_dim=config.integer(head_dim),
        state_dim=config.integer(state_dim),
        conv_kernel=config.integer("conv_kernel", 4, most=256),
        chunk=config.integer("chunk_size", 256, most=1 << 16),
        dtype=dtype,
        weights=read_quantisation(config.with_values({"quantization_config": None}), dtype).of("in_proj"),
        norm=norm,
        bias=config.flag("use_bias", default=False),
        conv_bias=config.flag("use_conv_bias", default=True),
    )


def _stored(sizes: Mamba2, quantisation: Quantisation, layer: int) -> Mamba2:
    module = f"backbone.layers.{layer}.mixer"
    return replace(
        sizes,
        weights=quantisation.matrix(module, "in_proj"),
        output_weights=quantisation.matrix(module, "out_proj"),
    )


def _attention(decoder: Decoder, module: str) -> SelfAttention:
    has_bias = decoder.config.flag("attention_bias", default=False)
    return SelfAttention(
        hidden=decoder.hidden,
        num_heads=decoder.num_heads,
        num_kv_heads=decoder.num_kv_heads,
        head_dim=decoder.head_dim,
        dtype=decoder.dtype,
        weights=decoder.quantisation.matrix(module, *QKV[0], fused=QKV[1]),
        output_weights=decoder.quantisation.matrix(module, "o_proj"),
        norm=decoder.norm,
        qkv_bias=has_bias,
        output_bias=has_bias,
        has_rope=False,
    )


def _feed_forward(decoder: Decoder, module: str, inter: int) -> FeedForward:
    return FeedForward(
        hidden=decoder.hidden,
        inter=inter,
        dtype=decoder.dtype,
        weights=decoder.quantisation.matrix(module, "up_proj"),
        down_weights=decoder.quantisation.matrix(module, "down_proj"),
        gated=False,
        activation=decoder.activation,
        bias=decoder.config.flag("mlp_bias", default=False),
    )


def _experts(decoder: Decoder, module: str) -> MixtureOfExperts:
    config = decoder.config
    experts, topk = config.integer("n_routed_experts"), config.integer("num_experts_per_tok")
    if topk > experts:
        raise config.fault("num_experts_per_tok", f"at most n_routed_experts = {experts}")
    config.refuse("mlp_bias", because="biases of experts without a gate are not modelled")
    shared = config.integer("n_shared_experts", 0, least=0)
    shared *= config.integer("moe_shared_expert_intermediate_size") if shared else 0
    return MixtureOfExperts(
        hidden=decoder.hidden,
        inter=config.integer("moe_intermediate_size"),
        num_experts=experts,
        topk=topk,
        dtype=decoder.dtype,
        weights=decoder.quantisation.matrix(f"{module}.experts", "up_proj", "down_proj"),
        norm=decoder.norm,
        router_dtype="fp32",
        correction_bias=True,
        shared=_feed_forward(decoder, f"{module}.shared_experts", shared) if shared else None,
        is_gated=False,
        latent=config.integer("moe_latent_size", 0, least=0),
    )
