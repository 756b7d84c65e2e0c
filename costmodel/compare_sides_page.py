"""The page of `apex compare A B`: ratios per family as tables and as one figure each."""

from collections.abc import Sequence

import numpy as np

from costmodel.compare import FamilyMatch, Side, coverage_notes, ratio_rows, widest_rows
from costmodel.compare_page import NamedFigure, Section
from costmodel.compare_plots import ratio_figure


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
