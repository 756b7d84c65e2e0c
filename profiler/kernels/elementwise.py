"""The memory-bound small ops of a layer in plain torch: norms, activation, rope, quantisation, embedding, sampler.

``width`` is the op's row in elements: hidden size for norms and quantisation, the *output* width of SiLU-mul, all query
and key heads times head_dim for rope, hidden size for the embedding, vocabulary for the sampler. Inputs rotate (each
row of a large batch comes from memory), outputs are new.
"""

from collections.abc import Callable, Sequence
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from profiler.backend import Prepared, Unsupported
from profiler.kernels.buffers import Buffers
from profiler.kernels.elementwise_bytes import GROUP, ROPE_HEAD_DIM
from profiler.kernels.quantise import fp8_group, fp8_row, fp8_tensor, int8_row, int8_tensor
from profiler.point import OpShape

EPSILON: Final = 1e-5
# Batches of token ids an embedding walks through, so that its rows are not those of the call before.
_ID_SETS: Final = 64
_QUANTISE: Final = {
    ("quantise", "fp8"): fp8_row,
    ("quantise", "w8a8"): int8_row,
    ("quantise", "int8"): int8_row,
    ("quantise_tensor", "fp8"): fp8_tensor,
    ("quantise_tensor", "w8a8"): int8_tensor,
    ("quantise_tensor", "int8"): int8_tensor,
    ("quantise_group", "fp8"): fp8_group,
}
_PLAIN: Final = frozenset({"rmsnorm", "add_rmsnorm", "silu_mul", "rope", "embedding", "sampler", "copy"})


def elementwise_kernels(op: OpShape, device: torch.device) -> Sequence[str]:
    """Return the label of torch's eager kernels where the op is known."""
    name = op.shape["op"]
    is_known = name in _PLAIN and op.dtype in {"bf16", "fp16", "fp32"}
    return (f"torch.eager_{device.type}",) if is_known or (name, op.dtype) in _QUANTISE else ()


def prepare_elementwise(op: OpShape, buffers: Buffers) -> Prepared:
    """Return the launch of one small op; raises ``Unsupported`` for sizes it cannot have."""
    name, rows, width = op.shape["op"], op.shape["rows"], op.shape["width"]
    if min(rows, width) < 1:
        raise Unsupported(f"illegal shape rows={rows} width={width}: both must be at least 1")
    dtype = op.dtype if op.dtype in {"bf16", "fp16", "fp32"} else "bf16"
    if (name, op.dtype) in _QUANTISE:
        if name == "quantise_group" and width % GROUP:
            raise Unsupported(f"groups of {GROUP} do not divide width {width}")
        quantise = _QUANTISE[name, op.dtype]
        return _over(buffers.rotating((rows, width), dtype), quantise)
    if name == "embedding":
        table = buffers.table(width, dtype)
        ids = [buffers.integers((rows,), len(table)) for _ in range(_ID_SETS)]
        return Prepared(lambda i: F.embedding(ids[i % _ID_SETS], table), _ID_SETS)
    if name == "sampler":
        return _over(buffers.rotating((rows, width), "fp32"), sample)
    if name == "copy":
        return _over(buffers.rotating((rows, width), dtype), torch.clone)
    if name == "rope":
        return _rope(rows, width, dtype, buffers)
    if name == "silu_mul":
        return _over(buffers.rotating((rows, 2 * width), dtype), silu_mul)
    weight = buffers.random((width,), dtype)
    if name == "rmsnorm":
        return _over(buffers.rotating((rows, width), dtype), lambda x: rms_norm(x, weight))
    residual = buffers.random((rows, width), dtype)
    return _over(buffers.rotating((rows, width), dtype), lambda x: add_rms_norm(x, residual, weight))


def _over(inputs: list[torch.Tensor], call: Callable[[torch.Tensor], object]) -> Prepared:
    copies = len(inputs)
    return Prepared(lambda i: call(inputs[i % copies]), copies)


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


def _rope(rows: int, width: int, dtype: str, buffers: Buffers) -> Prepared:
    if width % ROPE_HEAD_DIM:
        raise Unsupported(f"rope is measured with head_dim {ROPE_HEAD_DIM}, which does not divide width {width}")
    angles = buffers.random((rows, 1, ROPE_HEAD_DIM // 2), "fp32")
    kind = buffers.random((1,), dtype).dtype
    cos, sin = angles.cos().to(kind), angles.sin().to(kind)
    inputs = buffers.rotating((rows, width // ROPE_HEAD_DIM, ROPE_HEAD_DIM), dtype)
    return _over(inputs, lambda x: rope(x, cos, sin))
