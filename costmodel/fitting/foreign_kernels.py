"""What a fit makes of rows of kernels that the engine does not run, and which kernel each of its labels is priced by.

A ratio between two calls of one kernel is nearer to that of another kernel than either time is: calls over chunks, of
unequal lengths and mixed ones (`costmodel.families.attention.with_derived`) are corrected by foreign rows where the
engine's kernel was not measured so, each against prices from rows of the same kernel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from costmodel.families.all import OP_FAMILIES
from costmodel.families.family import Columns, OpFamily
from costmodel.families.kernels import EngineKernels
from costmodel.families.rows import measured_rows, numbers, taken, texts
from costmodel.fitted.knots import FamilyKnots
from costmodel.fitting.build_knots import build_knots
from costmodel.fitting.kernel_choice import KERNEL_FAMILY, choice_of_label, known_choices
from costmodel.fitting.measurements import Measurements
from costmodel.fitting.prior import Prior
from costmodel.ops.label import Label, at_clocks
from profiles_db.store import Store


def known_elsewhere(device: str, prior: Prior | None) -> dict[str, frozenset[str]]:
    """Return the choices that an earlier fit of the same device holds as an engine runs them, by family.

    Labels that it calls stand-ins are none of them.
    """
    if prior is None or prior.name != device or not prior.framework:
        return dict.fromkeys(OP_FAMILIES, frozenset())
    stand_ins = {report.family: report.stand_ins for report in prior.artefact.reports}
    return {
        name: known_choices(family, prior.artefact.families.get(name), stand_ins.get(name, {}))
        for name, family in OP_FAMILIES.items()
    }


def with_ratios(
    family: OpFamily, knots: FamilyKnots, aside: Columns, cluster: ClusterSpec, *, fewest: int
) -> FamilyKnots:
    """Correct the derived kinds that the engine's own rows do not tell by rows of other kernels, one by one.

    A label of another kernel needs ``fewest`` points to be held against its own prices.
    """
    if family.with_derived is None or not aside:
        return knots
    kernels, usable = texts(aside, KERNEL_FAMILY), family.usable(aside, cluster)
    for kernel in np.unique(kernels).tolist():
        own = kernels == kernel
        if not (own & usable).any() or (usable | ~own).all():
            continue
        rows = measured_rows(family, taken(aside, own & usable), cluster)
        names, counts = np.unique(rows.label, return_counts=True)
        rows = rows.take(np.isin(rows.label, names[counts >= fewest]))
        if len(rows.x):
            theirs = family.with_derived(family, build_knots(rows), taken(aside, own & ~usable), cluster)
            knots = replace(knots, derived=theirs.derived | knots.derived)
    return knots


class LabelKernels(TypedDict):
    """Kernel families that a label's prices come from, those of the engine where known, and what its times hold."""

    priced_by: dict[str, str]
    engine_runs: dict[str, str]
    contracts: dict[str, str]


def kernels_of_labels(
    family: OpFamily, found: Measurements, usable: NDArray[np.bool_], cluster: ClusterSpec, labels: Sequence[str]
) -> LabelKernels:
    """Name the kernels of each fitted label."""
    priced_by: dict[str, str] = {}
    contracts: dict[str, str] = {}
    if labels:
        rows = family.knot_rows(taken(found.columns, usable), cluster)
        text, kernel = at_clocks(rows.label, numbers(rows.columns, "clock_mhz")), texts(rows.columns, KERNEL_FAMILY)
        priced_by = {label: ", ".join(np.unique(kernel[text == label]).tolist()) for label in labels}
        first = {label: int(np.argmax(text == label)) for label in labels}
        for label, row in first.items() if family.contract else ():
            held = [f"{name} {str(rows.columns[name][row]).lower()}" for name in family.contract]
            contracts[label] = ", ".join(held)
    runs = {label: found.runs.get(choice_of_label(family, Label.parse(label)), ()) for label in labels}
    known = {label: ", ".join(names) for label, names in runs.items() if names}
    return {"priced_by": priced_by, "engine_runs": known, "contracts": contracts}


def nothing_but_foreign(
    store: Store, measured: Mapping[str, Measurements], engine: EngineKernels | None
) -> UserError | None:
    """Return the error for a database all of whose rows are of kernels the engine does not run; None otherwise."""
    aside = [found.aside for found in measured.values() if found.aside and len(found.aside["latency_s"])]
    if not aside:
        return None
    kernels = sorted({name for columns in aside for name in texts(columns, KERNEL_FAMILY).tolist()})
    runs = sorted({name for found in measured.values() for names in found.runs.values() for name in names})
    count = sum(len(columns["latency_s"]) for columns in aside)
    named = engine.engine if engine is not None and engine.engine else "the engine"
    return UserError(
        f"{store.root}: {count} rows are of {', '.join(kernels)}, {named} runs {', '.join(runs)}, which the earlier "
        "fit holds: there is nothing to fit",
        hint="--prior none fits them as a stand-in; install the engine beside `apex profile` to measure its kernels",
    )
