# Triton's own conventions: capitals for compile-time constants, compared one by one; operands by position, no types.
# ruff: noqa: N803, PLR0917, PLR1714
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""The inner loop of our Triton GEMMs: one tile of (X W^T)^T in every number format the profiler measures.

Small batches and widened weights compute the tile transposed, weights [COLUMNS, k] times activations [k, ROWS]: the few
rows of a decode batch become the narrow side of the tensor core's instruction (16 instead of the 64 its other side
needs), and weights that are widened on the way (int8, int4, mxfp4) go from registers straight into it. Rows and columns
beyond the edge repeat the last one, so that the loop loads without masks, unless ``k`` is no multiple of INNER (not
EVEN).

| FORMAT | weights | scales along k |
| --- | --- | --- |
| plain | as the activations (bf16, fp16, fp8, int8) | none: rows and columns are scaled after the loop |
| block | e4m3, activations e4m3 | fp32 per 1 x 128 activations and 128 x 128 weights |
| int8 | int8, activations 16-bit | none |
| int4 | two to a byte, activations 16-bit | 16-bit per column and 128 of k |
| mxfp4 | e2m1, two to a byte, activations 16-bit | e8m0 per column and 32 of k |

A byte of int4 weights holds k = j and k = j + 64 of its group of 128, each plus 8; one of mxfp4 weights (OCP
Microscaling Formats 1.0) k = j and k = j + 32 of 64. So the two halves of a byte are two products and nothing is
interleaved. MXFP4 scales, powers of two, are applied to the weights, which is exact.
"""

import math
from typing import Final

import torch
import triton
import triton.language as tl

from cluster_specs.lazy_dataclass import dataclass

GROUP: Final = 128
# Values of k per turn of the loop where two share a byte: the halves of the bytes are the halves of the turn.
PACKED_TURN: Final = {"int4": 128, "mxfp4": 64}
# Values of k that share a scale.
SCALE_GROUP: Final = {"block": GROUP, "int4": GROUP, "mxfp4": 32}
_NARROW: Final = 32
_WIDE_SIDE: Final = 64
_WIDENED: Final = frozenset({"int8", *PACKED_TURN})
# Row tiles of a band: 8 x 128 rows of 8192 values are 8 to 16 MiB, which L2 keeps while weights stream by.
_BAND: Final = 8
# Bits of the power of two whose last place is one.
FP16_1024: Final = tl.constexpr(0x6400)
BF16_128: Final = tl.constexpr(0x4300)
# Places from e2m1's exponent and mantissa to a float's, and what the float's greater bias makes them too small by.
FP16_E2M1_SHIFT: Final = tl.constexpr(9)
BF16_E2M1_SHIFT: Final = tl.constexpr(6)
FP16_E2M1_FACTOR: Final = tl.constexpr(2.0**14)
BF16_E2M1_FACTOR: Final = tl.constexpr(2.0**126)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """What one program computes: ROWS tokens by COLUMNS of the result, INNER of k per turn of its loop."""

    kind: str
    rows: int
    columns: int
    inner: int
    warps: int
    stages: int

    @property
    def is_transposed(self) -> bool:
        """Whether the tensor core's wide side, 64 at least, holds columns."""
        return self.rows < _WIDE_SIDE or self.kind in _WIDENED

    def options(self, k: int) -> dict[str, str | int | bool]:
        """Return what a launch takes by name. FMA fusion is asked for: its default differs between Triton versions."""
        return {
            "FORMAT": self.kind,
            "EVEN": k % self.inner == 0,
            "ROWS": self.rows,
            "COLUMNS": self.columns,
            "INNER": self.inner,
            "TRANSPOSED": self.is_transposed,
            "BAND": _BAND,
            "num_warps": self.warps,
            "num_stages": self.stages,
            "enable_fp_fusion": True,
        }


def tile_height(rows: float) -> int:
    """Smallest power of two that holds the rows, from the tensor core's 16 to 128."""
    return min(max(16, 1 << max(math.ceil(rows) - 1, 0).bit_length()), 128)


def choose_tile(rows: float, kind: str, itemsize: int) -> Tile:
    """Choose by the rows that share weights, and the bytes of an activation.

    Few rows: weights are the cost, so tiles are narrow and the pipeline deep (some 64 KiB in flight). Many rows: the
    largest tile whose sums fit the registers. No tile needs more than the 99 KiB of shared memory an Ada GPU has.
    """
    height = tile_height(rows)
    turn = PACKED_TURN.get(kind, GROUP)
    if height <= _NARROW:
        stages = (6 if itemsize == 1 else 4) * GROUP // turn
        return Tile(kind=kind, rows=height, columns=64, inner=turn, warps=4, stages=stages)
    warps = 4 if height == _WIDE_SIDE and kind not in _WIDENED else 8
    if kind in PACKED_TURN:
        return Tile(kind=kind, rows=height, columns=128, inner=turn, warps=warps, stages=2 * GROUP // turn)
    return Tile(kind=kind, rows=height, columns=128, inner=GROUP // itemsize, warps=warps, stages=3)


@triton.jit
def grouped_order(row_tiles, column_tiles, BAND: tl.constexpr):
    """Tile (row, column) of this program: all columns of a band of rows before the next band, which stays in L2."""
    program = tl.program_id(0)
    first = program // (BAND * column_tiles) * BAND
    height = min(row_tiles - first, BAND)
    inside = program % (BAND * column_tiles)
    return first + inside % height, inside // height


@triton.jit
def _nibble(bits, like):
    """Make nibbles (values plus 8) floats: bits of the mantissa whose last place is one, less that float's offset."""
    is_half: tl.constexpr = like.dtype == tl.float16
    floats = (bits.to(tl.int16) | (FP16_1024 if is_half else BF16_128)).to(like.dtype, bitcast=True)
    return floats - (1024.0 + 8.0 if is_half else 128.0 + 8.0)


@triton.jit
def _e2m1(bits, exponents, like):
    """Make nibbles (sign, exponent, mantissa) floats: the same bits of a tiny one, times its bias and the scale."""
    is_half: tl.constexpr = like.dtype == tl.float16
    bits = bits.to(tl.uint16)
    shift: tl.constexpr = FP16_E2M1_SHIFT if is_half else BF16_E2M1_SHIFT
    tiny = ((bits & 8) << 12 | (bits & 7) << shift).to(like.dtype, bitcast=True)
    scale = (exponents.to(tl.int32) << 23).to(tl.float32, bitcast=True).to(like.dtype)
    return tiny * (FP16_E2M1_FACTOR if is_half else BF16_E2M1_FACTOR) * scale[:, None]


@triton.jit
def _product(x, w, total, TRANSPOSED: tl.constexpr):
    """Add x [ROWS, INNER] w [COLUMNS, INNER]^T, or its transpose."""
    left = w if TRANSPOSED else x
    right = x if TRANSPOSED else w
    return tl.dot(left, tl.trans(right), total, out_dtype=total.dtype)


@triton.jit
def _turn_scales(w_scales, w_scale_step, start, FORMAT: tl.constexpr):
    """Scales of both halves of a turn, which are one in int4."""
    at = w_scales + start // (128 if FORMAT == "int4" else 32) * w_scale_step
    low = tl.load(at)
    return low, low if FORMAT == "int4" else tl.load(at + w_scale_step)


@triton.jit
def tile_product(
    x_rows, x_scales, x_scale_step, w_columns, w_scales, w_scale_step, begin, end,
    FORMAT: tl.constexpr, EVEN: tl.constexpr, INTEGER: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, TRANSPOSED: tl.constexpr,
):  # fmt: skip
    """[ROWS, COLUMNS] product over k in [begin, end), from pointers to each row, column and their first scale."""
    height: tl.constexpr = COLUMNS if TRANSPOSED else ROWS
    zero = tl.zeros((height, ROWS + COLUMNS - height), dtype=tl.int32 if INTEGER else tl.float32)
    total = zero
    inner = tl.arange(0, INNER)
    if FORMAT == "int4" or FORMAT == "mxfp4":
        # Loaded a turn ahead by hand: a thread's few bytes of them are too narrow for Triton's pipeline.
        next_low_scale, next_high_scale = _turn_scales(w_scales, w_scale_step, begin, FORMAT)
    for start in range(begin, end, INNER):
        if FORMAT == "int4" or FORMAT == "mxfp4":
            tl.static_assert(TRANSPOSED)
            half = tl.arange(0, INNER // 2)
            packed = tl.load(w_columns[:, None] + (start // 2 + half)[None, :])
            low = tl.load(x_rows[:, None] + (start + half)[None, :])
            high = tl.load(x_rows[:, None] + (start + INNER // 2 + half)[None, :])
            low_scale, high_scale = next_low_scale, next_high_scale
            following = min(start + INNER, end - INNER)
            next_low_scale, next_high_scale = _turn_scales(w_scales, w_scale_step, following, FORMAT)
            if FORMAT == "int4":
                part = _product(low, _nibble(packed & 15, low), zero, TRANSPOSED)
                part = _product(high, _nibble(packed >> 4, high), part, TRANSPOSED)
                total += part * low_scale.to(tl.float32)[:, None]
            else:
                total = _product(low, _e2m1(packed & 15, low_scale, low), total, TRANSPOSED)
                total = _product(high, _e2m1(packed >> 4, high_scale, high), total, TRANSPOSED)
        else:
            x_tile = x_rows[:, None] + (start + inner)[None, :]
            w_tile = w_columns[:, None] + (start + inner)[None, :]
            if EVEN:
                x, w = tl.load(x_tile), tl.load(w_tile)
            else:
                inside = (inner < end - start)[None, :]
                x, w = tl.load(x_tile, mask=inside, other=0.0), tl.load(w_tile, mask=inside, other=0.0)
            if FORMAT == "block":
                tl.static_assert(INNER == 128)
                block = start // INNER
                scale = tl.load(x_scales + block * x_scale_step) * tl.load(w_scales + block * w_scale_step)
                scale = scale[None, :] if TRANSPOSED else scale[:, None]
                total += _product(x, w, zero, TRANSPOSED) * scale
            elif FORMAT == "int8":
                total = _product(x, w.to(x.dtype), total, TRANSPOSED)
            else:
                total = _product(x, w, total, TRANSPOSED)
    return tl.trans(total) if TRANSPOSED else total


def pack(codes: torch.Tensor, kind: str) -> torch.Tensor:
    """Pack 4-bit codes of [..., n, k] (int4: the weight plus 8) into bytes [..., n, k / 2] as the kernels read them."""
    low, high = codes.to(torch.uint8).unflatten(-1, (-1, 2, PACKED_TURN[kind] // 2)).unbind(-2)
    return torch.bitwise_or(low, high << 4).flatten(-2)


def multiprocessors(device: torch.device) -> int:
    """Multiprocessors a launch has to fill; an H200's where kernels are interpreted."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132
