"""Plans at several rates of arrivals as text: a table for each, and the rate that it keeps up with."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from simulator.report.formats import form_of, number, spread, title
from simulator.report.text_table import text_table
from simulator.results.objective import read_metric
from simulator.search.sweep import RatePoint, knee

if TYPE_CHECKING:
    from simulator.results.objective import Slo
    from simulator.serving import Refusal

_METRICS: Final = ("ttft_s.mean", "ttft_s.p99", "tpot_s.mean", "e2e_s.mean", "throughput_tokens_per_s")
_AIM: Final = "ttft_s.mean"


def rate_table(swept: Mapping[str, Sequence[RatePoint]], refused: Iterable["Refusal"], slo: "Slo") -> str:
    """Lay out each plan's rates, say its knee, and why others cannot start."""
    paths = dict.fromkeys([*_METRICS, *(limit.path for limit in slo.per_plan)])
    heads = ["requests/s", *map(title, paths), f"{title(_AIM)}, 90 %", "load"]
    blocks = []
    for name, points in swept.items():
        rows = [_row(point, list(paths)) for point in points]
        blocks.append(f"plan {name}\n{text_table(heads, rows, left={'load'})}\n{_knee_line(points)}")
    blocks += [f"plan {refusal.plan} cannot start: {refusal.reason}" for refusal in refused]
    return "\n\n".join(blocks)


def _row(point: RatePoint, paths: Sequence[str]) -> list[str]:
    rate = number(point.rate_per_s)
    if point.outcome is None:
        return [rate, *("-" for _ in paths), "-", "falls behind without end"]
    values = [form_of(path)(read_metric(point.outcome.metrics, path)) for path in paths]
    verdict = point.outcome.saturation.verdict if point.outcome.saturation else "keeps up"
    said = [verdict, *(f"breaks {limit}" for limit in point.broken), *(["trace too short"] if point.is_short else [])]
    ends = (point.outcome.interval or {}).get(_AIM)
    return [rate, *values, spread(ends, form_of(_AIM)) if ends else "-", ", ".join(said)]


def _knee_line(points: Sequence[RatePoint]) -> str:
    last = knee(points)
    if last is None:
        return f"knee: below {number(points[0].rate_per_s)} requests/s"
    beyond = [point.rate_per_s for point in points if point.rate_per_s > last.rate_per_s]
    reach = f"not with {number(beyond[0])}" if beyond else "the highest rate tried"
    return f"knee: keeps up with {number(last.rate_per_s)} requests/s, {reach}"
