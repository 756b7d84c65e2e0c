"""Operands of small ops, chosen by the names of the parameters that take them, so that a kernel is a plain function.

The first parameter says what rotates: each row of a large batch comes from memory, as in serving. The others are made
once. Results are new, but where an op writes into memory that it is given.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Final

import torch

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.op_types import Elementwise
from costmodel.ops.small_ops import RowFormat, row_format
from profiler.backend import Prepared, Unsupported
from profiler.kernels.buffers import TORCH_DTYPES, Buffers
from profiler.point import OpShape, cost_op

RowKernel = Callable[..., object]
# Batches of token numbers an embedding walks through, so that its rows are not those of the call before.
_ID_SETS: Final = 64
# KV slots that a write scatters over, as a multiple of its rows.
_SLOTS: Final = 4
# Taps of a convolution: every published model with a short convolution has four.
_TAPS: Final = 4
_HEAD_DIMS: Final = (128, 64, 32, 16, 8, 4, 2)


@dataclass(frozen=True, slots=True)
class Rows:
    """So many rows of one format, and where their operands come from."""

    count: int
    format: RowFormat
    buffers: Buffers

    @property
    def width(self) -> int:
        """Elements of a row."""
        return self.format.width

    @property
    def dtype(self) -> str:
        """Format of the operands."""
        return self.format.dtype

    @property
    def head_dim(self) -> int:
        """Width of a head: the largest usual one that divides the row."""
        return next((size for size in _HEAD_DIMS if self.width % size == 0), self.width)

    def one(self, *shape: int, dtype: str = "") -> torch.Tensor:
        """Return an operand that all calls share."""
        return self.buffers.random(shape, dtype or self.dtype)

    def many(self, *shape: int, dtype: str = "") -> list[torch.Tensor]:
        """Return the operands that calls take in turn."""
        return self.buffers.rotating(shape, dtype or self.dtype)

    def angles(self, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Return cosines or sines [rows, 1, head_dim / 2]."""
        return function(self.one(self.count, 1, self.head_dim // 2, dtype="fp32")).to(TORCH_DTYPES[self.dtype])

    def numbers(self, high: int) -> torch.Tensor:
        """Return a number below ``high`` for each row."""
        return self.buffers.integers((self.count,), high)

    def cache(self) -> torch.Tensor:
        """Return empty slots in the result's format."""
        shape = (_SLOTS * self.count, self.width)
        return torch.zeros(shape, dtype=TORCH_DTYPES[self.format.out or self.dtype], device=self.buffers.device)


# Operands that rotate, and operands that stay, by the parameter's name.
_ROTATING: Final[Mapping[str, Callable[[Rows], list[torch.Tensor]]]] = {
    "x": lambda rows: rows.many(rows.count, rows.width),
    "gate_up": lambda rows: rows.many(rows.count, 2 * rows.width),
    "heads": lambda rows: rows.many(rows.count, rows.width // rows.head_dim, rows.head_dim),
    "scores": lambda rows: rows.many(rows.count, rows.width, dtype="fp32"),
}
_STAYING: Final[Mapping[str, Callable[[Rows], object]]] = {
    "weight": lambda rows: rows.one(rows.width),
    "bias": lambda rows: rows.one(rows.width),
    "head_weight": lambda rows: rows.one(rows.head_dim),
    "other": lambda rows: rows.one(rows.count, rows.width),
    "residual": lambda rows: rows.one(rows.count, rows.width),
    "gate": lambda rows: rows.one(rows.count, rows.width),
    "gate_heads": lambda rows: rows.one(rows.count, rows.width // rows.head_dim, rows.head_dim),
    "taps": lambda rows: rows.one(rows.width, _TAPS),
    "cos": lambda rows: rows.angles(torch.cos),
    "sin": lambda rows: rows.angles(torch.sin),
    "index": lambda rows: rows.numbers(rows.count),
    "cache": Rows.cache,
    "slots": lambda rows: torch.randperm(_SLOTS * rows.count, device=rows.buffers.device)[: rows.count],
    "chosen": lambda rows: rows.format.chosen,
    "kind": lambda rows: TORCH_DTYPES[rows.format.out],
    "scales": lambda rows: rows.format.scales,
}


def made_of(op: OpShape) -> RowFormat:
    """Return what a row of ``op`` is made of; raises ``Unsupported`` for no rows and for bytes no such row moves."""
    name, rows, width = op.shape["op"], op.shape["rows"], op.shape["width"]
    if min(rows, width) < 1:
        raise Unsupported(f"illegal shape rows={rows} width={width}: both must be at least 1")
    counted = cost_op(op)
    assert isinstance(counted, Elementwise)
    found = row_format(counted)
    if found is None:
        raise Unsupported(
            f"no row of {name} of {width} {op.dtype} elements moves {counted.bytes_per_row:g} bytes",
            hint="costmodel/ops/small_ops.py counts the bytes; write the manifest again with `apex shapes`",
        )
    return found


def prepare_rows(op: OpShape, buffers: Buffers, kernel: RowKernel) -> Prepared:
    """Return the launch of ``kernel`` on the operands its parameters name; raises ``Unsupported``."""
    rows = Rows(op.shape["rows"], made_of(op), buffers)
    first, *others = inspect.signature(kernel).parameters
    if first == "ids":
        table = buffers.table(rows.width, rows.dtype)
        ids = [rows.numbers(len(table)) for _ in range(_ID_SETS)]
        return Prepared(lambda i: kernel(ids[i % _ID_SETS], table), _ID_SETS)
    staying = [_STAYING[name](rows) for name in others]
    rotating = _ROTATING[first](rows)
    copies = len(rotating)
    return Prepared(lambda i: kernel(rotating[i % copies], *staying), copies)
