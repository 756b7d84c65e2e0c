# Triton's own conventions: compile-time constants in capitals, operands by position, no types inside a kernel.
# ruff: noqa: N803, PLR0917
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Our own Triton grouped GEMM for mixture-of-experts: rows sorted by expert, one tile list over all experts.

Rows of expert e are ``offsets[e-1]:offsets[e]``; they are cut into tiles of BLOCK_M rows, and a program multiplies one
tile by BLOCK_N columns of its expert's weights [n, k]. The tile height follows the mean rows per expert, as tuned
engine kernels choose it: decode batches give every expert a handful of rows.
"""

import math
from collections.abc import Callable

import torch
import triton
import triton.language as tl


@triton.jit
def _grouped_gemm_kernel(
    x_ptr, w_ptr, out_ptr, tile_expert_ptr, tile_start_ptr, tile_end_ptr, n, k,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    expert = tl.load(tile_expert_ptr + tile).to(tl.int64)
    start = tl.load(tile_start_ptr + tile).to(tl.int64)
    end = tl.load(tile_end_ptr + tile).to(tl.int64)
    rows = start + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    x_tile = x_ptr + rows[:, None] * k + inner[None, :]
    w_tile = w_ptr + expert * n * k + columns[None, :].to(tl.int64) * k + inner[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for done in range(0, k, BLOCK_K):
        x = tl.load(x_tile + done, mask=(rows < end)[:, None] & (inner < k - done)[None, :], other=0.0)
        w = tl.load(w_tile + done, mask=(columns < n)[None, :] & (inner < k - done)[:, None], other=0.0)
        total = tl.dot(x, w, total)
    out_tile = out_ptr + rows[:, None] * n + columns[None, :]
    tl.store(out_tile, total.to(out_ptr.dtype.element_ty), mask=(rows < end)[:, None] & (columns < n)[None, :])


def grouped_gemm(offsets: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return a grouped GEMM for fixed routing: (x [rows, k], w [experts, n, k]) -> [rows, n]."""
    ends = offsets.tolist()
    starts = [0, *ends[:-1]]
    block_m = _tile_rows(ends[-1] / max(sum(end > start for start, end in zip(starts, ends, strict=True)), 1))
    tiles = [
        (expert, row, end)
        for expert, (start, end) in enumerate(zip(starts, ends, strict=True))
        for row in range(start, end, block_m)
    ]
    table = torch.tensor(tiles, dtype=torch.int32, device=offsets.device).reshape(-1, 3)
    expert, start, end = (table[:, column].contiguous() for column in range(3))

    def multiply(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        n, k = w.shape[1], w.shape[2]
        out = x.new_empty((x.shape[0], n))
        block_n, block_k = (64, 64) if block_m <= 32 else (128, 64)
        if tiles:
            _grouped_gemm_kernel[(len(tiles), triton.cdiv(n, block_n))](
                x, w, out, expert, start, end, n, k,
                BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k, num_warps=4 if block_m <= 64 else 8, num_stages=3,
            )  # fmt: skip
        return out

    return multiply


def _tile_rows(rows_per_expert: float) -> int:
    """Smallest tile that holds an expert's rows, between the tensor core's 16 and 128."""
    return min(max(16, 1 << max(math.ceil(rows_per_expert) - 1, 0).bit_length()), 128)
