"""Two fits over each other: what B says of the calls that A was measured at, as ratios and as curves.

Own kernels against imported ones, cold operands against hot, one device against another: whatever they were made of.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from costmodel.compare.curves_to_draw import curve_series, op_of, surface_shape_name
from costmodel.compare.held_out_prices import HeldOutPoints
from costmodel.compare.page import NamedFigure, Section, figure_name
from costmodel.compare.plots import overlay_figure
from costmodel.compare.verdict import SMALL_ERROR
from costmodel.families.all import OP_FAMILIES
from costmodel.fit_file.contents import Artefact
from costmodel.fitted_costs import FittedCosts
from costmodel.ops.arrays import Array
from costmodel.ops.label import Label


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """Points that fit A measured and fit B has a label for, and B's price over what A measured [points]."""

    points: HeldOutPoints
    ratio: Array


def overlays(
    points: Mapping[str, HeldOutPoints], b: Artefact, cluster_b: ClusterSpec, cluster_a: ClusterSpec
) -> list[Overlay]:
    """Price what A measured with B, label by label; raises ``UserError`` where the fits share no label."""
    found = []
    for family, measured in points.items():
        if family not in b.families:
            continue
        shared = _shared(measured, b, cluster_b)
        own = measured.take(np.isin(measured.label_text, [label.text for label in shared]))
        if not len(own.row):
            continue
        knots, price_s = own.knots, np.empty(len(own.row))
        costs = {clock: FittedCosts(b, cluster_b, clock) for clock in {label.clock_mhz for label in shared}}
        for shape in np.unique(own.shape).tolist():
            rows = own.shape == shape
            op = op_of(knots, shape, knots.x[own.row[rows]], knots.y[own.row[rows]], cluster_a)
            price_s[rows] = costs[knots.label[shape].clock_mhz].predict(op).latency_s
        found.append(Overlay(points=own, ratio=price_s / own.measured_s))
    if not found:
        raise UserError("the two fits share no label", hint="`apex compare FIT` lists the labels of a fit")
    return found


def _shared(points: HeldOutPoints, b: Artefact, cluster_b: ClusterSpec) -> list[Label]:
    """Labels both fits know; of collectives, those over a level that B's cluster has."""
    family = points.knots.family
    level = OP_FAMILIES[family].level
    levels = {link.name for link in cluster_b.levels}
    both = [label for label in points.knots.labels if label in b.families[family].labels]
    return [label for label in both if level is None or level(label) in levels]


def overlay_rows(found: Sequence[Overlay]) -> list[dict[str, Any]]:
    """Return B over A as a row per family and label, and one per family of several labels."""
    rows = []
    for overlay in found:
        label = overlay.points.label_text
        names = np.unique(label).tolist()
        groups = [("all", np.ones(len(label), dtype=bool))] if len(names) > 1 else []
        groups += [(name, label == name) for name in names]
        rows += [_row(overlay.points.knots.family, name, overlay.ratio[own]) for name, own in groups]
    return rows


def _row(family: str, label: str, ratio: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "family": family,
        "label": label,
        "points": len(ratio),
        **{f"ratio_p{100 * share:.0f}": float(np.quantile(ratio, share)) for share in (0.1, 0.5, 0.9)},
        "within_10_percent_frac": float(np.mean(np.abs(ratio - 1.0) <= SMALL_ERROR)),
    }


def overlay_verdict(rows: Sequence[Mapping[str, Any]], a: str, b: str) -> str:
    """Say how far B lies from A, and where they agree least."""
    labels = [row for row in rows if row["label"] != "all"]
    count = sum(row["points"] for row in labels)
    close = sum(row["points"] * row["within_10_percent_frac"] for row in labels) / count
    least = min(labels, key=lambda row: float(row["within_10_percent_frac"]))
    return (
        f"{close:.1%} of the prices of {b} lie within 10 % of what {a} measured ({count:,} points). They agree least "
        f"in {least['family']} {least['label']}: {least['within_10_percent_frac']:.1%}, and {least['ratio_p10']:.2f} "
        f"to {least['ratio_p90']:.2f} times in eight of ten points."
    )


def overlay_sections(
    found: Sequence[Overlay], a: Artefact, b: Artefact, clusters: tuple[ClusterSpec, ClusterSpec], said: str
) -> Iterator[Section]:
    """Yield the verdict, and a section of curves per family."""
    yield Section(title="Verdict", remarks=[said], rows=overlay_rows(found))
    for overlay in found:
        family = overlay.points.knots.family
        figures = list(_figures(overlay, a, b, clusters))
        yield Section(title=family, rows=overlay_rows([overlay]), figures=figures)


def _figures(
    overlay: Overlay, a: Artefact, b: Artefact, clusters: tuple[ClusterSpec, ClusterSpec]
) -> Iterator[NamedFigure]:
    knots = overlay.points.knots
    family = OP_FAMILIES[knots.family]
    texts = set(overlay.points.label_text.tolist())
    for label in knots.labels:
        if label.text not in texts:
            continue
        shapes = overlay.points.shapes_of(label)
        curves = [
            curve_series(knots, label, FittedCosts(fit, cluster, label.clock_mhz), overlay.points.knot_price_s, shapes)
            for fit, cluster in zip((a, b), clusters, strict=True)
        ]
        title = f"{knots.family} {' '.join(label.parts)}"
        if np.any(knots.y != 1.0):
            title += f"\n{surface_shape_name(knots, shapes)}"
        yield NamedFigure(
            name=figure_name("overlay", knots.family, label.text),
            caption="Points and full lines: the first fit and what it was measured at. Dashed: the second fit. The "
            "strip shows the second over the first.",
            figure=overlay_figure(title, list(zip(*curves, strict=True)), x_label=family.size_name(label)),
        )
