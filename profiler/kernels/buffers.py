"""Operand memory: hot activations that the previous kernel just wrote, cold weights and KV that come from memory.

Cold operands are views that walk through a region several times larger than the last-level cache, so that no call
finds its weights there. Values are random (zeros draw far less power and can take shortcuts); one random tile is
repeated over the region, which costs milliseconds instead of seconds and leaves the addresses distinct. Regions are
kept from point to point.
"""

import math
from typing import Final

import torch

from cluster_specs.errors import UserError

TORCH_DTYPES: Final[dict[str, torch.dtype]] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.float8_e4m3fn,
    "int8": torch.int8,
    "int32": torch.int32,
}
_TILE_NUMEL: Final = 1 << 20
_ALIGN_BYTES: Final = 256
_MAX_COPIES: Final = 2048


class Buffers:
    """Random operands of one device; ``cold_bytes`` is the footprint cold operands rotate over."""

    def __init__(self, device: torch.device, *, cold_bytes: int, seed: int) -> None:
        self.device = device
        self.cold_bytes = cold_bytes
        self.is_cold = True
        self._generator = torch.Generator(device=device).manual_seed(seed)
        self._copies: int | None = None
        self._free: dict[torch.dtype, list[torch.Tensor]] = {}
        self._taken: dict[torch.dtype, list[torch.Tensor]] = {}

    def begin(self, *, is_cold: bool, copies: int | None = None) -> None:
        """Start a new point: its operands take regions of their own, over those of the point before.

        ``copies`` is the number of views each cold operand rotates over, for operands that are walked together and so
        need to overflow the cache only together; None gives each as many as overflow it alone.
        """
        self.is_cold, self._copies = is_cold, copies
        for kind, regions in self._taken.items():
            self._free.setdefault(kind, []).extend(regions)
        self._taken.clear()

    @property
    def taken_bytes(self) -> int:
        """Bytes of the regions that the rotating operands of this point take."""
        return sum(region.nbytes for regions in self._taken.values() for region in regions)

    @property
    def kept_bytes(self) -> int:
        """Bytes of all regions, in use or kept for the next point."""
        kept = sum(region.nbytes for regions in self._free.values() for region in regions)
        return kept + self.taken_bytes

    def random(self, shape: tuple[int, ...], dtype: str | torch.dtype) -> torch.Tensor:
        """Return a fresh random tensor: standard normal, or uniform over the range for integers."""
        kind = TORCH_DTYPES[dtype] if isinstance(dtype, str) else dtype
        if kind == torch.int8:
            return torch.randint(-127, 128, shape, dtype=kind, device=self.device, generator=self._generator)
        if kind == torch.int32:
            return torch.randint(-(2**20), 2**20, shape, dtype=kind, device=self.device, generator=self._generator)
        values = torch.randn(shape, device=self.device, generator=self._generator)
        return values.to(kind)

    def integers(self, shape: tuple[int, ...], high: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        """Return uniform integers in [0, high)."""
        return torch.randint(0, high, shape, dtype=dtype, device=self.device, generator=self._generator)

    def rotating(
        self, shape: tuple[int, ...], dtype: str | torch.dtype, *, read_frac: float = 1.0
    ) -> list[torch.Tensor]:
        """Return views of ``shape`` to use in turn: enough to overflow the cache when cold, one when hot.

        ``read_frac`` in (0, 1] is the share of a view that a call reads: only that passes through the cache.
        """
        kind = TORCH_DTYPES[dtype] if isinstance(dtype, str) else dtype
        if any(size <= 0 for size in shape):
            raise UserError(f"operand shape {shape} has a side that is not positive")
        numel = math.prod(shape)
        align = _ALIGN_BYTES // kind.itemsize
        step = -(-numel // align) * align
        copies = self.copies_of(step * kind.itemsize * read_frac)
        region = self._region(kind, step * copies)
        return [region[i * step : i * step + numel].view(shape) for i in range(copies)]

    def copies_of(self, nbytes: float) -> int:
        """Return over how many operands, ``nbytes`` of each read, a cold one rotates in this point; one when hot."""
        if not self.is_cold:
            return 1
        return self._copies or min(math.ceil(self.cold_bytes / nbytes), _MAX_COPIES)

    def table(self, width: int, dtype: str) -> torch.Tensor:
        """Return a table of rows of ``width`` that overflows the cache, for ops that look single rows up."""
        kind = TORCH_DTYPES[dtype]
        rows = max(math.ceil(self.cold_bytes / (width * kind.itemsize)), 2)
        return self._region(kind, rows * width).view(rows, width)

    def release(self) -> None:
        """Forget all regions, so that the next operands start from free memory."""
        self._free.clear()
        self._taken.clear()

    def _region(self, kind: torch.dtype, numel: int) -> torch.Tensor:
        """Return ``numel`` elements nobody else of the point has: operands must not warm each other's memory.

        The smallest free region that is large enough is taken. Where none is, the smallest of all makes room for a
        new one, so that a point of few operands never leaves more regions than it has.
        """
        free = self._free.setdefault(kind, [])
        free.sort(key=torch.Tensor.numel)
        fitting = next((index for index, kept in enumerate(free) if kept.numel() >= numel), None)
        if fitting is not None:
            region = free.pop(fitting)
        else:
            del free[:1]
            region = self._drawn(kind, numel)
        self._taken.setdefault(kind, []).append(region)
        return region[:numel]

    def _drawn(self, kind: torch.dtype, numel: int) -> torch.Tensor:
        tile = self.random((min(_TILE_NUMEL, numel),), kind)
        # 8-bit floats have no repeat kernel: repeat their bytes.
        raw = tile.view(torch.uint8) if kind.itemsize == 1 else tile
        return raw.repeat(-(-numel // tile.numel())).view(kind)


def cache_bytes(device: torch.device) -> int:
    """Return the size of the last-level cache that cold operands must overflow."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    from pathlib import Path

    sizes = [_size_bytes(path.read_text()) for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max(sizes, default=32 << 20)


def _size_bytes(text: str) -> int:
    """Read the kernel's cache size text, such as ``32768K``."""
    digits = text.strip()
    factor = {"K": 1 << 10, "M": 1 << 20}.get(digits[-1], 1)
    return int(digits.rstrip("KM")) * factor
