# Triton's own convention: operands by position.
# ruff: noqa: PLR0917
# mypy: disable-error-code="no-untyped-call"
"""Our own Triton kernels for small ops: one program per row (or per row and head), each operand read once.

They stand for what engines generate by fusing (norm, activation and quantisation in one pass), which eager torch splits
into several passes over memory. Parameters are named as `profiler.kernels.row_operands` names operands.
"""

from collections.abc import Mapping
from typing import Final

import torch
import triton

from costmodel.ops.small_ops import ACTIVATIONS
from profiler.kernels.row_operands import RowKernel
from profiler.kernels.torch_rows import EPSILON
from profiler.kernels.triton_row_kernels import (
    activation_kernel,
    conv_kernel,
    dequantise_kernel,
    kv_write_kernel,
    norm_kernel,
    rope_kernel,
)

_MAX_BLOCK = 32768
_COLUMNS = 1024


def fits(width: int) -> bool:
    """Whether a row fits one program's registers."""
    return width <= _MAX_BLOCK


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Norm of [rows, width]."""
    return _norm(x, weight)[0]


def add_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Norm of ``x + residual``, and that sum."""
    out, _, total = _norm(x, weight, residual=residual)
    return out, total


def add_layer_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Layer norm of ``x + residual``, and that sum."""
    out, _, total = _norm(x, weight, residual=residual, bias=bias)
    return out, total


def rms_norm_quantise(
    x: torch.Tensor, weight: torch.Tensor, kind: torch.dtype, scales: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Norm of [rows, width] quantised to ``kind`` with scales [rows, 1], or with one that is known (``scales`` 0)."""
    return _norm(x, weight, kind=kind, scales=scales)[:2]


def layer_norm_quantise(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, kind: torch.dtype, scales: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Layer norm, quantised likewise."""
    return _norm(x, weight, bias=bias, kind=kind, scales=scales)[:2]


def add_rms_norm_quantise(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, kind: torch.dtype, scales: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Norm of ``x + residual`` quantised to ``kind``, its scales, and that sum."""
    return _norm(x, weight, residual=residual, kind=kind, scales=scales)


def add_layer_norm_quantise(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    kind: torch.dtype,
    scales: int = 1,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Layer norm of ``x + residual`` quantised to ``kind``, its scales, and that sum."""
    return _norm(x, weight, residual=residual, bias=bias, kind=kind, scales=scales)


def qk_norm(heads: torch.Tensor, head_weight: torch.Tensor) -> torch.Tensor:
    """Norm of every head of [rows, heads, head_dim]."""
    return rms_norm(heads.flatten(0, 1), head_weight).view_as(heads)


def rms_norm_gate(heads: torch.Tensor, gate_heads: torch.Tensor, head_weight: torch.Tensor) -> torch.Tensor:
    """Norm of every head times SiLU of its gate."""
    out, _, _ = _norm(heads.flatten(0, 1), head_weight, gate=gate_heads)
    return out.view_as(heads)


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """SiLU of the first half of [rows, 2 width] times the second."""
    return _gated("silu", gate_up)[0]


def silu_mul_quantise(gate_up: torch.Tensor, kind: torch.dtype, scales: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """SiLU-mul quantised to ``kind`` with scales [rows, 1], or with one that is known (``scales`` 0)."""
    return _gated("silu", gate_up, kind, scales)


def sigmoid_mul(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """Return x times the sigmoid of its gate."""
    return _activation("sigmoid", gate, x, x.shape[1])[0]


def quantise(x: torch.Tensor, kind: torch.dtype, scales: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise [rows, width] to ``kind`` with scales [rows, 1], or with one that is known (``scales`` 0)."""
    return _activation("", x, None, x.shape[1], kind, scales)


def dequantise(x: torch.Tensor, row_scale: torch.Tensor, column_scale: torch.Tensor) -> torch.Tensor:
    """Scale int32 [rows, width] by [rows, 1] and [1, width] into bf16, in one pass."""
    out = torch.empty_like(x, dtype=torch.bfloat16)
    rows, width = x.shape
    grid = (rows, triton.cdiv(width, _COLUMNS))
    dequantise_kernel[grid](x, row_scale, column_scale, out, width, BLOCK=_COLUMNS, enable_fp_fusion=True)
    return out


def rope(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate [rows, heads, head_dim] by angles [rows, 1, head_dim / 2]; head_dim a power of two."""
    out = torch.empty_like(heads)
    rows, count, head_dim = heads.shape
    rope_kernel[(rows, count)](heads, cos, sin, out, count, HALF=head_dim // 2, enable_fp_fusion=True)
    return out


def conv1d(x: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Convolve every column of consecutive tokens with its own taps [width, taps], causally, then SiLU."""
    out = torch.empty_like(x)
    rows, width = x.shape
    grid = (rows, triton.cdiv(width, _COLUMNS))
    conv_kernel[grid](x, taps, out, width, TAPS=taps.shape[1], BLOCK=_COLUMNS, enable_fp_fusion=True)
    return out


def kv_write(x: torch.Tensor, cache: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """Write rows into slots of the cache, in its format."""
    rows, width = x.shape
    grid = (rows, triton.cdiv(width, _COLUMNS))
    kv_write_kernel[grid](x, cache, slots, width, BLOCK=_COLUMNS, enable_fp_fusion=True)
    return cache


def _norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    *,
    residual: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    gate: torch.Tensor | None = None,
    kind: torch.dtype | None = None,
    scales: int = 1,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return result, scales, and the sum with the residual; what an op has not is some other tensor of its own."""
    out = torch.empty_like(x, dtype=kind)
    total = out if residual is None else torch.empty_like(x)
    scale, limit, rounds = (out, 1.0, False) if kind is None else (_scales(x, scales), *_format(kind))
    # A pointer the kernel never follows still has to be a tensor.
    norm_kernel[(x.shape[0],)](
        x, x if residual is None else residual, x if gate is None else gate, weight, x if bias is None else bias,
        out, total, scale, x.shape[1], EPSILON, limit, ADD=residual is not None, CENTRE=bias is not None,
        GATE=gate is not None, QUANTISE=kind is not None, STATIC=scales == 0, ROUND=rounds, **_block(x.shape[1]),
    )  # fmt: skip
    return out, scale, total


def _gated(
    activation: str, gate_up: torch.Tensor, kind: torch.dtype | None = None, scales: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    width = gate_up.shape[1] // 2
    return _activation(activation, gate_up, gate_up[:, width:], width, kind, scales)


def _activation(
    activation: str,
    gate: torch.Tensor,
    up: torch.Tensor | None,
    width: int,
    kind: torch.dtype | None = None,
    scales: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return result and scales; ``up`` has the row stride of ``gate``."""
    out = gate.new_empty((gate.shape[0], width), dtype=kind or gate.dtype)
    scale, limit, rounds = (out, 1.0, False) if kind is None else (_scales(gate, scales), *_format(kind))
    activation_kernel[(gate.shape[0],)](
        gate, gate if up is None else up, out, scale, gate.shape[1], width, limit, ACTIVATION=activation,
        GATED=up is not None, QUANTISE=kind is not None, STATIC=scales == 0, ROUND=rounds, **_block(width),
    )  # fmt: skip
    return out, scale


def _scales(x: torch.Tensor, scales: int) -> torch.Tensor:
    """Room for a scale per row, or the one scale that is known."""
    if scales:
        return torch.empty((x.shape[0], 1), device=x.device, dtype=torch.float32)
    return torch.full((1,), 0.01, device=x.device)


def _format(kind: torch.dtype) -> tuple[float, bool]:
    """Largest value of a one-byte format, and whether values are rounded to integers."""
    return (127.0, True) if kind == torch.int8 else (torch.finfo(kind).max, False)


def _block(width: int) -> dict[str, int | bool]:
    """Launch options of a row. FMA fusion is asked for: its default differs between Triton versions."""
    block = triton.next_power_of_2(width)
    return {
        "BLOCK": block,
        "num_warps": 4 if block <= 2048 else 8 if block <= 8192 else 16,
        "enable_fp_fusion": True,
    }


def _rows_of(name: str) -> dict[str, RowKernel]:
    """Return the four ops of an activation."""

    def alone(x: torch.Tensor) -> object:
        return _activation(name, x, None, x.shape[1])[0]

    def alone_quantise(x: torch.Tensor, kind: torch.dtype, scales: int) -> object:
        return _activation(name, x, None, x.shape[1], kind, scales)

    def gated(gate_up: torch.Tensor) -> object:
        return _gated(name, gate_up)[0]

    def gated_quantise(gate_up: torch.Tensor, kind: torch.dtype, scales: int) -> object:
        return _gated(name, gate_up, kind, scales)

    return {
        name: alone,
        f"{name}_quantise": alone_quantise,
        f"{name}_mul": gated,
        f"{name}_mul_quantise": gated_quantise,
    }


TRITON_ROWS: Final[Mapping[str, RowKernel]] = {
    "rmsnorm": rms_norm,
    "rmsnorm_quantise": rms_norm_quantise,
    "layernorm_quantise": layer_norm_quantise,
    "add_rmsnorm": add_rms_norm,
    "add_rmsnorm_quantise": add_rms_norm_quantise,
    "add_layernorm": add_layer_norm,
    "add_layernorm_quantise": add_layer_norm_quantise,
    "qk_norm": qk_norm,
    "rmsnorm_gate": rms_norm_gate,
    **{op: kernel for name in ACTIVATIONS for op, kernel in _rows_of(name).items()},
    "sigmoid_mul": sigmoid_mul,
    "rope": rope,
    "conv1d": conv1d,
    "kv_write": kv_write,
    "quantise": quantise,
}
