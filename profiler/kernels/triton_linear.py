# Triton's own conventions: capitals for compile-time constants, compared one by one; operands by position, no types.
# ruff: noqa: N803, PLR0917, PLR1714
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Our own Triton linear layers where torch has no CUDA kernel for all devices: block FP8, W8A16, W4A16, MXFP4, W8A8.

Of W8A8 torch has the product alone: its int32 result goes to memory and back before it is scaled. Engines scale where
they multiply, as is done here.

One program computes one tile (`triton_tiles`). Where the tiles leave most of the device idle, which is decode against
narrow weights, ``k`` is split over programs too and their fp32 parts are summed by a second kernel.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import torch
import triton
import triton.language as tl

from profiler.backend import Prepared, Unsupported
from profiler.kernels.buffers import Buffers
from profiler.kernels.quantise import require_fp8
from profiler.kernels.triton_groups import quantise_group
from profiler.kernels.triton_rows import quantise
from profiler.kernels.triton_tiles import (
    GROUP,
    PACKED_TURN,
    SCALE_GROUP,
    choose_tile,
    grouped_order,
    multiprocessors,
    tile_product,
)
from profiler.point import OpShape

# Number format of a gemm row -> what the tile loop calls it, and how its operands are scaled.
FORMATS: Final = {
    "fp8_block": ("block", "group128"),
    "w8a16": ("int8", "row"),
    "w4a16": ("int4", "group128"),
    "mxfp4": ("mxfp4", "group32"),
    "w8a8": ("plain", "row"),
}
_ANY_K: Final = frozenset({"int8", "plain"})
# How activations of a kind are rounded; those of the others stay as they are.
_ROUNDED: Final[Mapping[str, Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]]] = {
    "block": quantise_group,
    "plain": lambda x: quantise(x, torch.int8),
}
_MIN_TURNS: Final = 4
_SUM_BLOCK: Final = 1024


@triton.jit(do_not_specialize=["m"])  # no address depends on its factors: one binary serves every batch
def _linear_kernel(
    x_ptr, x_scale_ptr, w_ptr, w_scale_ptr, out_ptr, m, n, k, per_split,
    FORMAT: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
    TRANSPOSED: tl.constexpr, BAND: tl.constexpr, INTEGER: tl.constexpr,
):  # fmt: skip
    """Tile of out [splits, m, n] = x [m, k] w [n, k]^T; scales as `linear` says."""
    row_tile, column_tile = grouped_order(tl.cdiv(m, ROWS), tl.cdiv(n, COLUMNS), BAND)
    split = tl.program_id(1)
    rows = row_tile * ROWS + tl.arange(0, ROWS)
    columns = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    row, column = tl.minimum(rows, m - 1).to(tl.int64), tl.minimum(columns, n - 1).to(tl.int64)
    bytes_per_row = k // 2 if FORMAT == "int4" or FORMAT == "mxfp4" else k
    w_scales, w_scale_step = w_scale_ptr + column, n
    if FORMAT == "block":
        w_scales, w_scale_step = w_scale_ptr + column_tile * COLUMNS // 128, tl.cdiv(n, 128)
    total = tile_product(
        x_ptr + row * k, x_scale_ptr + row, m, w_ptr + column * bytes_per_row, w_scales, w_scale_step,
        split * per_split, min((split + 1) * per_split, k), FORMAT, EVEN, INTEGER, ROWS, COLUMNS, INNER, TRANSPOSED,
    )  # fmt: skip
    if INTEGER:
        total = total.to(tl.float32) * tl.load(x_scale_ptr + row)[:, None]
    if INTEGER or FORMAT == "int8":
        total *= tl.load(w_scale_ptr + column).to(tl.float32)[None, :]
    out_tile = out_ptr + split.to(tl.int64) * m * n + rows.to(tl.int64)[:, None] * n + columns[None, :]
    inside = (rows < m)[:, None] & (columns < n)[None, :]
    tl.store(out_tile, total.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _sum_kernel(parts_ptr, out_ptr, numel, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """Block of the sum over the first dimension of [SPLITS, numel]."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < numel
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(parts_ptr + split * numel + place, mask=inside, other=0.0)
    tl.store(out_ptr + place, total.to(out_ptr.dtype.element_ty), mask=inside)


def linear(
    x: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor, *, kind: str, x_scale: torch.Tensor | None = None
) -> torch.Tensor:
    """Multiply x [m, k] by dequantised weights of [n, k]; returns [m, n] in 16 bits.

    ``block``: e4m3 operands, fp32 ``x_scale`` [k / 128, m] and ``w_scale`` [k / 128, n / 128 rounded up].
    ``int8``: int8 weights, ``w_scale`` [n]. ``int4``: weights packed by `pack`, 16-bit ``w_scale`` [k / 128, n];
    ``mxfp4``: packed likewise, e8m0 ``w_scale`` [k / 32, n]. ``plain``: int8 operands, fp32 ``x_scale`` [m] and
    ``w_scale`` [n].
    """
    (m, k), n = x.shape, w.shape[0]
    tile = choose_tile(m, kind, x.itemsize)
    tiles = triton.cdiv(m, tile.rows) * triton.cdiv(n, tile.columns)
    splits, per_split = split_k(tiles, k, tile.inner, multiprocessors(x.device))
    dtype = torch.bfloat16 if x.itemsize == 1 else x.dtype
    out = torch.empty((m, n), device=x.device, dtype=dtype)
    target = out if splits == 1 else torch.empty((splits, m, n), device=x.device, dtype=torch.float32)
    # A pointer the kernel never follows still has to be a tensor.
    _linear_kernel[(tiles, splits)](
        x, w_scale if x_scale is None else x_scale, w, w_scale, target, m, n, k, per_split,
        INTEGER=x.dtype == torch.int8, **tile.options(k),
    )  # fmt: skip
    if splits > 1:
        grid = (triton.cdiv(out.numel(), _SUM_BLOCK),)
        _sum_kernel[grid](target, out, out.numel(), SPLITS=splits, BLOCK=_SUM_BLOCK, enable_fp_fusion=True)
    return out


def split_k(tiles: int, k: int, inner: int, processors: int) -> tuple[int, int]:
    """Return the number of splits of k and the length of one: until every processor has a tile, if that is two each.

    A split keeps at least ``_MIN_TURNS`` turns of the loop, or its pipeline never fills.
    """
    turns = triton.cdiv(k, inner)
    wanted = max(1, min(processors // tiles, turns // _MIN_TURNS))
    per_split = triton.cdiv(turns, wanted)
    return triton.cdiv(turns, per_split), per_split * inner


def prepare_linear(op: OpShape, buffers: Buffers) -> Prepared:
    """Return the launch of one linear layer; raises ``Unsupported`` for what the kernel refuses."""
    kind, scaling = FORMATS[op.dtype]
    m, n, k = op.shape["m"], op.shape["n"], op.shape["k"]
    group = 1 if kind in _ANY_K else PACKED_TURN.get(kind, GROUP)
    if min(m, n, k) < 1 or k % group:
        raise Unsupported(f"illegal shape m={m} n={n} k={k}: k must be a positive multiple of {group}")
    if op.shape["scaling"] != scaling:
        raise Unsupported(f"{op.dtype} runs with scaling {scaling} here, not {op.shape['scaling']!r}")
    source = buffers.random((m, k), "bf16")
    weights = rotating_weights(buffers, kind, "fp8" if kind == "block" else "int8", (n, k))
    copies = len(weights)
    if kind not in _ROUNDED:
        return Prepared(lambda i: linear(source, *weights[i % copies], kind=kind), copies)
    if kind == "block":
        require_fp8(buffers.device)
    rounded = _ROUNDED[kind]
    ready = rounded(source)

    def launch(i: int) -> torch.Tensor:
        x, x_scale = rounded(source) if op.shape["quantise"] else ready
        return linear(x, *weights[i % copies], kind=kind, x_scale=x_scale)

    return Prepared(launch, copies)


def rotating_weights(
    buffers: Buffers, kind: str, dtype: str, shape: tuple[int, ...], *, read_frac: float = 1.0
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return cold weights [..., n, k] of ``kind`` in turn, each with its scales as the kernels read them.

    ``read_frac`` in (0, 1] is the share of them that a call reads.
    """
    rotating = partial(buffers.rotating, read_frac=read_frac)
    *stack, n, k = shape
    if kind in PACKED_TURN:
        packed = [values.view(torch.uint8) for values in rotating((*stack, n, k // 2), "int8")]
        groups = (*stack, k // SCALE_GROUP[kind], n)
        if kind == "int4":
            scales = rotating(groups, "bf16")  # 3 % of the bytes: cold as well
        else:  # exponents around zero, 6 %
            drawn = rotating(groups, "int8")[: len(packed)]
            scales = [(values.view(torch.uint8) & 7) + 120 for values in drawn]
        return [(values, scales[i % len(scales)]) for i, values in enumerate(packed)]
    blocks = (k // GROUP, triton.cdiv(n, GROUP)) if kind == "block" else (n,)
    scale = torch.full((*stack, *blocks), 0.01, device=buffers.device)
    return [(values, scale) for values in rotating(shape, dtype)]
