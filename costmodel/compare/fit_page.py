"""The page of `apex compare FIT`: a fitted model over the points it was fitted from, family by family."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from cluster_specs.cluster import ClusterSpec
from costmodel.compare.curves_to_draw import curve_series, op_of, surface_shape_name
from costmodel.compare.held_out_plots import parity_figure
from costmodel.compare.held_out_points import (
    QUESTION_NAMES,
    ClockTransfer,
    clock_rows,
    clock_transfers,
    held_out_rows,
    individual_errors,
    overall,
)
from costmodel.compare.held_out_prices import HeldOutPoints
from costmodel.compare.page import NamedFigure, Section, figure_name
from costmodel.compare.plots import (
    bandwidth_figure,
    clocks_figure,
    curves_figure,
    heat_map_figure,
    histogram_figure,
)
from costmodel.compare.series import Band, Series
from costmodel.compare.verdict import family_rows, notes, verdict, worst_points
from costmodel.families.all import OP_FAMILIES
from costmodel.fit_file.contents import Artefact
from costmodel.fitted_costs import FittedCosts
from costmodel.ops.label import Label
from costmodel.ops.op_types import bus_factor
from costmodel.ops.roofline import roofline


def fit_sections(
    artefact: Artefact,
    cluster: ClusterSpec,
    points: Mapping[str, HeldOutPoints],
    *,
    worst: int = 3,
    is_whole: bool = True,
) -> Iterator[Section]:
    """Yield verdict, distribution of errors, a section per family of ``points``, transfer across clocks, tables.

    Where ``points`` are not all of their families (``is_whole``), sections that could only speak of all are left out.
    """
    head = artefact.provenance
    device = head.device
    rows = [row for row in held_out_rows(artefact) if row["family"] in points]
    summary = family_rows(artefact, points)
    remarks = [
        verdict(summary),
        f"Fitted {head.created_at} by apex {head.tool_version} on cluster {head.cluster}. Rows used by origin: "
        f"{_counted(head.origins)}. Frameworks: {_counted(head.frameworks)}.",
        *(f"{note}." for note in notes(points)),
    ]
    yield Section(title="Verdict", remarks=remarks, rows=summary)
    yield Section(title="Worst predictions of points left out", rows=worst_points(points, worst))
    if is_whole:
        yield Section(
            title="Distribution of held-out errors", figures=list(_histograms(artefact, cluster, list(points)))
        )
    for name, found in points.items():
        figures = [*_parity(found, device), *_family_figures(found, FittedCosts(artefact, cluster), device)]
        yield Section(title=f"{name}: predicted without each point, measured, fitted", figures=figures)
    if not is_whole:
        return
    transfers = [found for found in clock_transfers(artefact, cluster) if found.family in points]
    if transfers:
        yield Section(
            title="Across clocks: lower clocks priced from the highest alone",
            rows=clock_rows(transfers),
            figures=list(_clock_figures(artefact, transfers)),
        )
    else:
        yield Section(title="Across clocks", remarks=["No label was measured at two locked clocks."])
    remark = (
        "Of points the fit has not seen: median and 90th percentile of how far the prediction is off, mean of the "
        "signed error (bias), and how often such a point lies in its 90 % interval (coverage)."
    )
    yield Section(title="Held-out error by label and question", remarks=[remark], rows=overall(rows))
    yield Section(title="Held-out error by region", rows=[row for row in rows if row["region"] != "all"])


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _histograms(artefact: Artefact, cluster: ClusterSpec, families: Sequence[str]) -> Iterator[NamedFigure]:
    for family, errors in individual_errors(artefact, cluster, families).items():
        groups = {QUESTION_NAMES[question]: found.error for question, found in errors.items() if len(found.error)}
        if groups:
            title = f"{family} on {artefact.provenance.device}: held-out error"
            about = "predicted / measured - 1, for points held out of the fit"
            yield NamedFigure(
                name=f"error_{family}",
                caption=f"How far predictions of unseen {family} points are off, all labels together.",
                figure=histogram_figure(title, groups, about=about, legend="held out"),
            )


def _parity(found: HeldOutPoints, device: str) -> Iterator[NamedFigure]:
    known = found.take(found.is_known)
    if not len(known.row):
        return
    family = known.knots.family
    group = np.array([label.parts[0] for label in known.knots.label], dtype=np.str_)[known.shape]
    panels = {name: known.take(group == name) for name in np.unique(group).tolist()}
    yield NamedFigure(
        name=figure_name("parity", family),
        caption=f"Every {family} point that has measured neighbours, predicted from the others alone. Points above the "
        "line are predicted too slow.",
        figure=parity_figure(f"{family} on {device}: predicted without the point, over measured", panels),
    )


def _family_figures(found: HeldOutPoints, costs: FittedCosts, device: str) -> Iterator[NamedFigure]:
    for kind in OP_FAMILIES[found.knots.family].figures:
        yield from _FIGURES[kind](found, costs, device)


def _curves(found: HeldOutPoints, costs: FittedCosts, device: str) -> Iterator[NamedFigure]:
    knots = found.knots
    size_name = OP_FAMILIES[knots.family].size_name
    for label in knots.labels:
        shapes = found.shapes_of(label)
        if not shapes:
            continue
        at_clock = FittedCosts(costs.artefact, costs.cluster, label.clock_mhz)
        title = f"{knots.family} {_words(label)} on {device}"
        if np.any(knots.y != 1.0):
            title += f"\n{surface_shape_name(knots, shapes)}"
        series = curve_series(knots, label, at_clock, found.knot_price_s, shapes)
        yield NamedFigure(
            name=figure_name("curves", knots.family, label.text),
            caption="Shapes are spread evenly over the measured ones. A line meets its own points by construction; the "
            "hollow markers and the strip beneath show what the fit says of each point without it.",
            figure=curves_figure(title, series, x_label=size_name(label)),
        )


def _words(label: Label) -> str:
    return " ".join(label.parts) + ("" if label.clock_mhz is None else f" at {label.clock_mhz} MHz")


def _heat_maps(found: HeldOutPoints, costs: FittedCosts, device: str) -> Iterator[NamedFigure]:
    """One map per number format, of its unlocked points, or else of those at its highest locked clock."""
    knots, cluster = found.knots, costs.cluster
    shapes = np.unique(found.shape).tolist()
    clocks: dict[str, set[int | None]] = {}
    for label in {knots.label[shape] for shape in shapes}:
        clocks.setdefault(label.parts[0], set()).add(label.clock_mhz)
    for dtype, seen in sorted(clocks.items()):
        clock = None if None in seen else max(mhz for mhz in seen if mhz is not None)
        m, nk, utilisation = [], [], []
        for shape in shapes:
            label = knots.label[shape]
            if label.parts[0] != dtype or label.clock_mhz != clock:
                continue
            own = knots.rows(shape)
            measured = ~np.isnan(knots.latency_s[own])
            size, latency_s = knots.x[own][measured], knots.latency_s[own][measured]
            floor_s = roofline(op_of(knots, shape, size, np.ones_like(size), cluster), cluster, clock).floor_s
            m.append(size)
            nk.append(np.full(len(size), knots.shape[shape].prod()))
            utilisation.append(floor_s / latency_s)
        at_clock = "" if clock is None else f" at {clock} MHz"
        yield NamedFigure(
            name=figure_name("utilisation", dtype),
            caption="Utilisation is what the fit interpolates: small calls are bound by launches (dark), large ones by "
            "memory (left) or arithmetic (right).",
            figure=heat_map_figure(
                f"{knots.family} {dtype} on {device}{at_clock}: share of the roofline reached",
                np.concatenate(m),
                np.concatenate(nk),
                np.concatenate(utilisation),
            ),
        )


def _bandwidth_figures(found: HeldOutPoints, costs: FittedCosts, device: str) -> Iterator[NamedFigure]:
    knots, without_s = found.knots, found.knot_price_s
    for label in knots.labels:
        shapes = found.shapes_of(label)
        if not shapes:
            continue
        kind, level = label.parts
        link = next(link for link in costs.cluster.levels if link.name == level)
        algbw: list[Series] = []
        busbw: list[Series] = []
        for shape in shapes:
            own = knots.rows(shape)
            ranks = int(knots.shape[shape][0])
            size, latency_s = knots.x[own], knots.latency_s[own]
            axis = np.geomspace(size.min(), size.max(), 160)
            price = costs.predict(op_of(knots, shape, axis, np.ones_like(axis), costs.cluster))
            name = f"{ranks} ranks, {int(knots.shape[shape][1])} node(s)"
            for series, factor in ((algbw, 1.0), (busbw, bus_factor(kind, ranks))):
                band = Band(
                    x=axis,
                    y=axis / price.latency_s * factor,
                    low=axis / price.high_s * factor,
                    high=axis / price.low_s * factor,
                )
                held_out = size / without_s[own] * factor
                series.append(Series(label=name, x=size, y=size / latency_s * factor, band=band, held_out=held_out))
        yield NamedFigure(
            name=figure_name("bandwidth", label.text),
            caption="algbw = message / time; busbw = algbw x the bus factor of nccl-tests, which equals the link's "
            "bandwidth when a ring keeps every link busy. A switch that reduces in flight may exceed it.",
            figure=bandwidth_figure(
                f"{kind} over {level} on {device}",
                algbw,
                busbw,
                peak_bytes_per_s=link.bandwidth_bytes_per_s,
                peak_label=f"link peak, {link.bandwidth_bytes_per_s / 1e9:,.0f} GB/s",
            ),
        )


# By the names that families choose from (`OpFamily.figures`).
_FIGURES: Final[Mapping[str, Callable[[HeldOutPoints, FittedCosts, str], Iterator[NamedFigure]]]] = {
    "curves": _curves,
    "utilisation": _heat_maps,
    "bandwidth": _bandwidth_figures,
}


def _clock_figures(artefact: Artefact, transfers: Sequence[ClockTransfer]) -> Iterator[NamedFigure]:
    for transfer in transfers:
        yield NamedFigure(
            name=figure_name("clocks", transfer.family, transfer.label.text),
            caption="Measured latency at each locked clock over the latency at the highest one; lines are priced from "
            "the highest clock alone.",
            figure=clocks_figure(
                f"{transfer.family} {_words(transfer.label)} on {artefact.provenance.device}",
                _clock_series(transfer),
            ),
        )


def _clock_series(transfer: ClockTransfer) -> list[Series]:
    """Up to six points spread over the range of sensitivity to the clock."""
    points: dict[str, list[int]] = {}
    for index, name in enumerate(transfer.name):
        points.setdefault(name, []).append(index)
    most = max(map(len, points.values()))
    complete = [members for members in points.values() if len(members) == most]
    complete.sort(key=lambda members: transfer.measured_s[members[0]] / transfer.reference_s[members[0]])
    picked = np.unique(np.rint(np.linspace(0, len(complete) - 1, min(6, len(complete)))).astype(int))
    series = []
    for members in (complete[i] for i in picked):
        clock = np.append(transfer.clock_mhz[members], transfer.reference_mhz)
        measured = np.append(transfer.measured_s[members] / transfer.reference_s[members], 1.0)
        predicted = np.append(transfer.predicted_s[members] / transfer.reference_s[members], 1.0)
        band = Band(x=clock, y=predicted, low=predicted, high=predicted)
        series.append(Series(label=transfer.name[members[0]], x=clock, y=measured, band=band))
    return series
