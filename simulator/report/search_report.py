"""The answer of a search as one self-contained page: what the terminal says, every plan, and figures."""

from pathlib import Path
from typing import TYPE_CHECKING

from simulator.report.search_answer import CHANGING, answer_lines, changing_ranking, headline, ranking, refusal_lines

if TYPE_CHECKING:
    from simulator.search.search import SearchResult
    from simulator.serving import Serving
    from simulator.workload.parts import Traffic


def check_report(folder: Path) -> None:
    """Find out before the work is done that nothing can be drawn or written; raises ``UserError``."""
    from cluster_specs.extras import require_extra
    from cluster_specs.files.whole import check_folder

    require_extra("report", "matplotlib", what="--report")
    missing = (path for path in (*reversed(folder.parents), folder) if not path.exists())
    check_folder(next(missing, folder / "index.html"))


def write_report(
    folder: Path, found: "SearchResult", serving: "Serving", workload: "Traffic", *, top: int
) -> list[Path]:
    """Write ``index.html`` and its figures as PNG into ``folder``; return the files. Raises ``OutputError``."""
    from costmodel.compare.page import NamedFigure, Section, write_page
    from simulator.report.search_figures import device_figure, request_figure, trade_off_figure

    shown = found.simulated
    sections = [Section(title="Answer", remarks=answer_lines(found))]
    if shown:
        trade_off = trade_off_figure(
            {
                "keeps every limit": found.ranked,
                "changes the model's answers": found.changing,
                "breaks a limit": [result for result, _ in found.breaking],
            },
            x="e2e_s.mean",
            y="energy_j_per_output_token",
            labels=("E2E mean", "energy [J per output token]"),
        )
        figures = (
            NamedFigure(name="trade_off", caption="A plan below and left of another beats it.", figure=trade_off),
            NamedFigure(
                name="request",
                caption="The parts add up to the mean latency; whiskers are its 90 % interval.",
                figure=request_figure(shown[:top]),
            ),
            NamedFigure(
                name="devices",
                caption="Shares of the devices' time; idle devices wait for requests.",
                figure=device_figure(shown[:top]),
            ),
        )
        sections.append(Section(title="Figures", figures=figures))
        ranked = ranking(found, top=len(shown))
        sections.append(Section(title=f"Plans ({len(ranked)})", rows=_unbroken(ranked)))
        if found.changing:
            apart = changing_ranking(found, top=len(shown))
            sections.append(Section(title=f"Plans {CHANGING}", rows=_unbroken(apart)))
    if found.refused:
        title = f"Refused ({len(found.refused)})"
        sections.append(Section(title=title, remarks=list(refusal_lines(found.refused))))
    sections.append(Section(title="Prices", remarks=serving.price_notes()))
    return write_page(folder, headline(found, serving, workload), sections)


def _unbroken(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Keep each value on the line of its unit."""
    return [{name: value.replace(" ", "\N{NO-BREAK SPACE}") for name, value in row.items()} for row in rows]
