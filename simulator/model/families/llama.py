"""Dense decoders of Llama's kind: grouped attention, then a feed-forward; a table says in what each differs.

A layer with a norm behind each sublayer and none before (OLMo 2, EXAONE 4) has as many norms of the same width and
costs the same. What multiplies embeddings, residuals or logits by a constant counts as nothing.
"""

from dataclasses import replace
from typing import Final, Literal

from cluster_specs.lazy_dataclass import dataclass
from simulator.model.architectures import architecture
from simulator.model.block import Block
from simulator.model.decoder import Decoder, layer_windows
from simulator.model.hf_config import HfConfig
from simulator.model.norm import Norm
from simulator.model.spec import ModelSpec

# Always so, or: the keys of which the first that is present says so, and what it means when none is.
Bias = bool | tuple[tuple[str, ...], bool]
_ATTENTION: Final = (("attention_bias",), False)
_MLP: Final = (("mlp_bias",), False)
_BIAS: Final = (("bias",), False)
_USE_BIAS: Final = (("use_bias",), False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """In what a model type differs from Llama."""

    qkv_bias: Bias = _ATTENTION
    output_bias: Bias = _ATTENTION
    mlp_bias: Bias = _MLP
    head_bias: bool = False
    qk_norm: Literal["none", "head", "each_head", "layer"] = "none"
    qk_norm_key: tuple[str, bool] | None = None  # the key that switches it, and what its absence means
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_learned: Literal["all", "nothing"] = "all"
    has_post_norms: bool = False  # a norm behind each sublayer as well as before it
    is_gated: bool = True
    is_parallel: Bias = False  # attention and feed-forward side by side on one norm
    is_tied: bool = False  # where the config does not say
    uses_window: bool = True  # where a window is stated and ``use_sliding_window`` is not
    full_every: int = 0  # where neither ``layer_types`` nor a pattern is stated
    needs_layer_types: bool = False  # with a window
    without_rope: Literal["none", "full layers", "listed"] = "none"
    unread: tuple[str, ...] = ()  # keys that change the computation in a way that is not modelled


_QWEN2: Final = Traits(qkv_bias=True, output_bias=False, uses_window=False)
_QWEN3: Final = Traits(qk_norm="head", uses_window=False)
_GLM: Final = Traits(qkv_bias=(("attention_bias",), True), output_bias=False, mlp_bias=False)
_GLM4: Final = replace(_GLM, has_post_norms=True)
_TRAITS: Final[dict[str, Traits]] = {
    "apertus": Traits(qk_norm="head", is_gated=False, mlp_bias=False),
    "arcee": Traits(is_gated=False),
    "cwm": Traits(needs_layer_types=True),
    "ernie4_5": Traits(qkv_bias=_USE_BIAS, output_bias=_USE_BIAS, mlp_bias=_USE_BIAS, is_tied=True),
    "exaone4": Traits(qk_norm="head", full_every=4, without_rope="full layers"),
    "gemma": Traits(is_tied=True),
    "glm": _GLM,
    "glm4": _GLM4,
    "glm4v_text": _GLM4,
    "granite": Traits(),
    "helium": Traits(output_bias=False),
    "hunyuan_v1_dense": Traits(qk_norm="head", qk_norm_key=("use_qk_norm", True), unread=("use_cla",)),
    "internlm2": Traits(qkv_bias=_BIAS, output_bias=_BIAS),
    "internlm3": Traits(
        qkv_bias=(("qkv_bias", "attention_bias", "bias"), False),
        output_bias=(("attention_bias", "bias"), False),
        mlp_bias=(("mlp_bias", "bias"), False),
    ),
    "iquestcoder": Traits(),
    "llama": Traits(),
    "mimo": replace(_QWEN2, qkv_bias=(("attention_bias",), True)),
    "minicpm": Traits(is_tied=True),
    "ministral": Traits(),
    "ministral3": Traits(),
    "mistral": Traits(),
    "nemotron": Traits(norm="layernorm", is_gated=False),
    "olmo": Traits(norm="layernorm", norm_learned="nothing"),
    "olmo2": Traits(qk_norm="layer"),
    "olmo3": Traits(qk_norm="layer", full_every=4),
    "orion": Traits(norm="layernorm", qkv_bias=False, output_bias=False),
    "phi": Traits(
        norm="layernorm",
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        head_bias=True,
        is_gated=False,
        is_parallel=True,
        unread=("qk_layernorm",),
    ),
    "phi3": Traits(qkv_bias=False, output_bias=False, mlp_bias=False),
    "qwen2": _QWEN2,
    "qwen2_5_omni_text": _QWEN2,
    "qwen2_5_vl_text": _QWEN2,
    "qwen2_vl_text": _QWEN2,
    "qwen3": _QWEN3,
    "qwen3_vl_text": _QWEN3,
    "seed_oss": Traits(qkv_bias=(("attention_bias",), True), output_bias=(("attention_out_bias",), False)),
    "smollm3": Traits(is_tied=True, uses_window=False, without_rope="listed"),
    "stablelm": Traits(
        norm="layernorm",
        qkv_bias=(("use_qkv_bias",), False),
        output_bias=False,
        mlp_bias=False,
        qk_norm="each_head",
        qk_norm_key=("qk_layernorm", False),
        is_parallel=(("use_parallel_residual",), False),
    ),
    "starcoder2": Traits(
        norm="layernorm",
        qkv_bias=(("use_bias",), True),
        output_bias=(("use_bias",), True),
        mlp_bias=(("use_bias",), True),
        is_gated=False,
        is_tied=True,
    ),
}


@architecture(*_TRAITS)
def read_llama(config: HfConfig, name: str) -> ModelSpec:
    """Every layer alike, but for windows and positions."""
    traits = _TRAITS[config.text("model_type")]
    for key in ("num_local_experts", "num_experts", "n_routed_experts"):
        config.refuse(key, because="this architecture is dense", hint="is model_type right?")
    for key in traits.unread:
        config.refuse(key, because="what it switches on is not modelled")
    decoder = Decoder.read(config)
    norm = Norm(kind=traits.norm, width=decoder.hidden, learned=traits.norm_learned)
    decoder = replace(decoder, norm=norm, is_gated=traits.is_gated)
    qkv_bias, output_bias = is_set(config, traits.qkv_bias), is_set(config, traits.output_bias)
    mlp_bias, is_parallel = is_set(config, traits.mlp_bias), is_set(config, traits.is_parallel)
    if traits.needs_layer_types and "sliding_window" in config and "layer_types" not in config:
        raise config.fault("layer_types", "a list, because sliding_window is stated")
    windows = layer_windows(
        config, decoder.num_layers, pattern_default=traits.full_every, use_default=traits.uses_window
    )
    has_rope = _rotated(config, traits, windows)
    switch = traits.qk_norm_key
    qk_norm = traits.qk_norm if switch is None or config.flag(switch[0], default=switch[1]) else "none"
    post_norm = norm if traits.has_post_norms else None

    def block(layer: int) -> Block:
        attention = replace(
            decoder.attention(layer),
            window=windows[layer],
            qkv_bias=qkv_bias,
            output_bias=output_bias,
            has_rope=has_rope[layer],
            qk_norm=qk_norm,
            post_norm=post_norm,
            is_reduced=not is_parallel,
        )
        mlp = decoder.mlp(layer, bias=mlp_bias, post_norm=post_norm)
        return Block(cells=(attention, replace(mlp, norm=None) if is_parallel else mlp))

    model = decoder.assemble(name, block, tied_default=traits.is_tied)
    return replace(model, head_bias=traits.head_bias)


def is_set(config: HfConfig, bias: Bias) -> bool:
    """Read a bias, or another property that several keys may state."""
    if isinstance(bias, bool):
        return bias
    keys, default = bias
    present = next((key for key in keys if key in config), None)
    return default if present is None else config.flag(present, default=default)


def _rotated(config: HfConfig, traits: Traits, windows: tuple[int, ...]) -> tuple[bool, ...]:
    """Whether each layer's queries and keys carry positions."""
    count = len(windows)
    match traits.without_rope:
        case "full layers":  # of a model that has sliding ones
            return tuple(bool(window) or not any(windows) for window in windows)
        case "listed":
            listed, interval = config.integers("no_rope_layers"), config.integer("no_rope_layer_interval", 4)
            if listed and len(listed) != count:
                raise config.fault("no_rope_layers", f"a list of num_hidden_layers = {count} flags")
            return tuple(map(bool, listed)) or tuple((layer + 1) % interval != 0 for layer in range(count))
        case _:
            return (True,) * count
