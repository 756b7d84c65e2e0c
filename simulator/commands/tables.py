"""Simulated plans as tables for a terminal; the only place where seconds become milliseconds."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from simulator.objective import STATISTICS, read_metric

if TYPE_CHECKING:
    from simulator.disaggregation import PoolsResult
    from simulator.search import SearchResult
    from simulator.serving import Serving
    from simulator.simulate import Result
    from simulator.workload.workload import Workload

_WIDTH: Final = 140


def duration(seconds: float | None) -> str:
    """Format a time with three significant digits and the unit that suits it."""
    if seconds is None:
        return "-"
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (float("inf"), 1.0, "s")):
        if abs(seconds) < limit:
            return f"{seconds * factor:.3g} {unit}" if seconds * factor < 1000 else f"{seconds * factor:,.0f} {unit}"
    return f"{seconds} s"


def number(value: float | None) -> str:
    """Format a count or rate."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def share(value: float | None) -> str:
    """Format a fraction as a percentage."""
    return "-" if value is None else f"{100 * value:.1f} %"


def spread(interval: tuple[float, float] | None, form: Callable[[float | None], str]) -> str:
    """Format an interval's two ends."""
    return "-" if interval is None else f"{form(interval[0])} to {form(interval[1])}"


_COLUMNS: Final[tuple[tuple[str, str, Callable[[float | None], str]], ...]] = (
    ("E2E mean", "e2e_s.mean", duration),
    ("E2E p99", "e2e_s.p99", duration),
    ("TTFT mean", "ttft_s.mean", duration),
    ("TTFT p99", "ttft_s.p99", duration),
    ("TPOT mean", "tpot_s.mean", duration),
    ("tokens/s", "throughput_tokens_per_s", number),
    ("MFU", "mfu_frac", share),
    ("J/token", "energy_j_per_output_token", number),
)


def search_table(found: "SearchResult", serving: "Serving", workload: "Workload", *, top: int) -> str:
    """Rank the plans, best first, then name what was refused and why."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("plan", no_wrap=True)
    for title, _, _ in _COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    aim = found.objective.path
    shown = [(result, "") for result in found.ranked]
    shown += [(result, ", ".join(map(str, limits))) for result, limits in found.breaking]
    has_intervals = any(result.interval is not None for result, _ in shown)
    if has_intervals:
        table.add_column("90 % interval", justify="right", no_wrap=True)
    if found.breaking:
        table.add_column("breaks")
    for result, breaks in shown[:top]:
        cells = [form(read_metric(result.metrics, path)) for _, path, form in _COLUMNS]
        if has_intervals:
            cells.append(spread((result.interval or {}).get(aim), _form_of(aim)))
        table.add_row(str(result.plan), *cells, *([breaks] if found.breaking else []))
    lines = [
        f"{serving.model.name} on {serving.cluster.name}, {len(workload):,} requests of {workload.name}, "
        f"{serving.profile.name}, by {aim}",
        "",
        _render(table) if shown else "no plan can start",
    ]
    if len(shown) > top:
        lines.append(f"... and {len(shown) - top} more (--top, --json)")
    if found.refused:
        lines += ["", f"refused ({len(found.refused)}):"]
        lines += [f"  {refusal.plan}: {refusal.reason}" for refusal in found.refused[:top]]
        if len(found.refused) > top:
            lines.append(f"  ... and {len(found.refused) - top} more (--top, --json)")
    if found.ranked:
        best = found.ranked[0]
        runs = [name for name, reason in best.engines.items() if reason is None]
        lines += [
            "",
            f"best plan: {best.plan} ({best.plan.num_devices} devices; runs on {', '.join(runs) or 'no engine'})",
        ]
    return "\n".join(lines)


def plan_table(result: "Result | PoolsResult") -> str:
    """Describe one plan: latencies by statistic, then everything else."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for statistic in STATISTICS:
        table.add_column(statistic, justify="right")
    table.add_column("90 % interval of the mean", justify="right")
    intervals = result.interval or {}
    plain: list[tuple[str, Any]] = []
    for name, value in result.metrics.items():
        if isinstance(value, dict) and set(STATISTICS) <= set(value):
            cells = [duration(value[statistic]) for statistic in STATISTICS]
            table.add_row(name, *cells, spread(intervals.get(f"{name}.mean"), duration))
        elif isinstance(value, dict):
            plain += [(f"{name}.{key}", inner) for key, inner in value.items()]
        else:
            plain.append((name, value))
    facts = result.to_json()
    plain += _flat("limits", facts["limits"])
    plain += _flat("memory", facts["memory"])
    plain += [(f"runs on {engine}", reason or "yes") for engine, reason in result.engines.items()]
    width = max(len(name) for name, _ in plain)
    lines = [f"plan {result.plan} on {result.plan.num_devices} devices", "", _render(table), ""]
    for name, value in plain:
        line = f"{name:<{width}}  {_plain(name, value)}"
        lines.append(f"{line}  ({spread(intervals[name], _form_of(name))})" if name in intervals else line)
    return "\n".join(lines)


def _flat(name: str, value: Any) -> list[tuple[str, Any]]:
    """Name every value inside nested dictionaries by its path."""
    if not isinstance(value, dict):
        return [(name, value)]
    return [pair for key, inner in value.items() for pair in _flat(f"{name}.{key}", inner)]


def _plain(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return _form_of(name)(value)


def _form_of(name: str) -> Callable[[float | None], str]:
    """Return the format for a metric, by the unit its name (up to a statistic) ends in."""
    plain = name.rpartition(".")[0] if name.rpartition(".")[2] in STATISTICS else name
    if plain.endswith("_frac"):
        return share
    if plain.endswith("_bytes"):
        return _gib
    if plain.endswith("_s") and not plain.endswith("_per_s"):
        return duration
    return number


def _gib(value: float | None) -> str:
    return "-" if value is None else f"{value / 2**30:.2f} GiB"


def _render(table: Table) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=_WIDTH, no_color=True).print(table)
    return buffer.getvalue().rstrip("\n")
