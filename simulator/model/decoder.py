"""What decoder configs have in common: sizes with Hugging Face's fallbacks, formats, windows, and assembly."""

from collections.abc import Callable
from typing import Final

from cluster_specs.lazy_dataclass import dataclass
from simulator.model.block import Block, distinct
from simulator.model.cells.attention import SelfAttention
from simulator.model.cells.mlp import FeedForward, Mlp
from simulator.model.hf_config import HfConfig
from simulator.model.norm import Norm
from simulator.model.quantisation.quantisation import GATE_UP, QKV, Quantisation, read_quantisation
from simulator.model.spec import Embedding, ModelSpec

# Engines run checkpoints stored in 32 bits in 16: bf16, unless the plan casts to another format.
_DTYPES: Final = {"bfloat16": "bf16", "float16": "fp16", "float32": "bf16"}
ACTIVATION_NAMES: Final = {
    "silu": "silu",
    "swish": "silu",
    "swiglu": "silu",
    "swigluoai": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_python": "gelu",
    "quick_gelu": "gelu",
    "relu": "relu",
    "relu2": "relu2",
    "xielu": "xielu",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """Sizes every decoder has, read once."""

    config: HfConfig
    hidden: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    inter: int
    vocab: int
    max_position: int
    dtype: str
    activation: str
    quantisation: Quantisation
    norm: Norm
    is_gated: bool = True  # the feed-forward: with a gate beside the up projection

    @classmethod
    def read(cls, config: HfConfig, *, outer: HfConfig | None = None) -> "Decoder":
        """Read and cross-check; formats of a multimodal wrapper stand in its ``outer`` config."""
        hidden = config.integer("hidden_size")
        heads = config.integer("num_attention_heads")
        kv_heads = config.integer("num_key_value_heads", heads)
        if heads % kv_heads:
            raise config.fault("num_key_value_heads", f"a divisor of num_attention_heads = {heads}")
        if not ("head_dim" in config or "kv_lora_rank" in config) and hidden % heads:
            raise config.fault("num_attention_heads", f"a divisor of hidden_size = {hidden} when head_dim is absent")
        dtype = dtype_of(config, outer)
        formats = outer if outer is not None and "quantization_config" in outer else config
        return cls(
            config=config,
            hidden=hidden,
            num_layers=config.layers("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=config.integer("head_dim", hidden // heads),
            inter=config.first_integer("intermediate_size", "moe_intermediate_size"),
            vocab=config.integer("vocab_size"),
            max_position=config.integer("max_position_embeddings"),
            dtype=dtype,
            activation=activation_of(config, "hidden_act", "hidden_activation"),
            quantisation=read_quantisation(formats, dtype),
            norm=Norm(kind="rmsnorm", width=hidden),
        )

    def attention(self, layer: int) -> SelfAttention:
        """Return the plain self-attention cell of one layer; families replace the fields in which theirs differs."""
        module = f"model.layers.{layer}.self_attn"
        return SelfAttention(
            hidden=self.hidden,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            dtype=self.dtype,
            weights=self.quantisation.matrix(module, *QKV[0], fused=QKV[1]),
            output_weights=self.quantisation.matrix(module, "o_proj"),
            norm=self.norm,
        )

    def feed_forward(self, module: str, inter: int, *, bias: bool = False) -> FeedForward:
        """Return a feed-forward, in the formats of ``module``."""
        return FeedForward(
            hidden=self.hidden,
            inter=inter,
            dtype=self.dtype,
            weights=self.quantisation.matrix(module, *GATE_UP[0], fused=GATE_UP[1]),
            down_weights=self.quantisation.matrix(module, "down_proj"),
            gated=self.is_gated,
            activation=self.activation,
            bias=bias,
        )

    def mlp(self, layer: int, *, bias: bool = False, post_norm: Norm | None = None) -> Mlp:
        """Return the dense MLP cell of one layer."""
        dense = self.feed_forward(f"model.layers.{layer}.mlp", self.inter, bias=bias)
        return Mlp(feed_forward=dense, norm=self.norm, post_norm=post_norm)

    def mlp_beside_attention(self, layer: int) -> Mlp:
        """Return the dense MLP cell of a layer whose attention and MLP share one norm and one sum."""
        return Mlp(feed_forward=self.feed_forward(f"model.layers.{layer}.mlp", self.inter), norm=None)

    def assemble(self, name: str, block: Callable[[int], Block], *, tied_default: bool = False) -> ModelSpec:
        """Build every layer, keep each distinct one once."""
        unique, layers = distinct([block(layer) for layer in range(self.num_layers)])
        return ModelSpec(
            name=name,
            architecture=self.config.text("model_type"),
            hidden_size=self.hidden,
            vocab_size=self.vocab,
            max_position=self.max_position,
            dtype=self.dtype,
            quantisation=self.quantisation.scheme,
            head_weights=self.quantisation.of("lm_head"),
            tied_embeddings=self.config.flag("tie_word_embeddings", default=tied_default),
            unique_blocks=unique,
            layers=layers,
            embedding=Embedding(width=self.hidden),
            final_norm=self.norm,
        )


def dtype_of(config: HfConfig, outer: HfConfig | None = None) -> str:
    """Return the format a checkpoint runs in (``torch_dtype``, or ``dtype`` as newer configs spell it)."""
    for place in (config, outer):
        for key in ("torch_dtype", "dtype"):
            if place is not None and key in place:
                stated = place.text(key)
                if stated not in _DTYPES:
                    raise place.fault(key, f"one of {', '.join(_DTYPES)}")
                return _DTYPES[stated]
    return "bf16"


def activation_of(config: HfConfig, *keys: str) -> str:
    """Return the activation's name as ops spell it."""
    for key in keys:
        if key in config:
            stated = config.text(key)
            if stated not in ACTIVATION_NAMES:
                raise config.fault(key, f"one of {', '.join(ACTIVATION_NAMES)}")
            return ACTIVATION_NAMES[stated]
    raise config.fault(keys[0], f"one of {', '.join(ACTIVATION_NAMES)}")


def layer_windows(
    config: HfConfig, num_layers: int, *, pattern_default: int = 0, use_default: bool = True
) -> tuple[int, ...]:
    """Keys a query sees in each layer, 0 = all.

    ``layer_types`` decides; else ``sliding_window_pattern`` p (every p-th layer is full); else every layer slides,
    from ``max_window_layers`` on where that is given. ``use_default`` stands in for an absent ``use_sliding_window``.
    """
    types = config.strings("layer_types")
    if types and len(types) != num_layers:
        raise config.fault("layer_types", f"a list of num_hidden_layers = {num_layers} names")
    unknown = sorted(set(types) - {"sliding_attention", "full_attention"})
    if unknown:
        raise config.fault("layer_types", f"made of sliding_attention and full_attention, not {unknown[0]}")
    window = config.integer("sliding_window", 0, least=0)
    if "sliding_attention" in types and not window:
        raise config.fault("sliding_window", "an integer >= 1, because layer_types names sliding_attention")
    if not window or not config.flag("use_sliding_window", default=use_default):
        return (0,) * num_layers
    if types:
        return tuple(window if kind == "sliding_attention" else 0 for kind in types)
    written = config.raw("sliding_window_pattern")
    if isinstance(written, str):  # EXAONE: one letter per layer of a period, L = local
        if not written or set(written) - {"L", "G"}:
            raise config.fault("sliding_window_pattern", "an integer, or letters L and G")
        return tuple(window if written[layer % len(written)] == "L" else 0 for layer in range(num_layers))
    spelling = "_sliding_window_pattern" if "_sliding_window_pattern" in config else "sliding_window_pattern"
    pattern = config.integer(spelling, pattern_default, least=0)
    if pattern:
        return tuple(0 if (layer + 1) % pattern == 0 else window for layer in range(num_layers))
    first = config.integer("max_window_layers", 0, least=0)
    return tuple(window if layer >= first else 0 for layer in range(num_layers))
