"""Measurements of one device in, fitted model out: every family that has enough rows, with its held-out error.

A family with too few rows is not fitted; the report says how many it needs, and prices fall back to the analytic
model by name. Labels with few points are filled in (`costmodel.fitting.filling`), from a prior fit where that helps.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from cluster_specs.extras import require_extra
from cluster_specs.lazy_dataclass import dataclass
from costmodel.families.all import OP_FAMILIES
from costmodel.families.family import FEWEST_POINTS, OpFamily
from costmodel.families.kernels import EngineKernels
from costmodel.families.rows import measured_rows, taken
from costmodel.fit_file.contents import Artefact, FamilyReport, Provenance
from costmodel.fitted.held_out import HeldOut
from costmodel.fitted.knots import Errors, FamilyKnots
from costmodel.fitted.measured_rows import MeasuredRows, concatenated
from costmodel.fitting.build_knots import build_knots
from costmodel.fitting.filling import completed, filled
from costmodel.fitting.fit_power import fit_power
from costmodel.fitting.foreign_kernels import kernels_of_labels, known_elsewhere, nothing_but_foreign, with_ratios
from costmodel.fitting.holdout import held_out_errors, with_fillings
from costmodel.fitting.intervals import summarise, with_intervals
from costmodel.fitting.measurements import Columns, Measurements, read_measurements
from costmodel.fitting.pooling import pooled
from costmodel.fitting.prior import Prior
from costmodel.fitting.repair import impossible, repaired, suspicious
from costmodel.ops.arrays import Array
from costmodel.ops.label import Label
from costmodel.pricing.measured_links import links_of
from profiles_db.schema import FAMILIES
from profiles_db.store import Store

# The column of families whose timings may include quantising the activations.
_QUANTISE: Final = "quantise"


def fit_device(
    store: Store,
    device: str,
    cluster: ClusterSpec,
    *,
    framework: str | None = None,
    is_monotone: bool = False,
    prior: Prior | None = None,
    engine: EngineKernels | None = None,
) -> Artefact:
    """Fit all families of ``device``, from ``prior`` where labels have few points and it has not seen them.

    Labels without any rows come from a prior of the same device whole. ``engine`` says which kernels it runs: rows of
    others are no prices where those were measured.

    Raises ``UserError`` when not one family has enough rows, or without the extra ``fit``.
    """
    require_extra("fit", "scipy", "sklearn", what="fitting")
    elsewhere = known_elsewhere(device, prior)
    measured = {
        name: read_measurements(store, family, device, framework, engine=engine, elsewhere=elsewhere[name])
        for name, family in OP_FAMILIES.items()
    }
    whole = _Fitted()
    if prior is not None:
        products = next(found for found in measured.values() if _QUANTISE in found.columns)
        prior = prior.apart_from(products.columns)
    for name, found in measured.items():
        family = OP_FAMILIES[name]
        whole.add(family, found, *_fit_family(family, found, cluster, prior, is_monotone=is_monotone))
    if not whole.families:
        if error := nothing_but_foreign(store, measured, engine):
            raise error
        rows = sum(report.rows for report in whole.reports)
        raise UserError(
            f"{store.root}: {rows} rows of device {device} are too few to fit any family",
            hint=f"a family needs {FEWEST_POINTS} distinct points; measure with `apex profile`, or `apex import` some",
        )
    whole_prior = None if prior is None else prior.same_contract(whole.families)
    families, from_prior = completed(whole.families, device, cluster, whole_prior)
    if prior is not None and from_prior:
        whole.take(prior.artefact, from_prior)
    families = {
        name: with_ratios(OP_FAMILIES[name], knots, measured[name].aside, cluster, fewest=FEWEST_POINTS)
        for name, knots in families.items()
    }
    seen = np.concatenate(whole.clocks)
    power, energy_source = fit_power(measured, cluster)
    provenance = Provenance(
        device=device,
        cluster=cluster.name,
        created_at=datetime.now(tz=UTC).isoformat(timespec="seconds"),
        tool_version=_own_version(),
        run_ids=tuple(sorted(whole.run_ids)),
        origins=dict(whole.origins),
        frameworks=dict(whole.frameworks),
        is_monotone=is_monotone,
        unlocked_mhz=float(np.median(seen)) if len(seen) else cluster.device.clock.max_mhz,
        quantise_included=tuple(sorted(whole.quantised)),
        energy_source=energy_source,
        prior="" if prior is None else prior.name,
        from_prior=from_prior,
        links=links_of(cluster),
        engine="" if engine is None else engine.engine,
    )
    return Artefact(
        provenance=provenance,
        families=families,
        power=power,
        reports=tuple(whole.reports),
        held_out=tuple(whole.held_out),
    )


@dataclass(slots=True)
class _Fitted:
    """What all families together say of themselves and of the rows they were fitted to."""

    families: dict[str, FamilyKnots] = field(default_factory=dict)
    reports: list[FamilyReport] = field(default_factory=list)
    held_out: list[HeldOut] = field(default_factory=list)
    run_ids: set[str] = field(default_factory=set)
    origins: Counter[str] = field(default_factory=Counter)
    frameworks: Counter[str] = field(default_factory=Counter)
    clocks: list[Array] = field(default_factory=list)
    quantised: set[str] = field(default_factory=set)  # formats whose times include rounding the activations

    def add(
        self,
        family: OpFamily,
        found: Measurements,
        report: FamilyReport,
        knots: FamilyKnots | None,
        errors: Sequence[HeldOut],
    ) -> None:
        """Add one family; without knots it had too few rows, which its report says."""
        if report.rows or family.is_in_every_model:
            self.reports.append(report)
        if knots is None:
            return
        self.families[family.name] = knots
        self.held_out += errors
        self.run_ids.update(found.run_ids)
        self.origins.update(found.origins)
        self.frameworks.update(found.frameworks)
        self.clocks.append(_unlocked_clocks(found.columns))
        if _QUANTISE in found.columns:
            quantise = found.columns[_QUANTISE].astype(bool)
            self.quantised.update(np.unique(found.columns["dtype"][quantise]).astype(np.str_).tolist())

    def take(self, prior: Artefact, labels: Mapping[str, tuple[str, ...]]) -> None:
        """Add what an earlier fit says of the labels that came from it whole."""
        self.held_out += [row for row in prior.held_out if row.label in labels.get(row.family, ())]
        formats = {
            OP_FAMILIES[name].part(Label.parse(text), "dtype")
            for name, of_family in labels.items()
            if _QUANTISE in FAMILIES[name].shape_columns
            for text in of_family
        }
        self.quantised |= formats & set(prior.provenance.quantise_included)


def _fit_family(
    family: OpFamily, found: Measurements, cluster: ClusterSpec, prior: Prior | None, *, is_monotone: bool
) -> tuple[FamilyReport, FamilyKnots | None, list[HeldOut]]:
    dropped = dict(found.dropped)
    usable = family.usable(found.columns, cluster)
    if not usable.all():
        dropped[family.not_usable] = int(np.count_nonzero(~usable))
    rows = measured_rows(family, taken(found.columns, usable), cluster) if usable.any() else None
    labels: dict[str, int] = {}
    few: dict[str, int] = {}
    if rows is not None:
        for label in np.unique(rows.label).tolist():
            own = rows.label == label
            points = len(np.unique(np.column_stack([rows.shape[own], rows.x[own], rows.y[own]]), axis=0))
            (labels if points >= FEWEST_POINTS else few)[label] = points
        for label, points in few.items():
            dropped[f"{label}: {points} points, {FEWEST_POINTS} needed"] = int(np.count_nonzero(rows.label == label))
        rows = rows.take(np.isin(rows.label, list(labels)))
    report = FamilyReport(
        family=family.name,
        rows=found.rows,
        used=0 if rows is None else found.used - sum(dropped.values()) + sum(found.dropped.values()),
        dropped=dropped,
        suspicious={},
        labels=labels,
        why_not="" if labels else _why_not(found, few),
        **kernels_of_labels(family, found, usable, cluster, tuple(labels)),
    )
    if rows is None or not labels:
        return replace(report, used=0), None, []
    doubtful = suspicious(rows)
    counts = {label: int(np.count_nonzero(doubtful & (rows.label == label))) for label in labels}
    faster = np.maximum(rows.flop_s, rows.bytes_s) > rows.latency_s
    report = replace(
        report,
        suspicious={
            **{f"{label}: slower than a larger call": count for label, count in counts.items() if count},
            **({"faster than the roofline": int(faster.sum())} if faster.any() else {}),
        },
    )
    if is_monotone or family.is_monotone:
        unreal = impossible(rows)
        if unreal.any():
            report = replace(
                report,
                used=report.used - int(unreal.sum()),
                dropped={**report.dropped, "faster than the roofline and than both neighbours": int(unreal.sum())},
            )
        rows = repaired(rows.take(~unreal))
    no_prior = prior.has_seen(found) if prior is not None else ""
    report = replace(report, no_prior=no_prior)
    knots, errors = _knots(family, rows, cluster, None if no_prior else prior)
    knots = with_intervals(knots, errors)
    if family.with_derived is not None and not usable.all():
        knots = family.with_derived(family, knots, taken(found.columns, ~usable), cluster)
    return report, knots, summarise(knots, errors)


def _knots(
    family: OpFamily, rows: MeasuredRows, cluster: ClusterSpec, prior: Prior | None
) -> tuple[FamilyKnots, dict[str, Errors]]:
    """Build the knots of one family, with labels completed from all their shapes, and judge them."""
    knots = build_knots(rows)
    errors = held_out_errors(rows, knots)
    if not family.is_filled:
        return knots, errors
    more, fillings = filled(rows, knots, errors["point"], cluster, prior)
    estimates, by_trees = pooled(rows, knots, errors, cluster)
    fillings |= by_trees
    if not fillings:
        return knots, errors
    knots = build_knots(concatenated([more, *estimates]))
    labels = {name: replace(fit, filling=fillings.get(name)) for name, fit in knots.labels.items()}
    knots = replace(knots, labels=labels)
    return knots, with_fillings(errors, knots)


def _why_not(found: Measurements, few: Mapping[str, int]) -> str:
    if not found.rows:
        return "no rows"
    if found.aside and len(found.aside["latency_s"]) and not found.used:
        return "its rows are of kernels that the engine does not run"
    have = max(few.values(), default=0)
    return f"{have} distinct points of one kind, {FEWEST_POINTS} needed"


def _unlocked_clocks(columns: Columns) -> NDArray[np.float64]:
    seen = columns["sm_clock_mhz"].astype(np.float64)
    unlocked = np.isnan(columns["clock_mhz"].astype(np.float64)) & ~np.isnan(seen)
    return seen[unlocked]


def _own_version() -> str:
    try:
        return version("apex-planner")
    except PackageNotFoundError:
        return "unknown"
