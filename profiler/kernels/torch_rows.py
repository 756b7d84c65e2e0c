"""The small ops of a layer in plain torch: a function per name of ``costmodel.ops.small_ops``.

Parameters are named as `profiler.kernels.row_operands` names operands; rows are [rows, width]. A name that ends in
``_quantise`` is its op followed by the rounding, which engines fuse and eager torch does not.
"""

from collections.abc import Callable, Mapping
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from profiler.backend import Prepared
from profiler.kernels.buffers import Buffers
from profiler.kernels.quantise import Quantised, rounding
from profiler.kernels.row_operands import RowKernel, made_of, prepare_rows
from profiler.point import OpShape

_Activation = Callable[[torch.Tensor], torch.Tensor]

EPSILON: Final = 1e-5
_ROUNDED: Final = "_quantise"
# xIELU's two learned scalars and its fixed slope (arXiv 2411.13010): their values do not change the time.
XIELU: Final = (0.8, 0.8, 0.5)


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight over the last dimension."""
    return F.rms_norm(x, (x.shape[-1],), weight, EPSILON)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return (x - mean) / sqrt(var + eps) * weight + bias over the last dimension."""
    return F.layer_norm(x, (x.shape[-1],), weight, bias, EPSILON)


def add_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the norm of ``x + residual``, and that sum."""
    total = x + residual
    return rms_norm(total, weight), total


def add_layer_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the norm of ``x + residual``, and that sum."""
    total = x + residual
    return layer_norm(total, weight, bias), total


def qk_norm(heads: torch.Tensor, head_weight: torch.Tensor) -> torch.Tensor:
    """Return the RMS norm of every head of [rows, heads, head_dim]."""
    return rms_norm(heads, head_weight)


def rms_norm_gate(heads: torch.Tensor, gate_heads: torch.Tensor, head_weight: torch.Tensor) -> torch.Tensor:
    """Return the RMS norm of every head times SiLU of its gate."""
    return rms_norm(heads, head_weight) * F.silu(gate_heads)


def sigmoid_mul(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """Return x times the sigmoid of its gate."""
    return x * torch.sigmoid(gate)


def relu2(x: torch.Tensor) -> torch.Tensor:
    """Return the square of ReLU."""
    return F.relu(x).square()


def xielu(x: torch.Tensor) -> torch.Tensor:
    """Return xIELU: a parabola above zero, an exponential below."""
    above, below, slope = XIELU
    return torch.where(x > 0, above * x * x + slope * x, below * (torch.expm1(x.clamp_max(0)) - x) + slope * x)


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """SiLU of the first half of the last dimension times the second half."""
    return _gated(F.silu, gate_up)


def rope(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate [rows, heads, head_dim] by [rows, 1, head_dim / 2] angles, halves paired (NeoX style)."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def embedding(ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Look rows up by their numbers."""
    return F.embedding(ids, table)


def conv1d(x: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Convolve every column of consecutive tokens with its own taps [width, taps], causally, then SiLU."""
    rows, count = len(x), taps.shape[1]
    summed = F.conv1d(x.t().unsqueeze(0), taps.unsqueeze(1), padding=count - 1, groups=x.shape[1])
    return F.silu(summed[0, :, :rows].t())


def kv_write(x: torch.Tensor, cache: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """Write rows into slots of the cache, in its format."""
    rows = x.to(cache.dtype)
    if cache.dtype.itemsize == 1:  # torch scatters no 8-bit floats: their bytes are scattered
        return cache.view(torch.uint8).index_copy_(0, slots, rows.view(torch.uint8))
    return cache.index_copy_(0, slots, rows)


def topk(scores: torch.Tensor, chosen: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights of the best ``chosen`` experts of each row after a softmax, and their numbers."""
    weights, numbers = torch.softmax(scores, dim=-1).topk(chosen, dim=-1)
    return weights, numbers.to(torch.int32)


def sampler(x: torch.Tensor) -> torch.Tensor:
    """Draw one token per row of logits by the Gumbel trick: argmax of softmax(logits) / Exp(1), in fp32."""
    probabilities = torch.softmax(x.float(), dim=-1)
    return probabilities.div_(torch.empty_like(probabilities).exponential_(1.0)).argmax(dim=-1)


def _gated(activation: _Activation, gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return activation(gate) * up


def _alone(activation: _Activation) -> RowKernel:
    def apply(x: torch.Tensor) -> torch.Tensor:
        return activation(x)

    return apply


def _times_half(activation: _Activation) -> RowKernel:
    return lambda gate_up: _gated(activation, gate_up)


_ACTIVATIONS: Final[Mapping[str, _Activation]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "relu": F.relu,
    "relu2": relu2,
    "xielu": xielu,
}
TORCH_ROWS: Final[Mapping[str, RowKernel]] = {
    "rmsnorm": rms_norm,
    "layernorm": layer_norm,
    "add_rmsnorm": add_rms_norm,
    "add_layernorm": add_layer_norm,
    "qk_norm": qk_norm,
    "square_sum": lambda x: x.float().square().sum(dim=-1),
    "rmsnorm_gate": rms_norm_gate,
    **{name: _alone(activation) for name, activation in _ACTIVATIONS.items()},
    **{f"{name}_mul": _times_half(activation) for name, activation in _ACTIVATIONS.items()},
    "sigmoid_mul": sigmoid_mul,
    "rope": rope,
    "conv1d": conv1d,
    "add": lambda x, other: x + other,
    "cast": lambda x, kind: x.to(kind, copy=True),
    "copy": lambda x: x.clone(),
    "embedding": embedding,
    "gather_rows": lambda x, index: x.index_select(0, index),
    "kv_write": kv_write,
    "topk": topk,
    "sampler": sampler,
    "quantise": lambda x: x,
}


def prepare_torch_rows(op: OpShape, buffers: Buffers) -> Prepared:
    """Return the launch of one small op; raises ``Unsupported`` for what it cannot be."""
    row = made_of(op)
    kernel = prepare_rows(op, buffers, TORCH_ROWS[_base(op)])
    if not op.shape["op"].endswith("quantise"):
        return kernel
    rounded = rounding(row, buffers.device)

    def launch(i: int) -> Quantised:
        result = kernel.launch(i)
        rows = result[0] if isinstance(result, tuple) else result
        assert isinstance(rows, torch.Tensor)
        return rounded(rows)

    return Prepared(launch, kernel.copies)


def _base(op: OpShape) -> str:
    return str(op.shape["op"]).removesuffix(_ROUNDED)
