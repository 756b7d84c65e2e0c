"""The pages of `apex compare A B` and `apex compare FIT B`: ratios per family as tables and figures."""

from collections.abc import Sequence

import numpy as np

from costmodel.compare.page import NamedFigure, Section
from costmodel.compare.plots import histogram_figure, ratio_figure
from costmodel.compare.predictions import PricedRows, price_rows, seen_notes, worst_rows
from costmodel.compare.sides import FamilyMatch, Side, coverage_notes, ratio_rows, widest_rows
from costmodel.compare.verdict import priced_family_rows, verdict
from costmodel.cost_model import Source


def side_sections(a: Side, b: Side, matches: Sequence[FamilyMatch], *, widest: int) -> list[Section]:
    """Return one section per family that both sides measured."""
    sections = []
    for match in matches:
        if not len(match.ratio):
            continue
        dtypes = match.dtypes
        groups = {
            dtype: (match.latency_a_s[dtypes == dtype], match.ratio[dtypes == dtype])
            for dtype in np.unique(dtypes).tolist()
        }
        figure = ratio_figure(f"{match.family}: {b.label} / {a.label}", groups, a_label=a.label, b_label=b.label)
        caption = (
            f"Every {match.family} point both sides measured: above 1, {b.label} is slower. At most a thousandth of "
            "the points lie beyond the axis on either side."
        )
        sections.append(
            Section(
                title=match.family,
                remarks=coverage_notes(a, b, [match]),
                rows=ratio_rows([match]),
                figures=[NamedFigure(name=f"ratio_{match.family}", caption=caption, figure=figure)],
            )
        )
    sections.append(Section(title="Widest ratios", rows=widest_rows(matches, widest)))
    return sections


def price_sections(side: Side, found: Sequence[PricedRows], *, widest: int) -> list[Section]:
    """Return the verdict, one section per family that was priced, and the worst prices."""
    summary = priced_family_rows(found)
    said = [verdict(summary, f"The price of a row of {side.label}"), *(f"{note}." for note in seen_notes(found))]
    sections = [Section(title="Verdict", remarks=said, rows=summary)]
    for whole in found:
        priced = whole.judged()
        if not len(priced.seen):
            continue
        by_dtype = {
            dtype: (priced.measured_s[priced.dtype == dtype], np.exp(priced.log_error[priced.dtype == dtype]))
            for dtype in np.unique(priced.dtype).tolist()
        }
        by_source = {
            source.name.lower(): priced.log_error[priced.source == source]
            for source in Source
            if (priced.source == source).any()
        }
        title = f"{priced.family}: prediction / {side.label}"
        figures = [
            NamedFigure(
                name=f"predicted_{priced.family}",
                caption=f"Every {priced.family} point: above 1, the prediction is too slow. At most a thousandth of "
                "the points lie beyond the axis on either side.",
                figure=ratio_figure(title, by_dtype, a_label=side.label, b_label="prediction"),
            ),
            NamedFigure(
                name=f"source_{priced.family}",
                caption="The same errors by where the price comes from.",
                figure=histogram_figure(title, by_source, about="predicted / measured - 1", legend="price"),
            ),
        ]
        sections.append(Section(title=priced.family, rows=price_rows([priced]), figures=figures))
    sections.append(Section(title="Worst prices", rows=worst_rows(found, widest)))
    return sections
