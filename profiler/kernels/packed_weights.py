"""Weights in the layout a library packs them into: made once per shape, for packing costs more than most products.

A cold operand overflows the cache, so that a shape has as many packed copies as that takes. The last shapes are kept,
for a plan measures one at many batch sizes in any order: what a quarter of the machine's memory holds, one at least.
"""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import torch

from profiler.kernels.buffers import TORCH_DTYPES, Buffers

_T = TypeVar("_T")
_KEPT_SHARE: Final = 0.25  # of the machine's memory


class PackedWeights:
    """The packed copies of the last shapes asked for, up to ``most_bytes`` where those are more than one."""

    def __init__(self, most_bytes: float | None = None) -> None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._most_bytes = _KEPT_SHARE * memory if most_bytes is None else most_bytes
        self._kept: dict[tuple[object, ...], tuple[int, list[Any]]] = {}

    def copies(
        self,
        dtype: str,
        shapes: Sequence[tuple[int, ...]],
        buffers: Buffers,
        pack: Callable[..., _T],
        *,
        read_frac: float = 1.0,
    ) -> list[_T]:
        """Return what ``pack`` makes of random weights of ``shapes``, as often as the point rotates over them.

        ``pack`` takes one tensor per shape and returns memory of its own at every call, of which a call of the kernel
        reads ``read_frac``.
        """
        nbytes = sum(map(math.prod, shapes)) * TORCH_DTYPES[dtype].itemsize
        wanted = buffers.copies_of(nbytes * read_frac)
        key = (dtype, *shapes)
        _, found = self._kept.pop(key, (0, []))
        if len(found) < wanted:
            weights: list[torch.Tensor] = [buffers.random(shape, dtype) for shape in shapes]
            found += [pack(*weights) for _ in range(wanted - len(found))]
        self._kept[key] = nbytes * len(found), found
        while len(self._kept) > 1 and sum(size for size, _ in self._kept.values()) > self._most_bytes:
            del self._kept[next(iter(self._kept))]
        return found[:wanted]
