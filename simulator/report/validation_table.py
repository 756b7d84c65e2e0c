"""Measured runs beside their predictions, as text and as plain values."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from simulator.report.formats import TITLES, form_of, spread
from simulator.report.text_table import text_table
from simulator.report.validation_servers import servers_text
from simulator.validation.distributions import LatencyDistribution
from simulator.validation.measured_run import UnusableRun
from simulator.validation.predict import ValidatedRun
from simulator.validation.predict_all import Validation, server_of
from simulator.validation.summary import agreements, verdict

# Rows of a run's table; what was not measured has none.
_LATENCIES: Final = ("ttft_s", "tpot_s", "itl_s", "e2e_s")
_MOST_ONE_BY_ONE: Final = 24  # runs that have a table each
_STATISTICS: Final = ("mean", "p50", "p90", "p99")
_RATES: Final = ("throughput_tokens_per_s", "throughput_requests_per_s", "duration_s")
_SUMMARISED: Final = (*(f"{name}.mean" for name in _LATENCIES), "throughput_tokens_per_s")


def validation_text(found: Validation) -> str:
    """Describe every run, all runs together, those that could not be predicted, and end with the verdict.

    Of many runs, each server has a line instead.
    """
    runs, unusable = found.runs, found.unusable
    parts = []
    if len(runs) <= _MOST_ONE_BY_ONE:
        parts = [_run_text(run, found.distributions.get(place, ())) for place, run in enumerate(runs)]
    if len(runs) > _MOST_ONE_BY_ONE or len({server_of(run.run) for run in runs}) > 1:
        parts.append(servers_text(runs))
    if len(runs) > 1:
        parts.append(_summary_text(runs))
    if unusable:
        parts.append(_unusable_text(unusable, len(runs) + len(unusable)))
    parts += ["\n".join(difference.sentences()) for difference in found.differences]
    parts.append(verdict(runs, len(unusable)))
    return "\n\n".join(parts)


def validation_json(found: Validation) -> dict[str, Any]:
    """Return the same as plain values; docs/reference/outputs.md documents every key."""
    return {
        "runs": [_run_json(run, found.distributions.get(place, ())) for place, run in enumerate(found.runs)],
        "unusable": [asdict(run) for run in found.unusable],
        "summary": {path: asdict(one) for path, one in agreements(found.runs).items()},
        "differences": [difference.to_json() for difference in found.differences],
        "verdict": verdict(found.runs, len(found.unusable)),
    }


def _run_text(run: ValidatedRun, apart: Sequence[LatencyDistribution]) -> str:
    rows: list[tuple[str, ...]] = []
    for path in (*(f"{name}.{statistic}" for name in _LATENCIES for statistic in _STATISTICS), *_RATES):
        if path not in run.run.measured:
            continue
        form, error = form_of(path), run.error_frac(path)
        inside = run.is_covered(path)
        rows.append(
            (
                TITLES.get(path, path),
                form(run.run.measured[path]),
                form(run.predicted.get(path)),
                spread(run.interval.get(path), form),
                "-" if error is None else f"{100 * error:+.1f} %" + ("" if inside is not False else " outside"),
            )
        )
    deployment, client = run.run.deployment, run.run.workload
    failed = f", {run.run.failed} failed" if run.run.failed else ""
    head = (
        f"{run.run.name}: {deployment.model} as {deployment.plan} on {deployment.cluster}, {deployment.engine}; "
        f"{len(client):,} requests{failed} ({run.run.tool})"
    )
    lines = [
        f"{one.title}: the distributions lie {one.ks_distance:.2f} apart "
        f"(Kolmogorov-Smirnov; chance alone up to {one.ks_by_chance:.2f})"
        for one in apart
    ]
    table = text_table(("", "measured", "predicted", "90 % interval", "error"), rows, left={""})
    return "\n".join([head, "", table, *lines])


def _summary_text(runs: Sequence[ValidatedRun]) -> str:
    heads = ("all runs", "runs", "mean error", "median", "bias", "worst", "", "in interval", "rank correlation")
    rows: list[tuple[str, ...]] = []
    found = agreements(runs)
    for path in _SUMMARISED:
        if path not in found:
            continue
        one = found[path]
        rows.append(
            (
                TITLES.get(path, path),
                str(one.runs),
                f"{one.mape_frac:.1%}",
                f"{one.median_frac:.1%}",
                f"{one.bias_frac:+.1%}",
                f"{one.worst_frac:+.1%}",
                one.worst_run,
                "-" if one.coverage_frac is None else f"{one.coverage_frac:.0%}",
                "-" if one.rank_correlation is None else f"{one.rank_correlation:.2f}",
            )
        )
    return text_table(heads, rows, left={"all runs", ""})


def _unusable_text(unusable: Sequence[UnusableRun], total: int) -> str:
    by_reason: dict[str, list[str]] = {}
    for run in unusable:
        by_reason.setdefault(run.reason, []).append(run.name)
    lines = [f"not predicted: {len(unusable)} of {total} runs"]
    lines += [f"  {len(names)}: {reason} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
              for reason, names in by_reason.items()]  # fmt: skip
    return "\n".join(lines)


def _run_json(run: ValidatedRun, apart: Sequence[LatencyDistribution]) -> dict[str, Any]:
    measured, deployment = run.run, run.run.deployment
    return {
        "name": measured.name,
        "place": measured.place,
        "tool": measured.tool,
        "model": deployment.model,
        "cluster": deployment.cluster,
        "plan": deployment.plan,
        "engine": deployment.engine,
        "settings": deployment.stated(),
        "requests": len(measured.workload),
        "failed": measured.failed,
        "server": {name: value for name, value in asdict(measured.server).items() if value is not None},
        "metrics": {path: _metric_json(run, path) for path in measured.measured},
        "distributions": {one.metric: one.to_json() for one in apart},
        "notes": [*measured.notes, *run.notes],
    }


def _metric_json(run: ValidatedRun, path: str) -> dict[str, Any]:
    interval = run.interval.get(path)
    return {
        "measured": run.run.measured[path],
        "predicted": run.predicted.get(path),
        "interval": None if interval is None else list(interval),
        "error_frac": run.error_frac(path),
        "covered": run.is_covered(path),
    }
