"""What `apex fit` tells a person: rows used and left out, and how wrong each label is on what it has not seen."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from cluster_specs.command_line import strict_json
from costmodel.fit_file.contents import Artefact, FamilyReport
from costmodel.fitted.held_out import QUESTIONS, HeldOut, relative_error
from costmodel.fitted.knots import LabelFit
from costmodel.ops.label import Label

# Share of suspicious rows from which a repair is worth a look.
_MANY = 0.03


def report_json(artefact: Artefact, more: Mapping[str, Any]) -> str:
    """Report as JSON: provenance, families, held-out errors as fractions of 1, and what else there is to tell."""
    body: dict[str, Any] = {
        "schema": 1,
        "provenance": asdict(artefact.provenance),
        "families": [asdict(report) for report in artefact.reports],
        "held_out": [asdict(row) for row in artefact.held_out],
    }
    return strict_json({**body, **more})


def fit_text(artefact: Artefact) -> str:
    """Report as text: one line per label, then what was left out."""
    lines = [
        f"{'family':<12} {'label':<28} {'held out':<8} {'points':>7} {'median':>7} {'p90':>7} {'bias':>7} {'cover':>6}"
    ]
    lines += [_line(row) for row in overall(artefact.held_out)]
    for report in artefact.reports:
        if report.why_not:
            instead = "an earlier fit's" if report.family in artefact.provenance.from_prior else "analytic"
            lines.append(f"not fitted: {report.family}: {report.why_not}; its prices are {instead}")
        if report.no_prior:
            lines.append(f"prior not used for {report.family}: {report.no_prior}")
        for reason, count in report.dropped.items():
            lines.append(f"left out {count} {report.family} rows: {reason}")
        for reason, count in report.suspicious.items():
            lines.append(f"suspicious {count} {report.family} rows, kept: {reason}")
        if sum(report.suspicious.values()) > _MANY * report.used and not artefact.provenance.is_monotone:
            lines.append(f"hint: over {_MANY:.0%} of {report.family} rows are suspicious; compare with --monotone")
        lines += _kernel_lines(report, artefact.provenance.engine or "the engine")
    for knots in artefact.families.values():
        lines += [
            _filling_line(knots.family, label, fit, artefact.provenance.prior)
            for label, fit in knots.labels.items()
            if fit.filling
        ]
        for kind, found in knots.derived.items():
            spread = f"{relative_error(found.log_half_width):.0%} for nine in ten"
            lines.append(
                f"derived {knots.family}, {kind}: x {found.factor:.3f} on {found.points} rows, within {spread}"
            )
    for family, labels in artefact.provenance.from_prior.items():
        taken = f"taken from the fit of {artefact.provenance.prior}, not measured here"
        lines.append(f"{taken}: {family} {_first_of(labels)}")
    lines.append(f"energy: {artefact.provenance.energy_source}")
    return "\n".join(lines)


def _kernel_lines(report: FamilyReport, engine: str) -> Iterator[str]:
    """Say which kernels the labels are priced by: those that the engine runs together, stand-ins one by one."""
    stand_ins = report.stand_ins
    for label in stand_ins:
        said = f"priced by {report.priced_by[label]}, {engine} runs {report.engine_runs[label]}"
        yield f"stand-in {report.family} {label}: {said}"
    alike: dict[str, list[str]] = {}
    for label, kernel in report.priced_by.items():
        if label not in stand_ins:
            held = f" ({report.contracts[label]})" if label in report.contracts else ""
            known = f", {engine} runs {report.engine_runs[label]}" if label in report.engine_runs else ""
            alike.setdefault(f"priced by {kernel}{held}{known}", []).append(label)
    for said, labels in alike.items():
        yield f"{report.family} {_first_of(labels)}: {said}"


def _first_of(labels: Sequence[str]) -> str:
    return ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")


def _filling_line(family: str, label: Label, fit: LabelFit, prior: str) -> str:
    filling = fit.filling
    assert filling is not None
    source = "all its shapes" + (f" and {filling.trust:.0%} of the fit of {prior}" if filling.trust else "")
    alone = f"{relative_error(filling.alone):.2%} alone" if np.isfinite(filling.alone) else "too few points alone"
    if "point" not in filling.errors:
        return f"filled in {family} {label}: new shapes from {source}, mean error of a point {alone}"
    error = float(np.mean(np.abs(filling.errors["point"].error)))
    return f"filled in {family} {label}: from {source}, mean error {relative_error(error):.2%} ({alone})"


def overall(rows: Iterable[HeldOut]) -> list[HeldOut]:
    """Return the rows over all regimes, by family, label and question."""
    order = {question: index for index, question in enumerate(QUESTIONS)}
    chosen = [row for row in rows if row.regime == "all"]
    return sorted(chosen, key=lambda row: (row.family, row.label, order[row.question]))


def _line(row: HeldOut) -> str:
    cover = f"{row.coverage:6.1%}" if row.coverage == row.coverage else "     -"
    return (
        f"{row.family:<12} {row.label:<28} {row.question:<8} {row.points:>7} {relative_error(row.median):>7.2%} "
        f"{relative_error(row.p90):>7.2%} {relative_error(row.bias):>+7.2%} {cover}"
    )
