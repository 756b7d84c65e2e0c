# Triton's own conventions: compile-time constants in capitals, operands by position, no types inside a kernel.
# ruff: noqa: N803, PLR0917
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Our own Triton quantisation to e4m3 with one scale per 128 columns, alone or fused behind SiLU-mul.

Scales are stored [width / 128, rows]: a tile of the block-scaled GEMM reads those of its rows as one line.
"""

import torch
import triton
import triton.language as tl

from costmodel.ops.small_ops import SCALE_GROUP

_MAX_ROWS = 32


@triton.jit(do_not_specialize=["rows"])  # one binary serves every batch
def _quantise_group_kernel(
    x_ptr, out_ptr, scale_ptr, rows, width, limit, GATED: tl.constexpr, ROWS: tl.constexpr, GROUP: tl.constexpr
):
    """ROWS rows of one group of [rows, width], or of the gated halves of [rows, 2 width]."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    group = tl.program_id(1)
    inside = (row < rows)[:, None]
    columns = group * GROUP + tl.arange(0, GROUP)[None, :]
    start = row.to(tl.int64)[:, None] * width
    if GATED:
        gate = tl.load(x_ptr + 2 * start + columns, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(x_ptr + 2 * start + width + columns, mask=inside, other=0.0).to(tl.float32)
        y = gate * tl.sigmoid(gate) * up
    else:
        y = tl.load(x_ptr + start + columns, mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(y), axis=1), 1e-12) / limit
    tl.store(scale_ptr + group * rows + row, scale, mask=row < rows)
    y = tl.minimum(tl.maximum(y / scale[:, None], -limit), limit)
    tl.store(out_ptr + start + columns, y.to(out_ptr.dtype.element_ty), mask=inside)


def quantise_group(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise [rows, width] to e4m3 with scales [width / 128, rows]."""
    return _launch(x, x.shape[1], is_gated=False)


def silu_mul_quantise_group(gate_up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """SiLU of the first half of [rows, 2 width] times the second, quantised with scales [width / 128, rows]."""
    return _launch(gate_up, gate_up.shape[1] // 2, is_gated=True)


def _launch(x: torch.Tensor, width: int, *, is_gated: bool) -> tuple[torch.Tensor, torch.Tensor]:
    rows, groups = len(x), width // SCALE_GROUP
    out = x.new_empty((rows, width), dtype=torch.float8_e4m3fn)
    scale = x.new_empty((groups, rows), dtype=torch.float32)
    block = min(triton.next_power_of_2(rows), _MAX_ROWS)
    if rows:
        _quantise_group_kernel[(triton.cdiv(rows, block), groups)](
            x, out, scale, rows, width, torch.finfo(out.dtype).max, GATED=is_gated, ROWS=block, GROUP=SCALE_GROUP,
            num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return out, scale
