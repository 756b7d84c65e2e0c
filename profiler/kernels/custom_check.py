"""Kernels of a person's own, held against their references before anything of them is measured.

Of every op, its sizes and its format, a call of the smallest amount and the largest up to 256 that is wanted is run by
both on copies of the same operands. Results, and operands that were changed in place, may differ by

    max |kernel - reference| <= tolerance * max |reference|
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import torch

from cluster_specs.errors import UserError
from profiler.backend import Unsupported
from profiler.kernels.custom_backend import CustomBackend, CustomKernel, Operands
from profiler.point import OpShape

_MOST_CHECKED: Final = 256


def refuse_undeclared(shapes: Iterable[OpShape], backend: CustomBackend | None, place: str) -> None:
    """Refuse custom ops that no extension declares or that one counts otherwise, and ops nothing asks for."""
    kernels = {} if backend is None else backend.kernels
    asked: set[str] = set()
    for op in _custom(shapes):
        name = str(op.shape["op"])
        asked.add(name)
        if name not in kernels:
            raise UserError(
                f"{place}: asks for op {name[:80]}, which "
                + ("needs an extension" if backend is None else "no extension given declares"),
                hint="give the file it comes from: --extension FILE, or leave it out: --families",
            )
        kernels[name].call_of(op)
    for text, names in ({} if backend is None else backend.names_by_extension).items():
        if asked.isdisjoint(names):
            raise UserError(
                f"--extension {text}: none of its ops ({', '.join(sorted(names))}) is to be measured",
                hint=f"leave it out, or check --families, --dtypes and the model that {place} was written for",
            )


def check_kernels(shapes: Iterable[OpShape], backend: CustomBackend, device: torch.device, *, seed: int) -> None:
    """Raise ``UserError`` at the first call whose kernel fails, or disagrees with its reference."""
    groups: dict[tuple[object, ...], list[OpShape]] = {}
    for op in _custom(shapes):
        groups.setdefault((op.shape["op"], op.shape["sizes"], op.dtype), []).append(op)
    for members in groups.values():
        for op in _checked(members):
            _check(op, backend.kernels[op.shape["op"]], device, seed)


def _custom(shapes: Iterable[OpShape]) -> Iterator[OpShape]:
    return (op for op in shapes if op.family == "custom")


def _checked(members: Sequence[OpShape]) -> list[OpShape]:
    """Return the call of the smallest amount, and of the largest that a plain reference is done with soon."""
    by_amount = {op.shape["amount"]: op for op in members}
    smallest = min(by_amount)
    large = max((amount for amount in by_amount if amount <= _MOST_CHECKED), default=smallest)
    return [by_amount[amount] for amount in sorted({smallest, large})]


def _check(op: OpShape, kernel: CustomKernel, device: torch.device, seed: int) -> None:
    place = f"op {op.shape['op']} with {op.shape['sizes']}, {op.shape['amount']} {op.shape['amount_of']} in {op.dtype}"
    torch.manual_seed(seed)
    try:
        operands = kernel.drawn(op, device)
        mine, own = _copied(operands), _copied(operands)
        found, wanted = _tensors(kernel.run(**mine)), _tensors(kernel.reference(**own))
    except Unsupported:
        return  # the point becomes a row that says so
    except UserError:
        raise
    except Exception as error:  # a person's kernel raises what it likes
        first = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"{place}: {type(error).__name__}: {first}", hint="a size or format it cannot run: raise Unsupported"
        ) from error
    if len(found) != len(wanted):
        raise UserError(f"{place}: kernel returns {len(found)} tensors, its reference {len(wanted)}")
    if not wanted and all(torch.equal(own[name], operands[name]) for name in operands):
        raise UserError(f"{place}: reference {kernel.op.reference} returns no tensor and changes none")
    limit = kernel.op.tolerance.get(op.dtype)
    if limit is None:
        raise UserError(f"{place}: its tolerance says nothing of {op.dtype}", hint=f"tolerance={{{op.dtype!r}: 0.05}}")
    for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
        _compare(one, other, limit, f"{place}: result {index + 1}" if len(found) > 1 else f"{place}: its result")
    for name in operands:
        _compare(mine[name], own[name], limit, f"{place}: operand {name} after the call")


def _compare(found: torch.Tensor, wanted: torch.Tensor, limit: float, place: str) -> None:
    if found.shape != wanted.shape:
        raise UserError(f"{place} has shape {tuple(found.shape)}, by the reference {tuple(wanted.shape)}")
    if not wanted.numel():
        return
    found64, wanted64 = found.detach().double(), wanted.detach().double()
    if not bool(torch.isfinite(wanted64).all()):
        raise UserError(f"{place} is not finite by the reference", hint="draw operands that stay bounded")
    largest = float(wanted64.abs().max())
    difference = float((found64 - wanted64).abs().max()) if bool(torch.isfinite(found64).all()) else float("inf")
    if difference > limit * largest:
        raise UserError(
            f"{place} differs from the reference by up to {difference:.3g}, where its largest value is {largest:.3g}; "
            f"the limit is {limit:g} of that",
            hint="nothing was measured: correct the kernel, or state the tolerance that its format needs",
        )


def _copied(operands: Operands) -> Operands:
    return {name: tensor.clone() for name, tensor in operands.items()}


def _tensors(result: object) -> list[torch.Tensor]:
    """Return the tensors of a result: one, a tuple or list of them, or none."""
    if isinstance(result, torch.Tensor):
        return [result]
    parts = result if isinstance(result, tuple | list) else ()
    return [part for part in parts if isinstance(part, torch.Tensor)]
