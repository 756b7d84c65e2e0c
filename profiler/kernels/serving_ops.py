"""The rest of a layer's small ops in plain torch: layer norms, other activations, per-head norms, KV write, routing.

``width`` is the row in elements: the *output* width of gated activations, all query and key heads of ``qk_norm``, keys
and values together of ``kv_write``, the experts of ``topk``. A name ending in ``_quantise`` is its op followed by one
scale per row, which engines fuse and eager torch does not.
"""

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from profiler.backend import Prepared, Unsupported
from profiler.kernels.buffers import TORCH_DTYPES, Buffers
from profiler.kernels.elementwise import EPSILON, add_rms_norm, quantise_row
from profiler.kernels.elementwise_bytes import ROPE_HEAD_DIM
from profiler.point import OpShape

_FLOATS: Final = frozenset({"bf16", "fp16", "fp32"})
_ONE_BYTE: Final = {"fp8": torch.float8_e4m3fn, "w8a8": torch.int8}
_ACTIVATIONS: Final[dict[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "relu": F.relu,
}
_PLAIN: Final = frozenset(
    {"layernorm", "add_layernorm", "add_rmsnorm", "qk_norm", "add", "kv_write", "gather_rows", "topk"}
)
# Chosen experts of a token, and KV slots a write scatters over, as a multiple of its rows.
_TOPK: Final = 8
_SLOTS: Final = 4

Rows = Callable[[torch.Tensor], torch.Tensor]


def is_serving_op(op: OpShape) -> bool:
    """Whether this module runs ``op`` in its format."""
    name, is_quantising = op.shape["op"].removesuffix("_quantise"), op.shape["op"].endswith("_quantise")
    if name not in _PLAIN and name.removesuffix("_mul") not in _ACTIVATIONS:
        return False
    return op.dtype in _ONE_BYTE if is_quantising else op.dtype in _FLOATS


def prepare_serving_op(op: OpShape, buffers: Buffers) -> Prepared:
    """Return the launch of one op; raises ``Unsupported`` for sizes it cannot have."""
    name, rows, width = op.shape["op"], op.shape["rows"], op.shape["width"]
    if min(rows, width) < 1:
        raise Unsupported(f"illegal shape rows={rows} width={width}: both must be at least 1")
    dtype = op.dtype if op.dtype in _FLOATS else "bf16"
    base = name.removesuffix("_quantise")
    call = _rows_of(base, rows, width, dtype, buffers)
    if base == "topk":
        inputs = buffers.rotating((rows, width), "fp32")
    else:
        inputs = buffers.rotating((rows, 2 * width if base.endswith("_mul") else width), dtype)
    copies = len(inputs)
    if base == name:
        return Prepared(lambda i: call(inputs[i % copies]), copies)
    kind = _ONE_BYTE[op.dtype]
    return Prepared(lambda i: quantise_row(call(inputs[i % copies]), kind), copies)


def _rows_of(name: str, rows: int, width: int, dtype: str, buffers: Buffers) -> Rows:
    """Return the op as a function of its input rows, other operands bound."""
    if name.removesuffix("_mul") in _ACTIVATIONS:
        activation = _ACTIVATIONS[name.removesuffix("_mul")]
        return (lambda x: _gated(activation, x)) if name.endswith("_mul") else activation
    weight = buffers.random((width,), dtype)
    match name:
        case "layernorm":
            return lambda x: F.layer_norm(x, (width,), weight, weight, EPSILON)
        case "add_layernorm" | "add_rmsnorm":
            residual = buffers.random((rows, width), dtype)
            if name == "add_rmsnorm":
                return lambda x: add_rms_norm(x, residual, weight)[0]
            return lambda x: F.layer_norm(x + residual, (width,), weight, weight, EPSILON)
        case "qk_norm":
            head_dim = ROPE_HEAD_DIM if width % ROPE_HEAD_DIM == 0 else width
            return lambda x: F.rms_norm(x.view(rows, -1, head_dim), (head_dim,), weight[:head_dim], EPSILON)
        case "add":
            other = buffers.random((rows, width), dtype)
            return lambda x: x + other
        case "kv_write":
            cache = torch.zeros((_SLOTS * rows, width), dtype=TORCH_DTYPES[dtype], device=buffers.device)
            slots = torch.randperm(_SLOTS * rows, device=buffers.device)[:rows]
            return lambda x: cache.index_copy_(0, slots, x)
        case "gather_rows":
            index = buffers.integers((rows,), rows)
            return lambda x: x.index_select(0, index)
        case "topk":
            count = min(_TOPK, width)
            return lambda x: torch.softmax(x, dim=-1).topk(count, dim=-1).values
    raise Unsupported(f"unknown small op {name!r}")


def _gated(activation: Rows, x: torch.Tensor) -> torch.Tensor:
    gate, up = x.chunk(2, dim=-1)
    return activation(gate) * up
