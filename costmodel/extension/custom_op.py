"""The declaration of an op of a person's own: name, sizes, work, and where its kernel and the check on it are found.

A declaration is a plain value in a module of theirs; nothing is registered. Kernel, reference and operands are named by
import strings, which the profiler alone follows: planning on a laptop imports no torch.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import field, fields
from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.custom import Custom, sizes_text
from costmodel.ops.number_formats import DTYPE_BYTES
from costmodel.ops.op_types import Ints, Op
from costmodel.ops.small_ops import SMALL_OPS
from profiles_db.collective_kinds import COLLECTIVE_KINDS
from profiles_db.custom_ops import AMOUNTS, MOST_SIZES, OP_NAME, SIZE_NAME

GUIDE: Final = "docs/guides/add_a_custom_op.md"
_IMPORT: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Work of one call: FLOP and bytes per token or sequence, and bytes that every call moves; each >= 0."""

    unit_flop: float
    unit_bytes: float
    call_bytes: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomOp:
    """An op with a kernel of a person's own; raises ``UserError`` for a declaration that cannot be meant.

    ``sizes`` names the whole numbers that a plan fixes, those that differ from plan to plan first: shapes learn from
    each other where they differ in the first three alone. ``counts(dtype, **sizes)`` returns the `Counts` of a call.
    ``amount_of`` is what runs from step to step: ``tokens``, or the ``sequences`` that decode.

    ``kernel``, ``reference`` and ``operands`` are ``module:function``. ``operands(amount, dtype, device, **sizes)``
    returns tensors by name, with ``dtype`` a torch dtype; ``kernel(**operands)`` runs the op, and ``reference``
    computes the same plainly. Both may change operands in place, alike. ``cold`` names the operands that a serving
    step finds in memory and not in a cache: weights, states.

    ``tolerance`` is the largest difference from the reference over the largest value of the reference, by format.
    """

    name: str
    sizes: tuple[str, ...]
    amount_of: str
    counts: Callable[..., Counts]
    kernel: str
    reference: str
    operands: str
    cold: tuple[str, ...] = ()
    tolerance: Mapping[str, float] = field(
        default_factory=lambda: {"fp32": 1e-3, "fp16": 1e-2, "bf16": 3e-2}, hash=False
    )

    def __post_init__(self) -> None:
        """Check what can be checked without torch."""
        place = f"op {shown(self.name)}"
        if not isinstance(self.name, str) or re.fullmatch(OP_NAME, self.name) is None:
            raise UserError(f"{place}: a name is lower-case words with dots between, such as lab.selective_scan")
        if self.name in SMALL_OPS or self.name in COLLECTIVE_KINDS or self.name in _families():
            raise UserError(f"{place}: is an op that Apex has already", hint="name it after its owner: lab.NAME")
        if not 1 <= len(self.sizes) <= MOST_SIZES or len(set(self.sizes)) < len(self.sizes):
            raise UserError(f"{place}: has {len(self.sizes)} sizes, must have 1 to {MOST_SIZES}, each named once")
        for size in self.sizes:
            if re.fullmatch(SIZE_NAME, size) is None or size in {"amount", "dtype", "device"}:
                raise UserError(f"{place}: {shown(size)} is no name of a size", hint="such as inner, state, width")
        if self.amount_of not in AMOUNTS:
            raise UserError(f"{place}: amount_of is {shown(self.amount_of)}, must be one of {', '.join(AMOUNTS)}")
        for name in ("kernel", "reference", "operands"):
            text = getattr(self, name)
            if not isinstance(text, str) or _IMPORT.fullmatch(text) is None:
                raise UserError(f"{place}: {name} is {shown(text)}, must be module:function", hint=GUIDE)
        if self.kernel == self.reference:
            raise UserError(f"{place}: kernel and reference are both {self.kernel}", hint=f"a check of itself: {GUIDE}")
        for dtype, limit in self.tolerance.items():
            if dtype not in DTYPE_BYTES or not 0.0 < limit < 1.0:
                raise UserError(f"{place}: tolerance of {shown(dtype)} is {shown(limit)}, must be above 0 and below 1")

    def of(self, amount: Ints, *, dtype: str, **sizes: int) -> Custom:
        """Return a call of the op; raises ``UserError`` for sizes it does not have and counts that are none."""
        place = f"op {self.name}"
        if tuple(sizes) != self.sizes:
            sizes = {name: sizes[name] for name in self.sizes if name in sizes} | sizes
        if tuple(sizes) != self.sizes:
            raise UserError(f"{place}: called with sizes {', '.join(sizes)}, has {', '.join(self.sizes)}")
        for name, size in sizes.items():
            if not isinstance(size, int) or size < 1:
                raise UserError(f"{place}: {name} is {shown(size)}, must be a whole number > 0")
        counts = self.counts(dtype, **sizes)
        if not isinstance(counts, Counts):
            raise UserError(f"{place}: counts returns {shown(counts)}, must be Counts(...)", hint=GUIDE)
        for item in fields(counts):
            value = getattr(counts, item.name)
            if not isinstance(value, int | float) or not 0 <= value < 2**53:
                raise UserError(f"{place}: counts gives {item.name} {shown(value)}, must be a number >= 0", hint=GUIDE)
        if not counts.unit_flop and not counts.unit_bytes:
            raise UserError(f"{place}: counts gives no work per one of its {self.amount_of}", hint=GUIDE)
        return Custom(
            op=self.name,
            sizes=sizes_text(sizes),
            amount_of=self.amount_of,
            amount=amount,
            dtype=dtype,
            unit_flop=float(counts.unit_flop),
            call_bytes=float(counts.call_bytes),
            unit_bytes=float(counts.unit_bytes),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomScan:
    """What a cell's ``scan(plan)`` returns: an op that works through prompts, and one that decodes, of the same sizes.

    ``prompt_op`` counts tokens, ``step_op`` sequences; several tokens of a sequence in one step (drafts that are
    verified) count as so many sequences.
    """

    prompt_op: CustomOp
    step_op: CustomOp
    sizes: Mapping[str, int]
    dtype: str

    def __post_init__(self) -> None:
        """Check that each op counts what it will be given."""
        for op, amount_of in ((self.prompt_op, "tokens"), (self.step_op, "sequences")):
            if op.amount_of != amount_of:
                raise UserError(f"op {op.name}: counts {op.amount_of}, and a scan needs one that counts {amount_of}")

    def prompt(self, tokens: Ints) -> Op:
        """Return the call of a prompt of so many tokens."""
        return self.prompt_op.of(tokens, dtype=self.dtype, **self.sizes)

    def steps(self, sequences: Ints, tokens: int) -> Op:
        """Return the call of so many sequences that decode so many tokens each."""
        return self.step_op.of(sequences * tokens, dtype=self.dtype, **self.sizes)


def _families() -> frozenset[str]:
    return frozenset(kind.family for kind in Op.__args__)
