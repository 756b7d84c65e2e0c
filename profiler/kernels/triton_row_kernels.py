# Triton's own conventions: compile-time constants in capitals, operands by position, no types inside a kernel.
# ruff: noqa: N803, PLR0917
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""What the programs of our small ops compute; `profiler.kernels.triton_rows` launches them.

One program holds a row, a head of a row, or a block of a row's columns. All arithmetic is in fp32.
"""

from typing import Final

import triton
import triton.language as tl

from profiler.kernels.torch_rows import XIELU

_ABOVE, _BELOW, _SLOPE = (tl.constexpr(value) for value in XIELU)
_HALF_ROOT: Final = tl.constexpr(0.5**0.5)


@triton.jit
def _rounded(y, scale_ptr, row, limit, STATIC: tl.constexpr, ROUND: tl.constexpr):
    """Values in steps of the row's scale, which is found and stored here unless it is known before (static)."""
    if STATIC:
        scale = tl.load(scale_ptr)
    else:
        scale = tl.maximum(tl.max(tl.abs(y), axis=0), 1e-12) / limit
        tl.store(scale_ptr + row, scale)
    y = tl.minimum(tl.maximum(y / scale, -limit), limit)
    if ROUND:
        y = tl.floor(y + 0.5)
    return y


@triton.jit
def norm_kernel(
    x_ptr, residual_ptr, gate_ptr, weight_ptr, bias_ptr, out_ptr, total_ptr, scale_ptr, width, epsilon, limit,
    ADD: tl.constexpr, CENTRE: tl.constexpr, GATE: tl.constexpr, QUANTISE: tl.constexpr, STATIC: tl.constexpr,
    ROUND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Row of [rows, width]: optional residual add, RMS or layer norm, optional SiLU gate, optional quantisation."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    x = tl.load(x_ptr + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        x += tl.load(residual_ptr + row * width + columns, mask=inside, other=0.0).to(tl.float32)
        tl.store(total_ptr + row * width + columns, x.to(total_ptr.dtype.element_ty), mask=inside)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    if CENTRE:
        x = tl.where(inside, x - tl.sum(x, axis=0) / width, 0.0)
    y = x * tl.rsqrt(tl.sum(x * x, axis=0) / width + epsilon) * weight
    if CENTRE:
        y += tl.load(bias_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    if GATE:
        gate = tl.load(gate_ptr + row * width + columns, mask=inside, other=0.0).to(tl.float32)
        y *= gate * tl.sigmoid(gate)
    if QUANTISE:
        y = _rounded(y, scale_ptr, row, limit, STATIC, ROUND)
    tl.store(out_ptr + row * width + columns, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _activated(x, ACTIVATION: tl.constexpr):
    """One of the table's activations, or the plain sigmoid, or nothing."""
    if ACTIVATION == "silu":
        y = x * tl.sigmoid(x)
    elif ACTIVATION == "sigmoid":
        y = tl.sigmoid(x)
    elif ACTIVATION == "gelu":
        y = 0.5 * x * (1.0 + tl.erf(x * _HALF_ROOT))
    elif ACTIVATION == "relu":
        y = tl.maximum(x, 0.0)
    elif ACTIVATION == "relu2":
        y = tl.maximum(x, 0.0) * tl.maximum(x, 0.0)
    elif ACTIVATION == "xielu":
        below = _BELOW * (tl.exp(tl.minimum(x, 0.0)) - 1.0 - x)
        y = tl.where(x > 0.0, _ABOVE * x * x, below) + _SLOPE * x
    else:
        y = x
    return y


@triton.jit
def activation_kernel(
    gate_ptr, up_ptr, out_ptr, scale_ptr, stride, width, limit, ACTIVATION: tl.constexpr, GATED: tl.constexpr,
    QUANTISE: tl.constexpr, STATIC: tl.constexpr, ROUND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Row of ``width``: an activation of one operand, times another where there is one, optional quantisation."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    y = _activated(tl.load(gate_ptr + row * stride + columns, mask=inside, other=0.0).to(tl.float32), ACTIVATION)
    if GATED:
        y *= tl.load(up_ptr + row * stride + columns, mask=inside, other=0.0).to(tl.float32)
    if QUANTISE:
        y = _rounded(tl.where(inside, y, 0.0), scale_ptr, row, limit, STATIC, ROUND)
    tl.store(out_ptr + row * width + columns, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def conv_kernel(x_ptr, taps_ptr, out_ptr, width, TAPS: tl.constexpr, BLOCK: tl.constexpr):
    """Block of a row of [rows, width]: the last TAPS tokens of each column times its taps, then SiLU."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    y = tl.zeros([BLOCK], dtype=tl.float32)
    for tap in tl.static_range(TAPS):
        token = row + (tap + 1 - TAPS)
        known = tl.where(token >= 0, inside, False)
        x = tl.load(x_ptr + token * width + columns, mask=known, other=0.0).to(tl.float32)
        y += x * tl.load(taps_ptr + columns * TAPS + tap, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * width + columns, (y * tl.sigmoid(y)).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def kv_write_kernel(x_ptr, cache_ptr, slots_ptr, width, BLOCK: tl.constexpr):
    """Block of a row of [rows, width] into its slot of the cache, in the cache's format."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    x = tl.load(x_ptr + row * width + columns, mask=inside, other=0.0)
    slot = tl.load(slots_ptr + row)
    tl.store(cache_ptr + slot * width + columns, x.to(cache_ptr.dtype.element_ty), mask=inside)


@triton.jit
def dequantise_kernel(x_ptr, row_scale_ptr, column_scale_ptr, out_ptr, width, BLOCK: tl.constexpr):
    """Block of a row of int32 [rows, width] times the row's and the columns' scales, to 16 bits."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    x = tl.load(x_ptr + row * width + columns, mask=inside, other=0).to(tl.float32)
    scale = tl.load(row_scale_ptr + row) * tl.load(column_scale_ptr + columns, mask=inside, other=0.0)
    tl.store(out_ptr + row * width + columns, (x * scale).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def rope_kernel(x_ptr, cos_ptr, sin_ptr, out_ptr, heads, HALF: tl.constexpr):
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
