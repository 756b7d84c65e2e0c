"""Activation quantisation in plain torch: x ~ q * scale with scale = amax(|x|) / max(format).

Per tensor, per token (row) or per group of 128 columns; the scale keeps the layout the GEMMs want.
"""

from typing import Final

import torch

from profiler.backend import Unsupported
from profiler.kernels.elementwise_bytes import GROUP

_FP8: Final = torch.float8_e4m3fn
_FP8_MAX: Final = 448.0
_INT8_MAX: Final = 127.0
_TINY: Final = 1e-12


def require_fp8(device: torch.device) -> None:
    """Raise ``Unsupported`` on a GPU without e4m3 arithmetic."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        raise Unsupported("FP8 tensor cores need compute capability 8.9 or newer")


def fp8_tensor(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise [m, k] to e4m3 with one scale of shape [1]."""
    scale = x.abs().amax().float().clamp_min(_TINY).reshape(1) / _FP8_MAX
    return _to_fp8(x, scale), scale


def fp8_row(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise [m, k] to e4m3 with one scale per row, shape [m, 1]."""
    scale = x.abs().amax(dim=-1, keepdim=True).float().clamp_min(_TINY) / _FP8_MAX
    return _to_fp8(x, scale), scale


def fp8_group(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise [m, k] to e4m3 with one scale per 128 columns, shape [m, k / 128]."""
    quantised, scale = fp8_row(x.reshape(-1, GROUP))
    return quantised.reshape(x.shape), scale.reshape(x.shape[0], -1)


def int8_row(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise [m, k] to symmetric int8 with one scale per row, shape [m, 1]."""
    scale = x.abs().amax(dim=-1, keepdim=True).float().clamp_min(_TINY) / _INT8_MAX
    return torch.round(x.float() / scale).to(torch.int8), scale


def int8_tensor(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise [m, k] to symmetric int8 with one scale of shape [1]."""
    scale = x.abs().amax().float().clamp_min(_TINY).reshape(1) / _INT8_MAX
    return torch.round(x.float() / scale).to(torch.int8), scale


def _to_fp8(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    # e4m3 has no infinity: a quotient rounded above the largest value would become NaN.
    return (x.float() / scale).clamp(-_FP8_MAX, _FP8_MAX).to(_FP8)
