"""Which kernels one decoder layer runs on one rank, as op shapes: the parts of a whole-step anchor.

A step of L layers is measured as one sequence of these kernels, captured as one graph, and compared with the sum of the
same kernels measured alone: the difference is what adding up overlooks (launch tails, caches, clocks). Collectives,
embedding, lm_head and sampler are not part of it. Sizes: each model's published config.json.
"""

import re
from typing import Any, Final

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.number_formats import SCHEMES
from costmodel.ops.small_ops import SMALL_OPS, small_op
from profiler.backend import Unsupported
from profiler.point import OpShape, small_op_shape

_FLOATS: Final = frozenset({"bf16", "fp16", "fp32"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseLayer:
    """Sizes of one dense decoder layer."""

    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    inter: int


LAYERS: Final[dict[str, DenseLayer]] = {
    "llama-3.2-1b": DenseLayer(hidden=2048, num_heads=32, num_kv_heads=8, head_dim=64, inter=8192),
    "llama-3.1-8b": DenseLayer(hidden=4096, num_heads=32, num_kv_heads=8, head_dim=128, inter=14336),
    "llama-3.1-70b": DenseLayer(hidden=8192, num_heads=64, num_kv_heads=8, head_dim=128, inter=28672),
    "qwen2.5-32b": DenseLayer(hidden=5120, num_heads=40, num_kv_heads=8, head_dim=128, inter=27648),
}


def step_shape(  # the columns of a step row
    model: str,
    *,
    dtype: str,
    tp: int,
    layers: int,
    prefill: tuple[int, int, int] = (0, 0, 0),
    decode: tuple[int, int] = (0, 0),
) -> OpShape:
    """Build a step of (chunks, q, kv) prefill and (sequences, kv) decode."""
    return OpShape.of(
        "step",
        dtype=dtype,
        model=model,
        plan=f"tp{tp}",
        layers=layers,
        kv_dtype=dtype if dtype in _FLOATS else "bf16",
        num_prefill=prefill[0],
        prefill_q=prefill[1],
        prefill_kv=prefill[2],
        num_decode=decode[0],
        decode_kv=decode[1],
    )


def layer_ops(step: OpShape) -> list[OpShape]:
    """Return the ops of one layer in the order they run; raises ``Unsupported`` for a model or plan without them."""
    shape, dtype = step.shape, step.dtype
    layer, tp = LAYERS.get(shape["model"]), _tensor_parallel(shape["plan"])
    if layer is None:
        raise Unsupported(f"no layer sizes of {shape['model']!r}; known: {', '.join(LAYERS)}")
    if layer.num_heads % tp or layer.inter % tp:
        raise Unsupported(f"{layer.num_heads} heads and inner width {layer.inter} do not split over tp={tp}")
    tokens = shape["num_prefill"] * shape["prefill_q"] + shape["num_decode"]
    heads, kv_heads, inter = layer.num_heads // tp, max(1, layer.num_kv_heads // tp), layer.inter // tp
    norm = "add_rmsnorm" if dtype in _FLOATS else "add_rmsnorm_quantise"
    small = _SmallOps(tokens, dtype)
    return [
        small.of(norm, layer.hidden),
        _gemm(tokens, (heads + 2 * kv_heads) * layer.head_dim, layer.hidden, dtype),
        small.of("rope", (heads + kv_heads) * layer.head_dim),
        _attention(step, heads, kv_heads, layer.head_dim),
        *([] if dtype in _FLOATS else [small.of("quantise", heads * layer.head_dim)]),
        _gemm(tokens, layer.hidden, heads * layer.head_dim, dtype),
        small.of(norm, layer.hidden),
        _gemm(tokens, 2 * inter, layer.hidden, dtype),
        small.of("silu_mul" if dtype in _FLOATS else "silu_mul_quantise", inter),
        _gemm(tokens, layer.hidden, inter, dtype),
    ]


@dataclass(frozen=True, slots=True)
class _SmallOps:
    tokens: int
    dtype: str

    def of(self, name: str, width: int) -> OpShape:
        made_of: dict[str, Any] = {"dtype": self.dtype if self.dtype in _FLOATS else "bf16"}
        if SMALL_OPS[name].rounds:
            made_of |= {"out": SCHEMES[self.dtype].activation, "scales": 1}
        return small_op_shape(small_op(name, rows=self.tokens, width=width, **made_of))


def _gemm(m: int, n: int, k: int, dtype: str) -> OpShape:
    scaling = "none" if dtype in _FLOATS else "row"
    return OpShape.of("gemm", dtype=dtype, m=m, n=n, k=k, scaling=scaling, quantise=False)


def _attention(step: OpShape, heads: int, kv_heads: int, head_dim: int) -> OpShape:
    shape = step.shape
    is_prefill, is_decode = bool(shape["num_prefill"]), bool(shape["num_decode"])
    return OpShape.of(
        "attention",
        dtype=shape["kv_dtype"],
        phase="mixed" if is_prefill and is_decode else "prefill" if is_prefill else "decode",
        variant="gqa",
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        v_head_dim=head_dim,
        window=0,
        kv_dtype=shape["kv_dtype"],
        num_prefill=shape["num_prefill"],
        prefill_q=shape["prefill_q"],
        prefill_kv=shape["prefill_kv"],
        num_decode=shape["num_decode"],
        decode_q=1,
        decode_kv=shape["decode_kv"],
        decode_kv_max=shape["decode_kv"],
    )


def _tensor_parallel(plan: str) -> int:
    match = re.fullmatch(r"tp(\d+)", plan)
    if match is None or int(match[1]) < 1:
        raise Unsupported(f"a step is measured on one rank of a tpN plan, not {plan!r}")
    return int(match[1])
