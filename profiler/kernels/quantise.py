"""Activation quantisation in plain torch: x ~ q * scale with scale = amax(|x|) / max(format).

Per tensor, per token (row) or per group of 128 columns; the scale keeps the layout the GEMMs want. NVFP4 has one e4m3
scale per 16 columns under an fp32 scale per row.
"""

from collections.abc import Callable
from typing import Final

import torch

from costmodel.ops.small_ops import SCALE_GROUP, RowFormat
from profiler.backend import Unsupported

Quantised = tuple[torch.Tensor, torch.Tensor]
_FP8: Final = torch.float8_e4m3fn
_FP8_MAX: Final = 448.0
_INT8_MAX: Final = 127.0
_TINY: Final = 1e-12
_FP4_GROUP: Final = 16
_FP4_MAX: Final = 6.0
# Halfway between the magnitudes 0, 0.5, 1, 1.5, 2, 3, 4 and 6 that e2m1 holds.
_FP4_EDGES: Final = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


def require_fp8(device: torch.device) -> None:
    """Raise ``Unsupported`` on a GPU without e4m3 arithmetic."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        raise Unsupported("FP8 tensor cores need compute capability 8.9 or newer")


def fp8_tensor(x: torch.Tensor) -> Quantised:
    """Quantise [m, k] to e4m3 with one scale of shape [1]."""
    scale = x.abs().amax().float().clamp_min(_TINY).reshape(1) / _FP8_MAX
    return _to_fp8(x, scale), scale


def fp8_row(x: torch.Tensor) -> Quantised:
    """Quantise [m, k] to e4m3 with one scale per row, shape [m, 1]."""
    scale = x.abs().amax(dim=-1, keepdim=True).float().clamp_min(_TINY) / _FP8_MAX
    return _to_fp8(x, scale), scale


def fp8_group(x: torch.Tensor) -> Quantised:
    """Quantise [m, k] to e4m3 with one scale per 128 columns, shape [m, k / 128]."""
    quantised, scale = fp8_row(x.reshape(-1, SCALE_GROUP))
    return quantised.reshape(x.shape), scale.reshape(x.shape[0], -1)


def int8_row(x: torch.Tensor) -> Quantised:
    """Quantise [m, k] to symmetric int8 with one scale per row, shape [m, 1]."""
    scale = x.abs().amax(dim=-1, keepdim=True).float().clamp_min(_TINY) / _INT8_MAX
    return torch.round(x.float() / scale).to(torch.int8), scale


def int8_tensor(x: torch.Tensor) -> Quantised:
    """Quantise [m, k] to symmetric int8 with one scale of shape [1]."""
    scale = x.abs().amax().float().clamp_min(_TINY).reshape(1) / _INT8_MAX
    return torch.round(x.float() / scale).to(torch.int8), scale


def int8_group(x: torch.Tensor) -> Quantised:
    """Quantise [m, k] to int8 with one scale per 128 columns, shape [m, k / 128]."""
    quantised, scale = int8_row(x.reshape(-1, SCALE_GROUP))
    return quantised.reshape(x.shape), scale.reshape(x.shape[0], -1)


def fp4_group(x: torch.Tensor) -> Quantised:
    """Quantise [m, k] to e2m1, two columns a byte, with e4m3 scales [m, k / 16] below an fp32 one per row."""
    groups = x.float().reshape(len(x), -1, _FP4_GROUP)
    largest = groups.abs().amax(dim=-1, keepdim=True)
    whole = largest.amax(dim=-2, keepdim=True).clamp_min(_TINY) / (_FP4_MAX * _FP8_MAX)
    scale = (largest / (_FP4_MAX * whole)).to(_FP8)
    steps = groups / (scale.float() * whole).clamp_min(_TINY)
    edges = torch.tensor(_FP4_EDGES, device=x.device)
    codes = torch.bucketize(steps.abs(), edges).to(torch.uint8) | (steps < 0).to(torch.uint8) << 3
    codes = codes.flatten(-2)
    return codes[..., ::2] | codes[..., 1::2] << 4, scale.squeeze(-1)


def quantise_row(x: torch.Tensor, kind: torch.dtype) -> Quantised:
    """Quantise with one scale per row."""
    return int8_row(x) if kind == torch.int8 else fp8_row(x)


def rounding(row: RowFormat, device: torch.device) -> Callable[[torch.Tensor], Quantised]:
    """Return what rounds rows as ``row`` says: to its format, with so many scales; raises ``Unsupported``."""
    if row.out == "nvfp4":
        if row.width % _FP4_GROUP:
            raise Unsupported(f"groups of {_FP4_GROUP} do not divide width {row.width}")
        return fp4_group
    is_fp8 = row.out == "fp8"
    if row.scales == 0:
        scale = torch.full((1,), 0.01, device=device)
        cast = _to_fp8 if is_fp8 else _to_int8
        return lambda x: (cast(x, scale), scale)
    if row.scales == 1:
        return fp8_row if is_fp8 else int8_row
    if row.width % SCALE_GROUP:
        raise Unsupported(f"groups of {SCALE_GROUP} do not divide width {row.width}")
    return fp8_group if is_fp8 else int8_group


def _to_int8(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return torch.round(x.float() / scale).clamp(-_INT8_MAX, _INT8_MAX).to(torch.int8)


def _to_fp8(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    # e4m3 has no infinity: a quotient rounded above the largest value would become NaN.
    return (x.float() / scale).clamp(-_FP8_MAX, _FP8_MAX).to(_FP8)
