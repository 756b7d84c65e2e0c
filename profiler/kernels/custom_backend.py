"""Kernels of a person's own, found by the import strings of the ops that their extensions declare.

Operands are drawn by the person's own function. Those that a serving step finds cold rotate over as many copies as
overflow the cache, each a copy of the first: what a kernel computes does not change with the copy it works on.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from costmodel.extension.custom_op import GUIDE, CustomOp
from costmodel.extension.load import Extension, load_ops
from costmodel.ops.custom import Custom, sizes_in
from profiler.backend import Prepared, Unsupported
from profiler.kernels.buffers import TORCH_DTYPES, Buffers
from profiler.point import OpShape

Operands = dict[str, torch.Tensor]
Kernel = Callable[..., object]


@dataclass(frozen=True, slots=True)
class CustomKernel:
    """A declared op with its functions found."""

    op: CustomOp
    run: Kernel
    reference: Kernel
    operands: Callable[..., Operands]

    @classmethod
    def of(cls, op: CustomOp) -> "CustomKernel":
        """Follow the op's import strings; raises ``UserError`` where one leads nowhere."""
        found = [_function(op, what, getattr(op, what)) for what in ("kernel", "reference", "operands")]
        return cls(op, *found)

    def call_of(self, shape: OpShape) -> Custom:
        """Return the op as its declaration counts it; raises ``UserError`` where a manifest counts otherwise."""
        columns = shape.shape
        if columns["amount"] < 1:
            raise UserError(f"op {self.op.name}: amount is {columns['amount']} in the manifest, must be > 0")
        found = self.op.of(columns["amount"], dtype=shape.dtype, **sizes_in(columns["sizes"]))
        for name, value in columns.items():
            if getattr(found, name) != value:
                raise UserError(
                    f"op {self.op.name}, {columns['sizes']}: {name} is {shown(value)} in the manifest and "
                    f"{shown(getattr(found, name))} by its extension",
                    hint="write the manifest again: `apex shapes --extension FILE`",
                )
        return found

    def drawn(self, shape: OpShape, device: torch.device) -> Operands:
        """Return a call's operands; raises ``Unsupported`` for a format of no tensor, ``UserError`` for no dict."""
        if shape.dtype not in TORCH_DTYPES:
            raise Unsupported(f"{shape.dtype} is no format of a tensor")
        sizes = sizes_in(shape.shape["sizes"])
        found = self.operands(shape.shape["amount"], TORCH_DTYPES[shape.dtype], device, **sizes)
        is_sound = isinstance(found, dict) and all(isinstance(value, torch.Tensor) for value in found.values())
        if not is_sound or (missing := sorted(set(self.op.cold) - set(found))):
            what = f"without {missing[0]}, which is cold" if is_sound else "no dict of tensors"
            raise UserError(f"op {self.op.name}: {self.op.operands} returned {what}", hint=GUIDE)
        return found


class CustomBackend:
    """The kernels of the ops that extensions declare."""

    name = "custom"

    def __init__(self, extensions: Sequence[Extension]) -> None:
        self._kernels = {name: CustomKernel.of(op) for found in extensions for name, op in found.ops.items()}
        self.names_by_extension = {found.text: frozenset(found.ops) for found in extensions}

    @classmethod
    def load(cls, extensions: Sequence[str]) -> "CustomBackend":
        """Load extensions and find their kernels; raises ``UserError`` for whatever of theirs cannot be used."""
        return cls(load_ops(extensions))

    @property
    def kernels(self) -> Mapping[str, CustomKernel]:
        """Kernels by the name of their op."""
        return self._kernels

    def kernels_for(self, op: OpShape) -> Sequence[str]:
        """Return the import string of the op's kernel."""
        found = self._kernels.get(op.shape["op"]) if op.family == "custom" else None
        return () if found is None else (found.op.kernel,)

    def prepare(self, op: OpShape, kernel: str, buffers: Buffers) -> Prepared:  # noqa: ARG002 - an op has one kernel
        """Draw operands and return the launch; raises ``Unsupported`` or ``torch.OutOfMemoryError``."""
        found = self._kernels[op.shape["op"]]
        run, operands = found.run, found.drawn(op, buffers.device)
        cold = {name: operands[name] for name in found.op.cold}
        copies = buffers.copies_of(sum(tensor.nbytes for tensor in cold.values())) if cold else 1
        rotating = {
            name: tensor.expand(copies, *tensor.shape).clone(memory_format=torch.contiguous_format).unbind(0)
            for name, tensor in cold.items()
        }
        calls: list[dict[str, Any]] = [
            {**operands, **{name: tensors[i] for name, tensors in rotating.items()}} for i in range(copies)
        ]
        return Prepared(lambda i: run(**calls[i % copies]), copies)


def _function(op: CustomOp, what: str, text: str) -> Callable[..., Any]:
    module_name, _, name = text.partition(":")
    place = f"op {op.name}: {what} {text}"
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a person's code raises is that person's mistake, not ours
        hint = f"a module beside the extension, or one that Python can import: {GUIDE}"
        raise UserError(f"{place}: {type(error).__name__}: {error}", hint=hint) from error
    found = getattr(module, name, None)
    if not callable(found):
        where = getattr(module, "__file__", None) or module_name  # another module of that name may have come first
        raise UserError(f"{place}: {where} has no function {name}", hint=GUIDE)
    function: Callable[..., Any] = found
    return function
