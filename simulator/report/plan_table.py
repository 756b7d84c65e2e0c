"""One simulated plan as text: latencies by statistic, then where the time went, limits, memory and its command."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from simulator.report.formats import counted, duration, form_of, saturation_line, spread, start_lines
from simulator.report.text_table import text_table
from simulator.results.metric_spellings import STATISTICS

if TYPE_CHECKING:
    from simulator.pools.layouts import Outcome
    from simulator.results.interval import Interval

_LEAST_FRAC: Final = 5e-4  # shares that would read 0.0 % are counted instead


def plan_table(result: "Outcome") -> str:
    """Describe one plan, every value under the name it has in the JSON."""
    intervals = result.interval or {}
    facts = result.to_json()
    latencies: list[tuple[str, ...]] = []
    plain: dict[str, Any] = {}
    sections: dict[str, Any] = {"": plain}
    for name, value in facts["metrics"].items():
        if isinstance(value, dict) and set(STATISTICS) <= set(value):
            cells = [duration(value[statistic]) for statistic in STATISTICS]
            latencies.append((name, *cells, spread(intervals.get(f"{name}.mean"), duration)))
        elif isinstance(value, dict):
            sections[name] = value
        else:
            plain[name] = value
    sections |= {"limits": facts["limits"], "memory": facts["memory"]}
    sections["runs on"] = {engine: reason or "yes" for engine, reason in result.engines.items()}
    table = text_table(["", *STATISTICS, "90 % of the mean"], latencies, left={""})
    lines = [f"plan {result.plan} on {counted(result.plan.num_devices, 'device')}", "", table]
    if result.saturation is not None:
        lines.append(saturation_line(result.saturation))
    if "approximate" in facts:
        lines.append(f"streamed: p50 to p99 are within {100 * facts['approximate']['relative_error_frac']:g} %")
    for name, values in sections.items():
        lines += _section(name, values, intervals)
    lines += ["", *start_lines(result.launch)]
    return "\n".join(lines)


def _section(name: str, values: Mapping[str, Any], intervals: Mapping[str, "Interval"]) -> Iterator[str]:
    """Title and one line per value; nothing for a section without values."""
    flat = dict(_flat("", values))
    small = [key for key, value in flat.items() if key.endswith("_frac") and value is not None and value < _LEAST_FRAC]
    shown = {key: value for key, value in flat.items() if key not in small}
    if not flat:
        return
    yield ""
    if name:
        yield name
    indent = "  " if name else ""
    width = max((len(key) for key in shown), default=0)
    for key, value in shown.items():
        line = f"{indent}{key:<{width}}  {_plain(key, value)}"
        yield f"{line}  ({spread(intervals[key], form_of(key))})" if key in intervals and not name else line
    if small:
        yield f"{indent}below 0.05 %: {', '.join(key.removesuffix('_frac') for key in small)}"


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Name every value inside nested dictionaries by its path."""
    if not isinstance(value, dict):
        yield path, value
        return
    for key, inner in value.items():
        yield from _flat(f"{path}.{key}" if path else key, inner)


def _plain(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return form_of(name)(value)
