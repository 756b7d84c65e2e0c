# Triton's own conventions: compile-time constants in capitals, operands by position, no types inside a kernel.
# ruff: noqa: N803, PLR0917
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Our own Triton kernels for small ops: one program per row (or per row and head), each operand read once.

They stand for what engines generate by fusing (norm, activation and quantisation in one pass), which eager torch splits
into several passes over memory. All arithmetic is in fp32.
"""

import torch
import triton
import triton.language as tl

from profiler.kernels.elementwise import EPSILON

_MAX_BLOCK = 32768
_COLUMNS = 1024


@triton.jit
def _rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, out_ptr, total_ptr, scale_ptr, width, epsilon, limit,
    ADD: tl.constexpr, QUANTISE: tl.constexpr, ROUND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Row of [rows, width]: optional residual add, RMS norm, optional quantisation with one scale per row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    x = tl.load(x_ptr + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        x += tl.load(residual_ptr + row * width + columns, mask=inside, other=0.0).to(tl.float32)
        tl.store(total_ptr + row * width + columns, x.to(total_ptr.dtype.element_ty), mask=inside)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    y = x * tl.rsqrt(tl.sum(x * x, axis=0) / width + epsilon) * weight
    if QUANTISE:
        scale = tl.maximum(tl.max(tl.abs(y), axis=0), 1e-12) / limit
        tl.store(scale_ptr + row, scale)
        y = tl.minimum(tl.maximum(y / scale, -limit), limit)
        if ROUND:
            y = tl.floor(y + 0.5)
    tl.store(out_ptr + row * width + columns, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _silu_mul_kernel(
    x_ptr, out_ptr, scale_ptr, width, limit, QUANTISE: tl.constexpr, ROUND: tl.constexpr, BLOCK: tl.constexpr
):
    """Row of [rows, 2 width]: SiLU of the first half times the second, optional quantisation."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    gate = tl.load(x_ptr + row * 2 * width + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + row * 2 * width + width + columns, mask=inside, other=0.0).to(tl.float32)
    y = gate * tl.sigmoid(gate) * up
    if QUANTISE:
        scale = tl.maximum(tl.max(tl.abs(y), axis=0), 1e-12) / limit
        tl.store(scale_ptr + row, scale)
        y = tl.minimum(tl.maximum(y / scale, -limit), limit)
        if ROUND:
            y = tl.floor(y + 0.5)
    tl.store(out_ptr + row * width + columns, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _quantise_kernel(x_ptr, out_ptr, scale_ptr, width, limit, ROUND: tl.constexpr, BLOCK: tl.constexpr):
    """Row of [rows, width] to one byte per element with one scale per row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    x = tl.load(x_ptr + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(x), axis=0), 1e-12) / limit
    tl.store(scale_ptr + row, scale)
    y = tl.minimum(tl.maximum(x / scale, -limit), limit)
    if ROUND:
        y = tl.floor(y + 0.5)
    tl.store(out_ptr + row * width + columns, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _dequantise_kernel(x_ptr, row_scale_ptr, column_scale_ptr, out_ptr, width, BLOCK: tl.constexpr):
    """Block of a row of int32 [rows, width] times the row's and the columns' scales, to 16 bits."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    x = tl.load(x_ptr + row * width + columns, mask=inside, other=0).to(tl.float32)
    scale = tl.load(row_scale_ptr + row) * tl.load(column_scale_ptr + columns, mask=inside, other=0.0)
    tl.store(out_ptr + row * width + columns, (x * scale).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _rope_kernel(x_ptr, cos_ptr, sin_ptr, out_ptr, heads, HALF: tl.constexpr):
    """One head of one row of [rows, heads, 2 HALF], halves paired (NeoX style)."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    columns = tl.arange(0, HALF)
    start = (row * heads + head) * 2 * HALF
    first = tl.load(x_ptr + start + columns).to(tl.float32)
    second = tl.load(x_ptr + start + HALF + columns).to(tl.float32)
    cos = tl.load(cos_ptr + row * HALF + columns).to(tl.float32)
    sin = tl.load(sin_ptr + row * HALF + columns).to(tl.float32)
    tl.store(out_ptr + start + columns, (first * cos - second * sin).to(out_ptr.dtype.element_ty))
    tl.store(out_ptr + start + HALF + columns, (second * cos + first * sin).to(out_ptr.dtype.element_ty))


def fits(width: int) -> bool:
    """Whether a row fits one program's registers."""
    return width <= _MAX_BLOCK


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Norm of [rows, width]."""
    out = torch.empty_like(x)
    _launch_norm(x, weight, out)
    return out


def add_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Norm of ``x + residual``, and that sum."""
    out, total = torch.empty_like(x), torch.empty_like(x)
    _launch_norm(x, weight, out, residual=residual, total=total)
    return out, total


def rms_norm_quantise(x: torch.Tensor, weight: torch.Tensor, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Norm of [rows, width] quantised to ``kind`` with scales [rows, 1]."""
    out, scale = torch.empty_like(x, dtype=kind), _scales(x)
    _launch_norm(x, weight, out, scale=scale)
    return out, scale


def add_rms_norm_quantise(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, kind: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Norm of ``x + residual`` quantised to ``kind``, its scales [rows, 1], and that sum."""
    out, total, scale = torch.empty_like(x, dtype=kind), torch.empty_like(x), _scales(x)
    _launch_norm(x, weight, out, residual=residual, total=total, scale=scale)
    return out, scale, total


def silu_mul(x: torch.Tensor) -> torch.Tensor:
    """SiLU of the first half of [rows, 2 width] times the second."""
    width = x.shape[1] // 2
    out = x.new_empty((x.shape[0], width))
    _silu_mul_kernel[(x.shape[0],)](x, out, out, width, 1.0, QUANTISE=False, ROUND=False, **_block(width))
    return out


def silu_mul_quantise(x: torch.Tensor, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """SiLU-mul quantised to ``kind`` with scales [rows, 1]."""
    width = x.shape[1] // 2
    out, scale = x.new_empty((x.shape[0], width), dtype=kind), _scales(x)
    limit, rounds = _format(kind)
    _silu_mul_kernel[(x.shape[0],)](x, out, scale, width, limit, QUANTISE=True, ROUND=rounds, **_block(width))
    return out, scale


def quantise(x: torch.Tensor, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise [rows, width] to ``kind`` with scales [rows, 1]."""
    out, scale = torch.empty_like(x, dtype=kind), _scales(x)
    limit, rounds = _format(kind)
    _quantise_kernel[(x.shape[0],)](x, out, scale, x.shape[1], limit, ROUND=rounds, **_block(x.shape[1]))
    return out, scale


def dequantise(x: torch.Tensor, row_scale: torch.Tensor, column_scale: torch.Tensor) -> torch.Tensor:
    """Scale int32 [rows, width] by [rows, 1] and [1, width] into bf16, in one pass."""
    out = torch.empty_like(x, dtype=torch.bfloat16)
    rows, width = x.shape
    grid = (rows, triton.cdiv(width, _COLUMNS))
    _dequantise_kernel[grid](x, row_scale, column_scale, out, width, BLOCK=_COLUMNS, enable_fp_fusion=True)
    return out


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate [rows, heads, head_dim] by angles [rows, 1, head_dim / 2]; head_dim a power of two."""
    out = torch.empty_like(x)
    rows, heads, head_dim = x.shape
    _rope_kernel[(rows, heads)](x, cos, sin, out, heads, HALF=head_dim // 2, enable_fp_fusion=True)
    return out


def _launch_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    *,
    residual: torch.Tensor | None = None,
    total: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
) -> None:
    limit, rounds = _format(out.dtype) if scale is not None else (1.0, False)
    # A pointer the kernel never follows still has to be a tensor.
    _rms_norm_kernel[(x.shape[0],)](
        x, x if residual is None else residual, weight, out, out if total is None else total,
        out if scale is None else scale, x.shape[1], EPSILON, limit,
        ADD=residual is not None, QUANTISE=scale is not None, ROUND=rounds, **_block(x.shape[1]),
    )  # fmt: skip


def _scales(x: torch.Tensor) -> torch.Tensor:
    return torch.empty((x.shape[0], 1), device=x.device, dtype=torch.float32)


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
