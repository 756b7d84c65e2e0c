"""Weights in the layout a library packs them into: made once per shape, for packing costs more than most products.

A cold operand overflows the cache, so that a shape has as many packed copies as that takes. The last few shapes are
kept: a plan measures one shape at many batch sizes, in any order.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import torch

from profiler.kernels.buffers import TORCH_DTYPES, Buffers

_T = TypeVar("_T")
# A dense layer has four products, the logits are one more; experts, their router and a shared expert are the others.
_KEPT_SHAPES: Final = 8


class PackedWeights:
    """The packed copies of the last shapes asked for."""

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], list[Any]] = {}

    def copies(
        self, dtype: str, shapes: Sequence[tuple[int, ...]], buffers: Buffers, pack: Callable[..., _T]
    ) -> list[_T]:
        """Return what ``pack`` makes of random weights of ``shapes``, as often as the point rotates over them.

        ``pack`` takes one tensor per shape and returns memory of its own at every call.
        """
        nbytes = sum(map(math.prod, shapes)) * TORCH_DTYPES[dtype].itemsize
        wanted = buffers.copies_of(nbytes)
        key = (dtype, *shapes)
        found = self._kept.pop(key, [])
        if len(found) < wanted:
            weights: list[torch.Tensor] = [buffers.random(shape, dtype) for shape in shapes]
            found += [pack(*weights) for _ in range(wanted - len(found))]
        self._kept[key] = found
        while len(self._kept) > _KEPT_SHAPES:
            del self._kept[next(iter(self._kept))]
        return found[:wanted]
