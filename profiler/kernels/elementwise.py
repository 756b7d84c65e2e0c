"""The memory-bound small ops of a layer in plain torch: norms, activation, rope, quantisation, embedding, sampler.

``width`` is the op's row in elements: hidden size for norms and quantisation, the *output* width of SiLU-mul, all query
and key heads times head_dim for rope, hidden size for the embedding, vocabulary for the sampler. Inputs rotate (each
row of a large batch comes from memory), outputs are new.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from profiler.backend import Prepared, Unsupported
from profiler.kernels.buffers import TORCH_DTYPES, Buffers
from profiler.kernels.elementwise_bytes import GROUP, ROPE_HEAD_DIM
from profiler.kernels.quantise import fp8_group, fp8_row, fp8_tensor, int8_row, int8_tensor
from profiler.point import OpShape

EPSILON: Final = 1e-5
# Batches of token ids an embedding walks through, so that its rows are not those of the call before.
_ID_SETS: Final = 64
_FLOATS: Final = frozenset({"bf16", "fp16", "fp32"})
_PLAIN: Final = frozenset({"rmsnorm", "add_rmsnorm", "silu_mul", "rope", "embedding", "sampler", "copy"})
# Ops with a one-byte result, and the format their `dtype` column names.
_QUANTISING: Final = frozenset(
    {"quantise", "quantise_tensor", "quantise_group", "rmsnorm_quantise", "silu_mul_quantise"}
)
_ONE_BYTE: Final = {"fp8": torch.float8_e4m3fn, "w8a8": torch.int8, "int8": torch.int8}

Quantised = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallOps:
    """One implementation of the ops that have more than one; quantising ones take the one-byte type."""

    rms_norm: Callable[[torch.Tensor, torch.Tensor], object]
    add_rms_norm: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], object]
    silu_mul: Callable[[torch.Tensor], object]
    rope: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], object]
    quantise: Callable[[torch.Tensor, torch.dtype], Quantised]
    rms_norm_quantise: Callable[[torch.Tensor, torch.Tensor, torch.dtype], Quantised]
    silu_mul_quantise: Callable[[torch.Tensor, torch.dtype], Quantised]


def is_known(op: OpShape) -> bool:
    """Whether this is an op of this module in a format it has."""
    name = op.shape["op"]
    if name == "quantise_group":
        return op.dtype == "fp8"
    return (name in _PLAIN and op.dtype in _FLOATS) or (name in _QUANTISING and op.dtype in _ONE_BYTE)


def prepare_elementwise(op: OpShape, buffers: Buffers, ops: SmallOps) -> Prepared:
    """Return the launch of one small op; raises ``Unsupported`` for sizes it cannot have."""
    name, rows, width = op.shape["op"], op.shape["rows"], op.shape["width"]
    if min(rows, width) < 1:
        raise Unsupported(f"illegal shape rows={rows} width={width}: both must be at least 1")
    dtype = op.dtype if op.dtype in _FLOATS else "bf16"
    if name in _QUANTISING:
        return _quantising(op, buffers, ops)
    if name == "embedding":
        table = buffers.table(width, dtype)
        ids = [buffers.integers((rows,), len(table)) for _ in range(_ID_SETS)]
        return Prepared(lambda i: F.embedding(ids[i % _ID_SETS], table), _ID_SETS)
    if name == "sampler":
        return _over(buffers.rotating((rows, width), "fp32"), sample)
    if name == "copy":
        return _over(buffers.rotating((rows, width), dtype), torch.clone)
    if name == "rope":
        return _rope(rows, width, dtype, buffers, ops)
    if name == "silu_mul":
        return _over(buffers.rotating((rows, 2 * width), dtype), ops.silu_mul)
    weight = buffers.random((width,), dtype)
    if name == "rmsnorm":
        return _over(buffers.rotating((rows, width), dtype), lambda x: ops.rms_norm(x, weight))
    residual = buffers.random((rows, width), dtype)
    return _over(buffers.rotating((rows, width), dtype), lambda x: ops.add_rms_norm(x, residual, weight))


def _quantising(op: OpShape, buffers: Buffers, ops: SmallOps) -> Prepared:
    name, rows, width = op.shape["op"], op.shape["rows"], op.shape["width"]
    kind = _ONE_BYTE[op.dtype]
    if name == "silu_mul_quantise":
        return _over(buffers.rotating((rows, 2 * width), "bf16"), lambda x: ops.silu_mul_quantise(x, kind))
    inputs = buffers.rotating((rows, width), "bf16")
    if name == "rmsnorm_quantise":
        weight = buffers.random((width,), "bf16")
        return _over(inputs, lambda x: ops.rms_norm_quantise(x, weight, kind))
    if name == "quantise":
        return _over(inputs, lambda x: ops.quantise(x, kind))
    if name == "quantise_tensor":
        return _over(inputs, int8_tensor if kind == torch.int8 else fp8_tensor)
    if width % GROUP:
        raise Unsupported(f"groups of {GROUP} do not divide width {width}")
    return _over(inputs, fp8_group)


def _over(inputs: list[torch.Tensor], call: Callable[[torch.Tensor], object]) -> Prepared:
    copies = len(inputs)
    return Prepared(lambda i: call(inputs[i % copies]), copies)


def _rope(rows: int, width: int, dtype: str, buffers: Buffers, ops: SmallOps) -> Prepared:
    head_dim = next((size for size in (ROPE_HEAD_DIM, 64, 32) if width % size == 0), None)
    if head_dim is None:
        raise Unsupported(f"width {width} is no whole number of rotated heads of 128, 64 or 32")
    angles = buffers.random((rows, 1, head_dim // 2), "fp32")
    kind = TORCH_DTYPES[dtype]
    cos, sin = angles.cos().to(kind), angles.sin().to(kind)
    inputs = buffers.rotating((rows, width // head_dim, head_dim), dtype)
    return _over(inputs, lambda x: ops.rope(x, cos, sin))


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight over the last dimension."""
    return F.rms_norm(x, (x.shape[-1],), weight, EPSILON)


def add_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the norm of ``x + residual``, and that sum."""
    total = x + residual
    return rms_norm(total, weight), total


def silu_mul(x: torch.Tensor) -> torch.Tensor:
    """SiLU of the first half of the last dimension times the second half."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate [rows, heads, head_dim] by [rows, 1, head_dim / 2] angles, halves paired (NeoX style)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def sample(logits: torch.Tensor) -> torch.Tensor:
    """Draw one token per row by the Gumbel trick: argmax of softmax(logits) / Exp(1)."""
    probabilities = torch.softmax(logits, dim=-1)
    return probabilities.div_(torch.empty_like(probabilities).exponential_(1.0)).argmax(dim=-1)


def quantise_row(x: torch.Tensor, kind: torch.dtype) -> Quantised:
    """Quantise with one scale per row."""
    return int8_row(x) if kind == torch.int8 else fp8_row(x)


TORCH_OPS: Final = SmallOps(
    rms_norm=rms_norm,
    add_rms_norm=add_rms_norm,
    silu_mul=silu_mul,
    rope=rope,
    quantise=quantise_row,
    rms_norm_quantise=lambda x, weight, kind: quantise_row(rms_norm(x, weight), kind),
    silu_mul_quantise=lambda x, kind: quantise_row(silu_mul(x), kind),
)
