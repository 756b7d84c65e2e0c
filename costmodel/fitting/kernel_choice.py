"""Which rows of a fit were measured on the kernel that an engine runs, and what rows of another kernel are good for.

Rows measured through the engine are its kernels, and so is every kernel of the same family
(`costmodel.families.kernels`). Rows of another kernel are no prices where the engine's kernel was measured, here or in
an earlier fit of the device: they are set aside, and tell ratios within their own kernel alone. Where nothing else was
measured they stand in, and the report says so.
"""

from collections.abc import Container, Mapping, Set
from dataclasses import field

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.families.family import Columns, OpFamily
from costmodel.families.kernels import EngineKernels
from costmodel.families.rows import texts
from costmodel.fitted.knots import FamilyKnots
from costmodel.ops.label import Label, joined

KERNEL_FAMILY = "kernel_family"


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelChoice:
    """``is_foreign`` [rows]: not of the engine's kernel, which was measured; ``runs``: its kernels by choice."""

    is_foreign: NDArray[np.bool_]
    runs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def choose_kernels(
    columns: Columns, family: OpFamily, engine: EngineKernels, elsewhere: Set[str] = frozenset()
) -> KernelChoice:
    """Tell the rows of ``columns`` apart; ``elsewhere`` are the choices whose kernels an earlier fit holds.

    An engine without a name is whichever one rows were measured through. Rows that were measured through any engine
    are never foreign: which engine's count is chosen by name and version.
    """
    if not family.kernel_choice:
        return KernelChoice(is_foreign=np.zeros(len(columns["backend"]), dtype=bool))
    choice, kernel = choices(columns, family), texts(columns, KERNEL_FAMILY)
    framework, backend = texts(columns, "framework"), texts(columns, "backend")
    name = engine.engine.partition("-")[0]
    through = framework != ""
    if name:
        through = np.char.startswith(np.char.add(framework, "-"), f"{name}-") | np.char.startswith(backend, f"{name}.")
    is_foreign = np.zeros(len(choice), dtype=bool)
    known: dict[str, tuple[str, ...]] = {}
    for text in np.unique(choice).tolist():
        rows = choice == text
        runs = engine.of(family.name, text.split("|")) or tuple(np.unique(kernel[rows & through]).tolist())
        if not runs:
            continue
        known[text] = runs
        is_engines = rows & (through | np.isin(kernel, runs))
        if is_engines.any() or text in elsewhere:
            is_foreign |= rows & ~is_engines & (framework == "")
    return KernelChoice(is_foreign=is_foreign, runs=known)


def choices(columns: Columns, family: OpFamily) -> NDArray[np.str_]:
    """Return what decides each row's kernel, as one text."""
    return joined(*(texts(columns, name) for name in family.kernel_choice))


def choice_of_label(family: OpFamily, label: Label) -> str:
    """Return the choice that a label's rows are of."""
    return "|".join(family.part(label, name) for name in family.kernel_choice)


def known_choices(family: OpFamily, knots: FamilyKnots | None, without: Container[str] = ()) -> frozenset[str]:
    """Return the choices that a fit has labels of, leaving some labels out."""
    if knots is None or not family.kernel_choice:
        return frozenset()
    return frozenset(choice_of_label(family, label) for label in knots.labels if label.text not in without)
