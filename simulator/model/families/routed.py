"""Mixtures of experts with grouped attention, each a row of differences: where the experts are, and their keys' names.

Step 3 projects its queries from a latent and shares one key/value head among them. In Step 3.5 sliding layers have more
heads than full ones, and every head's result is scaled by a gate of its own.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal

from cluster_specs.lazy_dataclass import dataclass
from simulator.model.architectures import architecture
from simulator.model.block import Block
from simulator.model.cells.attention import SelfAttention
from simulator.model.cells.moe import MixtureOfExperts
from simulator.model.decoder import Decoder, layer_windows
from simulator.model.families.llama import Bias, is_set
from simulator.model.hf_config import HfConfig
from simulator.model.norm import Norm
from simulator.model.spec import ModelSpec

_ATTENTION: Final = (("attention_bias",), False)
_USE_BIAS: Final = (("use_bias",), False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """In what a model type differs from a Llama whose every feed-forward is a mixture of ``num_experts`` experts."""

    num_experts: str = "num_experts"
    topk: str = "num_experts_per_tok"
    inter: str = "moe_intermediate_size"  # of an expert
    num_shared: str = ""  # how many experts wide the shared one is
    shared_default: int = 0
    shared_inter: str = ""  # width of one of those, or of the whole shared expert where they are not counted
    num_dense: tuple[str, int] | None = None  # the key of how many first layers are dense, and what its absence means
    correction_bias: Bias = False
    router_dtype: str = ""
    qkv_bias: Bias = _ATTENTION
    output_bias: Bias = _ATTENTION
    mlp_bias: Bias = False
    head_bias: Bias = False
    qk_norm: Literal["none", "head", "layer"] = "none"
    qk_norm_key: tuple[str, bool] | None = None
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    has_post_norms: bool = False
    output_gate: bool = False
    head_gate: Bias = False
    query_rank: str = ""  # the key of the width of the queries' latent
    is_tied: bool = False
    full_every: int = 0  # where neither ``layer_types`` nor a pattern is stated
    pattern_key: str = ""
    is_full_without_rope: bool = False
    unread: tuple[str, ...] = ()


_KINDS: Final[dict[str, Routed]] = {
    "afmoe": Routed(
        num_shared="num_shared_experts",
        num_dense=("num_dense_layers", 1),
        correction_bias=True,
        qkv_bias=False,
        output_bias=False,
        qk_norm="head",
        has_post_norms=True,
        output_gate=True,
        full_every=4,
        pattern_key="global_attn_every_n_layers",
        is_full_without_rope=True,
    ),
    "bailing_moe": Routed(
        num_shared="num_shared_experts",
        shared_inter="moe_shared_expert_intermediate_size",
        num_dense=("first_k_dense_replace", 0),
        correction_bias=(("moe_router_enable_expert_bias",), False),
        qkv_bias=(("use_qkv_bias", "use_bias"), False),
        output_bias=_USE_BIAS,
        mlp_bias=_USE_BIAS,
        qk_norm="head",
        qk_norm_key=("use_qk_norm", False),
    ),
    "deepseek": Routed(
        num_experts="n_routed_experts", num_shared="n_shared_experts", num_dense=("first_k_dense_replace", 0)
    ),
    "dots1": Routed(
        num_experts="n_routed_experts",
        num_shared="n_shared_experts",
        num_dense=("first_k_dense_replace", 0),
        correction_bias=True,
        qk_norm="head",
    ),
    "ernie4_5_moe": Routed(
        num_experts="moe_num_experts",
        topk="moe_k",
        num_shared="moe_num_shared_experts",
        correction_bias=(("moe_use_aux_free",), True),
        router_dtype="fp32",
        qkv_bias=_USE_BIAS,
        output_bias=_USE_BIAS,
        mlp_bias=_USE_BIAS,
        head_bias=_USE_BIAS,
        is_tied=True,
    ),
    "exaone_moe": Routed(
        num_shared="num_shared_experts",
        num_dense=("first_k_dense_replace", 1),
        correction_bias=True,
        qkv_bias=False,
        output_bias=False,
        qk_norm="head",
        full_every=4,
        is_full_without_rope=True,
    ),
    "granitemoe": Routed(num_experts="num_local_experts", inter="intermediate_size"),
    "granitemoeshared": Routed(
        num_experts="num_local_experts", inter="intermediate_size", shared_inter="shared_intermediate_size"
    ),
    "hunyuan_v1_moe": Routed(
        topk="moe_topk",
        num_shared="num_shared_expert",
        shared_default=1,
        shared_inter="intermediate_size",
        qk_norm="head",
        qk_norm_key=("use_qk_norm", True),
        unread=("use_cla",),
    ),
    "olmoe": Routed(inter="intermediate_size", qk_norm="layer"),
    "phimoe": Routed(
        num_experts="num_local_experts",
        inter="intermediate_size",
        norm="layernorm",
        head_bias=(("lm_head_bias",), False),
    ),
    "step3_text": Routed(
        num_experts="moe_num_experts",
        topk="moe_top_k",
        shared_inter="share_expert_dim",
        qkv_bias=False,
        output_bias=False,
        query_rank="share_q_dim",
    ),
    "step3p5": Routed(
        num_experts="moe_num_experts",
        topk="moe_top_k",
        shared_inter="share_expert_dim",
        correction_bias=(("use_moe_router_bias",), True),
        router_dtype="fp32",
        output_bias=False,
        qk_norm="head",
        head_gate=(("use_head_wise_attn_gate",), False),
    ),
}


@architecture(*_KINDS)
def read_routed(config: HfConfig, name: str) -> ModelSpec:
    """Attention by its traits, experts where the config has them, dense feed-forwards elsewhere."""
    kind = _KINDS[config.text("model_type")]
    for key in kind.unread:
        config.refuse(key, because="what it switches on is not modelled")
    decoder = Decoder.read(_respelt(config, kind))
    decoder = replace(decoder, norm=Norm(kind=kind.norm, width=decoder.hidden))
    post_norm = decoder.norm if kind.has_post_norms else None
    post_norms = () if post_norm is None else (post_norm,)
    mlp_bias = is_set(config, kind.mlp_bias)
    attention, is_sparse = _attention(decoder, kind), _sparse_layers(config, kind, decoder.num_layers)

    def block(layer: int) -> Block:
        token_mixer = replace(attention(layer), post_norm=post_norm)
        if is_sparse[layer]:
            return Block(cells=(token_mixer, replace(_experts(decoder, kind, layer), post_norms=post_norms)))
        return Block(cells=(token_mixer, decoder.mlp(layer, bias=mlp_bias, post_norm=post_norm)))

    model = decoder.assemble(name, block, tied_default=kind.is_tied)
    return replace(model, head_bias=is_set(config, kind.head_bias))


def _respelt(config: HfConfig, kind: Routed) -> HfConfig:
    """Return the config with the names that every decoder reads, where the family has others."""
    changes: dict[str, object] = {}
    if config.text("model_type") in {"step3_text", "step3p5"}:
        config.refuse("per_layer_config", because="sizes of single layers are not modelled")
        context = config.first_integer("max_position_embeddings", "max_position_embedding", "max_seq_len")
        changes = {
            "num_key_value_heads": config.first_integer("num_attention_groups", "num_key_value_heads"),
            "max_position_embeddings": context,
            "moe_num_experts": config.first_integer("moe_num_experts", "n_routed_experts"),
            "moe_top_k": config.first_integer("moe_top_k", "num_experts_per_tok"),
        }
        changes |= {} if "hidden_act" in config else {"hidden_act": "silu"}
        counted, types = config.layers("num_hidden_layers"), config.strings("layer_types")
        if len(types) > counted:  # layers that predict further tokens come last
            changes["layer_types"] = list(types[:counted])
    if kind.pattern_key in config and "layer_types" not in config:
        changes["sliding_window_pattern"] = config.integer(kind.pattern_key)
    return config.with_values(changes)


def _attention(decoder: Decoder, kind: Routed) -> Callable[[int], SelfAttention]:
    config = decoder.config
    windows = layer_windows(config, decoder.num_layers, pattern_default=kind.full_every)
    switch = kind.qk_norm_key
    sliding_heads = _sliding_heads(config, decoder.num_heads)

    def attention(layer: int) -> SelfAttention:
        window = windows[layer]
        return replace(
            decoder.attention(layer),
            num_heads=sliding_heads if window else decoder.num_heads,
            window=window,
            qkv_bias=is_set(config, kind.qkv_bias),
            output_bias=is_set(config, kind.output_bias),
            qk_norm=kind.qk_norm if switch is None or config.flag(switch[0], default=switch[1]) else "none",
            has_rope=bool(window) or not kind.is_full_without_rope or not any(windows),
            output_gate=kind.output_gate,
            head_gate=is_set(config, kind.head_gate),
            query_rank=config.integer(kind.query_rank) if kind.query_rank else 0,
        )

    return attention


def _sliding_heads(config: HfConfig, num_heads: int) -> int:
    """Heads of sliding layers; Step states them in a section of its own."""
    other = config.section("attention_other_setting")
    if other is None:
        return config.integer("num_sliding_attention_heads", num_heads)
    if other.text("attention_type") != "sliding_attention":
        raise other.fault("attention_type", "sliding_attention")
    for key, written in (("num_attention_groups", "num_attention_groups"), ("head_dim", "head_dim")):
        if key in other and config.raw(written) != other.raw(key):
            raise other.fault(key, f"as in the layers that see everything, {config.raw(written)}")
    return other.integer("num_attention_heads", num_heads)


def _sparse_layers(config: HfConfig, kind: Routed, num_layers: int) -> tuple[bool, ...]:
    """Which layers hold experts."""
    types = config.strings("mlp_layer_types")[:num_layers]
    if types:
        if len(types) != num_layers or set(types) - {"dense", "sparse"}:
            raise config.fault("mlp_layer_types", f"a list of num_hidden_layers = {num_layers} names, dense or sparse")
        return tuple(written == "sparse" for written in types)
    if kind.topk == "moe_k":  # ERNIE
        first, last = (
            config.integer("moe_layer_start_index", 1, least=0),
            config.integer("moe_layer_end_index", -1, least=-1),
        )
        interval, last = config.integer("moe_layer_interval", 1), num_layers - 1 if last < 0 else last
        return tuple(first <= layer <= last and (layer + 1) % interval == 0 for layer in range(num_layers))
    if "moe_layers_enum" in config:  # Step
        return tuple(layer in _listed(config, "moe_layers_enum") for layer in range(num_layers))
    key, default = kind.num_dense or ("", 1 if kind.topk == "moe_top_k" else 0)
    dense = config.integer(key, default, least=0) if key else default
    if dense > num_layers:
        raise config.fault(key, f"at most num_hidden_layers = {num_layers}")
    step = config.integer("moe_layer_freq", 1)
    return tuple(layer >= dense and layer % step == 0 for layer in range(num_layers))


def _listed(config: HfConfig, key: str) -> frozenset[int]:
    """Read layers as Step writes them: numbers in a text, separated by commas."""
    written = config.raw(key)
    parts = written.split(",") if isinstance(written, str) else written
    if not isinstance(parts, list) or not all(str(part).strip().isdecimal() for part in parts):
        raise config.fault(key, "numbers of layers, separated by commas")
    return frozenset(int(part) for part in parts)


def _experts(decoder: Decoder, kind: Routed, layer: int) -> MixtureOfExperts:
    config = decoder.config
    experts, topk = _same(config, kind.num_experts), _same(config, kind.topk)
    if topk > experts:
        raise config.fault(kind.topk, f"at most {kind.num_experts} = {experts}")
    prefix = f"model.layers.{layer}.mlp"
    inter = _same(config, kind.inter, default=decoder.inter)
    shared = _same(config, kind.shared_inter, default=inter, least=0) if kind.shared_inter or kind.num_shared else 0
    if kind.num_shared:
        shared *= _same(config, kind.num_shared, default=kind.shared_default, least=0)
    bias = is_set(config, kind.mlp_bias)
    return MixtureOfExperts(
        hidden=decoder.hidden,
        inter=inter,
        num_experts=experts,
        topk=topk,
        dtype=decoder.dtype,
        weights=decoder.quantisation.of(f"{prefix}.experts"),
        norm=decoder.norm,
        router_dtype=kind.router_dtype,
        correction_bias=is_set(config, kind.correction_bias),
        shared=decoder.feed_forward(f"{prefix}.shared_experts", shared, bias=bias) if shared else None,
    )


def _same(config: HfConfig, key: str, *, default: int | None = None, least: int = 1) -> int:
    """Read a count that may be written once per layer, as long as every layer has the same."""
    written = config.raw(key) if key else None
    if not isinstance(written, list):
        return config.integer(key, default, least=least)
    counts = set(config.integers(key))
    if len(counts) != 1 or (count := counts.pop()) < least or isinstance(count, bool):
        raise config.fault(key, f"the same integer >= {least} for every layer")
    return count
