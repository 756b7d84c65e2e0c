"""The answer of a search as text: plans best first, what the others lose, what was refused, how to start the best."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from rich.table import Table

from simulator.commands.formats import columns, counted, duration, form_of, rendered, spread, title
from simulator.metrics import RequestSlo
from simulator.objective import SUSTAINABLE_RATE, Metrics, read_metric

if TYPE_CHECKING:
    from simulator.layouts import Outcome
    from simulator.objective import Limit
    from simulator.search import SearchResult
    from simulator.serving import Refusal, Serving
    from simulator.workload.workload import Workload

Column = Callable[["Outcome", tuple["Limit", ...]], str]

# After the objective and the limits, most telling first: a narrow terminal shows as many as fit.
_METRICS: Final = (
    "e2e_s.mean",
    "ttft_s.p99",
    "tpot_s.mean",
    "throughput_tokens_per_s",
    "energy_j_per_output_token",
    "ttft_s.mean",
    "e2e_s.p99",
    "mfu_frac",
)
_NAMED_REFUSALS: Final = 4
_LEAST_SPAN: Final = 20  # mean requests a trace should last at the rate it is to tell
_NUMBER: Final = re.compile(r"(?<![\w.-])(\d+(?:\.\d+)?)(?![\w-])")


def search_table(found: "SearchResult", serving: "Serving", workload: "Workload", *, top: int) -> str:
    """Rank the plans, best first, name what was refused and why, and end with the best one's command."""
    shown: list[tuple[Outcome, tuple[Limit, ...]]] = [(result, ()) for result in found.ranked] + list(found.breaking)
    lines = [
        f"{serving.model.name} on {serving.cluster.name}, {counted(len(workload), 'request')} of {workload.name}, "
        f"{serving.profile.name}, by {found.objective.path}",
        "",
        *(_ranking(found, shown, top) if shown else ["no plan can start"]),
    ]
    if len(shown) > top:
        lines.append(f"... and {len(shown) - top} more (--top, --json)")
    if found.refused:
        reasons = list(_reasons(found.refused))
        lines += ["", f"refused ({len(found.refused)}):", *(f"  {reason}" for reason in reasons[:top])]
        if len(reasons) > top:
            lines.append(f"  ... and {len(reasons) - top} more reasons (--top, --json)")
    if found.ranked:
        lines += ["", *_best(found)]
    elif shown:
        lines += ["", "no plan keeps every limit"]
    return "\n".join(lines)


def _ranking(found: "SearchResult", shown: list[tuple["Outcome", tuple["Limit", ...]]], top: int) -> list[str]:
    """Table of the first plans, with as many columns as the terminal holds."""
    heads = _columns(found, shown[0][0])
    cells = [[str(result.plan), *(form(result, limits) for form in heads.values())] for result, limits in shown[:top]]
    titles = ["plan", *heads]
    widths = [max(len(row[i]) for row in [titles, *cells]) for i in range(len(titles))]
    fitting = max(2, sum(sum(widths[: i + 1]) + 2 * i <= columns() for i in range(len(widths))))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in titles[:fitting]:
        table.add_column(name, justify="left" if name in {"plan", "loses in", "breaks"} else "right", no_wrap=True)
    for row in cells:
        table.add_row(*row[:fitting])
    left_out = titles[fitting:]
    return [rendered(table), *([f"left out for width: {', '.join(left_out)}"] if left_out else [])]


def _columns(found: "SearchResult", best: "Outcome") -> dict[str, Column]:
    """Columns behind the plan's name, most telling first."""
    aim = found.objective.path
    heads: dict[str, Column] = {title(aim): _metric(aim)}
    if aim in (best.interval or {}):
        heads["90 % interval"] = lambda result, _: spread((result.interval or {}).get(aim), form_of(aim))
    heads["vs best"] = lambda result, _: _difference(result, best, aim)
    if aim.startswith(("e2e_s.", "ttft_s.")):
        heads["loses in"] = lambda result, _: _slowest_part(result, best, _PARTS[aim.split(".")[0]])
    if found.breaking:
        heads["breaks"] = lambda _, limits: ", ".join(map(str, limits))
    limited = [limit.path for limit in found.slo.per_plan]
    goodput = [] if found.slo.per_request == RequestSlo() else ["goodput_requests_per_s", "slo_attainment_frac"]
    for path in [*limited, *goodput, *_METRICS]:
        heads.setdefault(title(path), _metric(path))
    return heads


def _metric(path: str) -> Column:
    form = form_of(path)
    return lambda result, _: form(read_metric(result.metrics, path))


def _difference(result: "Outcome", best: "Outcome", path: str) -> str:
    ours, theirs = read_metric(result.metrics, path), read_metric(best.metrics, path)
    if result is best or ours is None or not theirs:
        return ""
    return f"{100 * (ours / theirs - 1):+,.0f} %"


# Where a mean request spends its time; the parts add up to the latency.
_PARTS: Final = {"ttft_s": ("queue", "prefill"), "e2e_s": ("queue", "prefill", "decode")}


def _mean_parts_s(metrics: Metrics) -> dict[str, float]:
    """Mean seconds of a request in the queue, from admission to the first token, and from there to the last."""
    queue, ttft, e2e = (read_metric(metrics, f"{name}.mean") or 0.0 for name in ("queue_s", "ttft_s", "e2e_s"))
    return {"queue": queue, "prefill": ttft - queue, "decode": e2e - ttft}


def _slowest_part(result: "Outcome", best: "Outcome", parts: tuple[str, ...]) -> str:
    """Part of the mean request that loses most against the best plan."""
    ours, theirs = _mean_parts_s(result.metrics), _mean_parts_s(best.metrics)
    lost = {part: ours[part] - theirs[part] for part in parts}
    part = max(lost, key=lambda name: lost[name])
    return part if lost[part] > 0 else ""


def _reasons(refused: Iterable["Refusal"]) -> Iterable[str]:
    """Refusals whose reasons differ in numbers only, as one line with the range of each number."""
    alike: dict[str, list[Refusal]] = {}
    for refusal in refused:
        alike.setdefault(_NUMBER.sub("#", refusal.reason), []).append(refusal)
    for pattern, group in alike.items():
        texts = [_NUMBER.findall(refusal.reason) for refusal in group]
        ranges = iter([_range(position) for position in zip(*texts, strict=True)])
        reason = re.sub("#", lambda _, ranges=ranges: next(ranges), pattern)  # type: ignore[misc]
        names = ", ".join(str(refusal.plan) for refusal in group[:_NAMED_REFUSALS])
        more = f" and {len(group) - _NAMED_REFUSALS} more" if len(group) > _NAMED_REFUSALS else ""
        yield f"{reason}: {names}{more}"


def _range(texts: Iterable[str]) -> str:
    ordered = sorted(set(texts), key=float)
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"


def _best(found: "SearchResult") -> list[str]:
    """Say what the first plan gives, which others may be as good, and how it is started."""
    best, aim = found.ranked[0], found.objective.path
    form = form_of(aim)
    runs = [name for name, reason in best.engines.items() if reason is None]
    line = f"best plan: {best.plan} on {counted(best.plan.num_devices, 'device')}, {title(aim)} "
    line += form(read_metric(best.metrics, aim))
    own = (best.interval or {}).get(aim)
    if own is not None:
        line += f" (90 % interval {spread(own, form)})"
    parts = ", ".join(f"{duration(seconds)} {part}" for part, seconds in _mean_parts_s(best.metrics).items())
    lines = [line, f"mean request: {parts}", f"runs on: {', '.join(runs) or 'no engine'}"]
    rejected: Mapping[str, int] = best.metrics["rejected"]
    lines += [f"requests {reason}: {count:,} of {best.metrics['requests']:,}" for reason, count in rejected.items()]
    close = [
        str(result.plan)
        for result in found.ranked[1:]
        if own is not None and (other := (result.interval or {}).get(aim)) and other[0] <= own[1] and own[0] <= other[1]
    ]
    rate_per_s, e2e_s = read_metric(best.metrics, SUSTAINABLE_RATE), read_metric(best.metrics, "e2e_s.mean") or 0.0
    if rate_per_s and best.metrics["requests"] < _LEAST_SPAN * e2e_s * rate_per_s:
        lasts = duration(best.metrics["requests"] / rate_per_s)
        lines.append(f"the trace is short for this: at that rate it lasts {lasts}, a mean request {duration(e2e_s)}")
    if aim.startswith("energy_"):
        lines.append("energy: the interval is that of the step times; the power model's own error is not in it")
    if close:
        lines.append(f"not told apart from it by their intervals: {', '.join(close)}")
    if best.launch:
        lines += ["start it with:", *(f"  {command}" for command in best.launch)]
    return lines
