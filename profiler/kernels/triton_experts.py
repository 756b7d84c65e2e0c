# Triton's own conventions: capitals for compile-time constants, compared one by one; operands by position, no types.
# ruff: noqa: N803, PLR0917, PLR1714
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Our own Triton kernels of an expert layer: a grouped GEMM in every number format, and the sum over a token's experts.

(token, expert) pairs are sorted by expert; rows of expert e are ``offsets[e-1]:offsets[e]`` and are cut into tiles
(`triton_tiles`) whose height follows the mean rows of an expert. As in engines, the first GEMM gathers its rows of the
token matrix itself, the second one weighs its results by the router, and a token's results are summed by one pass that
reads each of them once.
"""

from itertools import pairwise

import torch
import triton
import triton.language as tl

from cluster_specs.lazy_dataclass import dataclass
from profiler.kernels.triton_tiles import choose_tile, grouped_order, tile_height, tile_product

_COMBINE_BLOCK = 1024


@triton.jit(do_not_specialize=["x_rows", "tiles"])  # one binary serves every batch
def _grouped_gemm_kernel(
    x_ptr, x_scale_ptr, x_rows, w_ptr, w_scale_ptr, out_ptr, tile_ptr, source_ptr, weight_ptr, tiles, n, k,
    GATHER: tl.constexpr, SCALED: tl.constexpr, WEIGHTED: tl.constexpr, INTEGER: tl.constexpr,
    FORMAT: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
    TRANSPOSED: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip
    """Tile of one expert's rows; ``tile_ptr`` [tiles, 3] holds the expert, the first row and the end of its rows."""
    row_tile, column_tile = grouped_order(tiles, tl.cdiv(n, COLUMNS), BAND)
    expert = tl.load(tile_ptr + 3 * row_tile).to(tl.int64)
    end = tl.load(tile_ptr + 3 * row_tile + 2)
    rows = tl.load(tile_ptr + 3 * row_tile + 1) + tl.arange(0, ROWS)
    row = tl.minimum(rows, end - 1).to(tl.int64)
    source = tl.load(source_ptr + row).to(tl.int64) if GATHER else row
    columns = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    column = tl.minimum(columns, n - 1).to(tl.int64)
    bytes_per_row = k // 2 if FORMAT == "int4" or FORMAT == "mxfp4" else k
    w_scales, w_scale_step = w_scale_ptr + column, n
    if FORMAT == "block":
        w_scale_step = tl.cdiv(n, 128)
        w_scales = w_scale_ptr + expert * tl.cdiv(k, 128) * w_scale_step + column_tile * COLUMNS // 128
    elif FORMAT == "int4" or FORMAT == "mxfp4":
        w_scales += expert * (k // (128 if FORMAT == "int4" else 32)) * n
    total = tile_product(
        x_ptr + source * k, x_scale_ptr + source, x_rows, w_ptr + (expert * n + column) * bytes_per_row,
        w_scales, w_scale_step, 0, k, FORMAT, EVEN, INTEGER, ROWS, COLUMNS, INNER, TRANSPOSED,
    )  # fmt: skip
    if SCALED:
        total = total.to(tl.float32) * tl.load(x_scale_ptr + source)[:, None]
        total *= tl.load(w_scale_ptr + expert * n + column)[None, :]
    if WEIGHTED:
        total *= tl.load(weight_ptr + row)[:, None]
    out_tile = out_ptr + rows.to(tl.int64)[:, None] * n + columns[None, :]
    tl.store(out_tile, total.to(out_ptr.dtype.element_ty), mask=(rows < end)[:, None] & (columns < n)[None, :])


@triton.jit
def _combine_kernel(x_ptr, place_ptr, out_ptr, width, TOPK: tl.constexpr, BLOCK: tl.constexpr):
    """Block of a token's row: the sum of its rows of [pairs, width], those on other ranks (place -1) left out."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for choice in tl.static_range(TOPK):
        place = tl.load(place_ptr + token * TOPK + choice).to(tl.int64)
        if place >= 0:
            total += tl.load(x_ptr + place * width + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + token * width + columns, total.to(out_ptr.dtype.element_ty), mask=inside)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertWeights:
    """Weights [experts, n, k] of ``kind`` (`triton_tiles`); ``plain`` ones with scales have one per column.

    Scales: ``plain`` fp32 [experts, n], ``block`` fp32 [experts, k / 128, n / 128 rounded up], ``int4`` 16-bit
    [experts, k / 128, n], ``mxfp4`` uint8 [experts, k / 32, n].
    """

    kind: str
    values: torch.Tensor
    scales: torch.Tensor | None = None


class GroupedGemm:
    """The tile list of one routing; ``offsets`` [experts] are the ends of each expert's run of rows."""

    def __init__(self, offsets: torch.Tensor) -> None:
        ends: list[int] = offsets.tolist()
        runs = list(enumerate(pairwise([0, *ends])))
        self.rows = ends[-1]
        self.mean_rows = self.rows / max(sum(end > start for _, (start, end) in runs), 1)
        height = tile_height(self.mean_rows)
        tiles = [(expert, row, end) for expert, (start, end) in runs for row in range(start, end, height)]
        self._tiles = torch.tensor(tiles, dtype=torch.int32, device=offsets.device).reshape(-1, 3)

    def __call__(
        self,
        x: torch.Tensor,
        w: ExpertWeights,
        *,
        x_scale: torch.Tensor | None = None,
        source: torch.Tensor | None = None,
        weight: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Multiply rows by their experts: x [rows, k], or [tokens, k] with ``source`` [rows]; returns 16-bit [rows, n].

        ``x_scale``: fp32 [rows of x] (plain) or [k / 128, rows of x] (block). ``weight``: fp32 [rows] on the result.
        """
        n, k = w.values.shape[1], x.shape[1]
        tile = choose_tile(self.mean_rows, w.kind, x.itemsize)
        out = x.new_empty((self.rows, n), dtype=x.dtype if x.is_floating_point() and x.itemsize > 1 else torch.bfloat16)
        table = self._tiles
        if not len(table):
            return out
        # A pointer the kernel never follows still has to be a tensor.
        _grouped_gemm_kernel[(len(table) * triton.cdiv(n, tile.columns),)](
            x, out if x_scale is None else x_scale, len(x), w.values, out if w.scales is None else w.scales, out,
            table, table if source is None else source, out if weight is None else weight, len(table), n, k,
            GATHER=source is not None, SCALED=w.kind == "plain" and w.scales is not None,
            WEIGHTED=weight is not None, INTEGER=x.dtype == torch.int8, **tile.options(k),
        )  # fmt: skip
        return out


def combine(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Sum rows of x [pairs, width] by token: ``places`` int32 [tokens, topk] names each token's rows, -1 for none."""
    (tokens, topk), width = places.shape, x.shape[1]
    out = x.new_empty((tokens, width))
    grid = (tokens, triton.cdiv(width, _COMBINE_BLOCK))
    _combine_kernel[grid](x, places, out, width, TOPK=topk, BLOCK=_COMBINE_BLOCK, enable_fp_fusion=True)
    return out
