"""Measured runs beside their predictions as one self-contained page: verdict, parity, distributions, every run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from simulator.report.formats import form_of
from simulator.report.validation_servers import server_rows, short
from simulator.validation.predict import ValidatedRun
from simulator.validation.predict_all import Validation, server_of
from simulator.validation.summary import agreement, verdict

_METRICS: Final = ("ttft_s.mean", "tpot_s.mean", "itl_s.mean", "e2e_s.mean", "throughput_tokens_per_s")
_MOST_REASONS: Final = 40


def check_report(folder: Path) -> None:
    """Find out before the work is done that nothing can be drawn or written; raises ``UserError``."""
    from cluster_specs.extras import require_extra
    from cluster_specs.files.whole import check_folder

    require_extra("report", "matplotlib", what="--report")
    missing = (path for path in (*reversed(folder.parents), folder) if not path.exists())
    check_folder(next(missing, folder / "index.html"))


def write_report(folder: Path, found: Validation) -> list[Path]:
    """Write ``index.html`` and its figures as PNG into ``folder``; return the files. Raises ``OutputError``."""
    from costmodel.compare.page import NamedFigure, Section, write_page
    from simulator.report.validation_figures import distribution_figure, load_figure, parity_figure

    runs = found.runs
    paths = [path for path in _METRICS if agreement(runs, path) is not None]
    sections = [
        Section(title="Verdict", remarks=[verdict(runs, len(found.unusable)), *_differences(found)]),
        Section(title="Servers", rows=server_rows(runs)),
        Section(
            title="All runs together",
            remarks=["Ranks: correlation of the order of the runs, predicted and measured; 1 is the same order."],
            rows=[_agreement_row(runs, path) for path in paths],
        ),
    ]
    figures = []
    for path in paths:
        figures.append(
            NamedFigure(
                name=f"parity_{path.partition('.')[0]}",
                caption="On the line a prediction is right; the bands are 10 and 20 %, bars the 90 % interval.",
                figure=parity_figure(runs, path),
            )
        )
        figures.append(
            NamedFigure(
                name=f"load_{path.partition('.')[0]}",
                caption="An error that grows with the load points to the queue or to large batches. Triangles: "
                "errors beyond the axis.",
                figure=load_figure(runs, path),
            )
        )
    if figures:
        sections.append(Section(title="Parity", figures=figures))
    if found.distributions:
        named = [(runs[place].run.name, apart) for place, apart in found.distributions.items()]
        figure = NamedFigure(
            name="distributions",
            caption="Share of requests within a latency, measured and predicted.",
            figure=distribution_figure(named),
        )
        rows = [row for name, apart in named for one in apart for row in _distances(name, one)]
        sections.append(Section(title="Distributions", rows=rows, figures=[figure]))
    if runs:
        sections.append(Section(title=f"Runs ({len(runs)})", rows=[_run_row(run, paths) for run in runs]))
    if found.unusable:
        rows = [{"run": run.name, "place": run.place, "reason": run.reason} for run in found.unusable[:_MOST_REASONS]]
        sections.append(Section(title=f"Not predicted ({len(found.unusable)})", remarks=_reasons(found), rows=rows))
    notes = list(dict.fromkeys(note for run in runs for note in (*run.run.notes, *run.notes)))
    sections.append(Section(title="Notes", remarks=notes))
    return write_page(folder, "Measured runs beside their predictions", sections)


def _differences(found: Validation) -> list[str]:
    return [sentence for difference in found.differences for sentence in difference.sentences()]


def _agreement_row(runs: Sequence[ValidatedRun], path: str) -> dict[str, str]:
    one = agreement(runs, path)
    assert one is not None
    return {
        "metric": short(path),
        "runs": str(one.runs),
        "mean error": f"{one.mape_frac:.1%}",
        "median": f"{one.median_frac:.1%}",
        "bias": f"{one.bias_frac:+.1%}",
        "worst": f"{one.worst_frac:+.1%}",
        "worst run": one.worst_run,
        "in interval": "-" if one.coverage_frac is None else f"{one.coverage_frac:.0%}",
        "ranks (Spearman)": "-" if one.rank_correlation is None else f"{one.rank_correlation:.3f}",
        "ranks (Kendall)": "-" if one.kendall is None else f"{one.kendall:.3f}",
    }


def _distances(name: str, one: Any) -> list[dict[str, str]]:
    form = form_of(f"{one.metric}.mean")
    row = {"run": name, "latency": one.title}
    for share, measured, predicted in one.quantiles():
        row[f"{share:.0%}"] = f"{form(measured)} / {form(predicted)}"
    row["KS distance"], row["by chance"] = f"{one.ks_distance:.2f}", f"{one.ks_by_chance:.2f}"
    return [row]


def _run_row(run: ValidatedRun, paths: Sequence[str]) -> dict[str, str]:
    deployment = run.run.deployment
    row = {"run": run.run.name, "server": server_of(run.run), "plan": deployment.plan}
    for path in paths:
        form, error, inside = form_of(path), run.error_frac(path), run.is_covered(path)
        row[short(path)] = f"{form(run.run.measured.get(path))} / {form(run.predicted.get(path))}"
        mark = "" if inside is not False else " outside"
        row[f"{short(path)} error"] = "-" if error is None else f"{error:+.1%}{mark}"
    return row


def _reasons(found: Validation) -> list[str]:
    counts: dict[str, int] = {}
    for run in found.unusable:
        counts[run.reason] = counts.get(run.reason, 0) + 1
    listed = sorted(counts.items(), key=lambda item: -item[1])
    more = len(found.unusable) - _MOST_REASONS
    cut = [f"The first {_MOST_REASONS} of {len(found.unusable)} are listed."] if more > 0 else []
    return [*(f"{count}: {reason}" for reason, count in listed[:_MOST_REASONS]), *cut]
