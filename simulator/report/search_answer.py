"""What a search found, in words and formatted values: plans best first, what the others lose, what was refused."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from simulator.report.formats import counted, duration, form_of, saturation_line, share, spread, start_lines, title
from simulator.results.metrics import RequestSlo
from simulator.results.objective import mean_parts_s, read_metric
from simulator.serving import Refusal

if TYPE_CHECKING:
    from simulator.pools.layouts import Outcome
    from simulator.results.objective import Limit
    from simulator.search.paired import Versus
    from simulator.search.search_result import SearchResult
    from simulator.serving import Serving
    from simulator.workload.parts import Traffic

Column = Callable[["Outcome", tuple["Limit", ...]], str]

# After the objective and the limits, most telling first.
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
CHANGING: Final = "in coarser formats than the checkpoint's, which change the model's answers (--formats-together):"
_NAMED_REFUSALS: Final = 4
_SAFE: Final = 0.9  # a limit kept with less is called doubtful
_ALL_BUT_SURE: Final = 0.999  # odds above it are not told apart
_NUMBER: Final = re.compile(r"(?<![\w.-])(\d+(?:\.\d+)?)(?![\w-])")


def headline(found: "SearchResult", serving: "Serving", workload: "Traffic") -> str:
    """Say what was searched for what."""
    return (
        f"{serving.model.name} on {serving.cluster.name}, {counted(len(workload), 'request')} of {workload.name}, "
        f"{serving.profile.name}, by {' and '.join(one.path for one in (found.objective, *found.further))}"
    )


def ranking(found: "SearchResult", *, top: int) -> list[dict[str, str]]:
    """Return the first plans as rows of equal keys, best first, those that break a limit last; columns likewise."""
    return _rows(found, [*((result, ()) for result in found.ranked), *found.breaking][:top])


def changing_ranking(found: "SearchResult", *, top: int) -> list[dict[str, str]]:
    """Return the first of the plans that change the model's answers, as `ranking` does the others."""
    return _rows(found, [(result, ()) for result in found.changing[:top]])


def _rows(found: "SearchResult", shown: "Sequence[tuple[Outcome, tuple[Limit, ...]]]") -> list[dict[str, str]]:
    columns = _columns(found, [result for result, _ in shown]) if shown else {}
    return [
        {"plan": str(result.plan)} | {name: form(result, limits) for name, form in columns.items()}
        for result, limits in shown
    ]


def _columns(found: "SearchResult", shown: "Sequence[Outcome]") -> dict[str, Column]:
    """Columns behind the name of the plans ``shown``, most telling first."""
    best = found.best or found.breaking[0][0]
    aim = found.objective.path
    heads: dict[str, Column] = {title(aim): _metric(aim)}
    if aim in (best.interval or {}):
        heads["90 % interval"] = lambda result, _: spread((result.interval or {}).get(aim), form_of(aim))
    if found.further:
        front = {str(result.plan) for result in found.front}
        heads["front"] = lambda result, _: "yes" if str(result.plan) in front else ""
        heads |= {title(one.path): _metric(one.path) for one in found.further}
    if any(result.saturation for result in found.simulated):
        heads["load"] = lambda result, _: result.saturation.verdict if result.saturation else ""
    heads["vs best"] = lambda result, _: _difference(result, best, aim)
    if aim.startswith(("e2e_s.", "ttft_s.")):
        heads["loses in"] = lambda result, _: _slowest_part(result, best, _PARTS[aim.split(".")[0]])
    if any(str(result.plan) in found.changes for result in shown):
        heads["changes answers"] = lambda result, _: ", ".join(found.changes.get(str(result.plan), ()))
    if any(found.chances(result) for result in shown):
        heads["keeps limits"] = lambda result, _: share(min(found.chances(result).values(), default=None))
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


def _slowest_part(result: "Outcome", best: "Outcome", parts: tuple[str, ...]) -> str:
    """Part of the mean request that loses most against the best plan."""
    ours, theirs = mean_parts_s(result.metrics), mean_parts_s(best.metrics)
    lost = {part: ours[part] - theirs[part] for part in parts}
    part = max(lost, key=lambda name: lost[name])
    return part if lost[part] > 0 else ""


def refusal_lines(refused: Iterable[tuple[str, str]]) -> Iterable[str]:
    """Yield one line per reason of (plan, reason); those that differ in numbers only share it, with the ranges."""
    alike: dict[str, list[tuple[str, str]]] = {}
    for plan, reason in refused:
        alike.setdefault(_NUMBER.sub("#", reason), []).append((plan, reason))
    for pattern, group in alike.items():
        texts = [_NUMBER.findall(reason) for _, reason in group]
        ranges = iter([_range(position) for position in zip(*texts, strict=True)])
        shared = re.sub("#", lambda _, ranges=ranges: next(ranges), pattern)  # type: ignore[misc]
        names = ", ".join(plan for plan, _ in group[:_NAMED_REFUSALS])
        more = f" and {len(group) - _NAMED_REFUSALS} more" if len(group) > _NAMED_REFUSALS else ""
        yield f"{shared}: {names}{more}"


def _range(texts: Iterable[str]) -> str:
    ordered = sorted(set(texts), key=float)
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"


def answer_lines(found: "SearchResult") -> list[str]:
    """Say what the first plan gives, which others may be as good, and how it is started."""
    best, aim = found.best, found.objective.path
    if best is None:
        return [_closest(found)]
    form = form_of(aim)
    runs = [name for name, reason in best.engines.items() if reason is None]
    line = f"best plan: {best.plan} on {counted(best.plan.num_devices, 'device')}, {title(aim)} "
    line += form(read_metric(best.metrics, aim))
    own = (best.interval or {}).get(aim)
    if own is not None:
        line += f" (90 % interval {spread(own, form)})"
    lines = [] if found.ranked else [f"no plan in the checkpoint's own formats {_shortfall(found)}"]
    lines.append(line)
    coarser = found.changes.get(str(best.plan))
    if coarser:
        lines.append(f"it changes the model's answers: {', '.join(coarser)}, coarser than the checkpoint's")
    parts = ", ".join(f"{duration(seconds)} {part}" for part, seconds in mean_parts_s(best.metrics).items())
    if best.saturation is not None:
        lines.append(saturation_line(best.saturation))
        safe = next((result for result in found.ranked if result.interval is not None and not result.saturation), None)
        if safe is not None:
            lines.append(f"best plan that keeps up at both ends: {safe.plan}")
    lines += [f"mean request: {parts}", f"runs on: {', '.join(runs) or 'no engine'}"]
    rejected: Mapping[str, int] = best.metrics["rejected"]
    lines += [f"requests {reason}: {count:,} of {best.metrics['requests']:,}" for reason, count in rejected.items()]
    if found.further and found.ranked:
        aims = " and ".join(title(one.path) for one in (found.objective, *found.further))
        front = ", ".join(str(result.plan) for result in found.front)
        lines.append(f"beaten in {aims} by no other plan: {front}")
    lines += _risk(best, found)
    lines += [*_against_usual(best, found), *_price_of_energy(best, found)]
    lines += [_against(best, result, found) for result in found.ranked[1:] if str(result.plan) in found.versus_best]
    close = [
        str(result.plan)
        for result in found.ranked[1:]
        if own is not None
        and (other := (result.interval or {}).get(aim))
        and other[0] <= own[1]
        and own[0] <= other[1]
        and not _is_told_apart(found.versus_best.get(str(result.plan)))
    ]
    if best.metrics.get("sustainable_is_short"):
        lines.append("the trace is short for this: at that rate it lasts less than twenty mean requests")
    if close:
        lines.append(f"not told apart from it: {', '.join(close)}")
    return [*lines, *start_lines(best.launch)]


def _against(best: "Outcome", other: "Outcome", found: "SearchResult") -> str:
    """Say how sure it is that the best plan beats another, what is wrong with both left out."""
    known = found.versus_best[str(other.plan)]
    is_all_but_sure = known.best_is_better_frac > _ALL_BUT_SURE
    odds = f"more than {share(_ALL_BUT_SURE)}" if is_all_but_sure else share(known.best_is_better_frac)
    return (
        f"against {other.plan}: {title(known.metric)} there is {known.ratio:.3g} times as much "
        f"(90 % interval {known.ratio_low:.3g} to {known.ratio_high:.3g}), "
        f"{best.plan} is better with a probability of {odds}"
    )


def _risk(best: "Outcome", found: "SearchResult") -> list[str]:
    """Say which limits the best plan may well break, and which plan is the best that is likely to keep them all."""
    doubtful = {name: chance for name, chance in found.chances(best).items() if chance < _SAFE}
    if not doubtful:
        return []
    lines = [f"{name} is kept with a probability of {share(chance)}" for name, chance in doubtful.items()]
    known = ((result, found.chances(result)) for result in (found.ranked or found.changing))
    safe = next((result for result, chances in known if chances and min(chances.values()) >= _SAFE), None)
    which = "none of those shown" if safe is None else str(safe.plan)
    return [*lines, f"best plan that keeps each limit with at least {share(_SAFE)}: {which}"]


def _against_usual(best: "Outcome", found: "SearchResult") -> list[str]:
    """Compare the best plan with what people choose without a search."""
    usual, aim = found.usual_outcome, found.objective.path
    if usual is None:
        return []
    name = f"the usual choice, {usual.plan} (tensor parallelism in a node, a pipeline across nodes)"
    if isinstance(usual, Refusal):
        return [f"{name}, cannot start: {usual.reason}"]
    if usual.plan == best.plan:
        return [f"it is the usual choice: {name.partition('(')[2].removesuffix(')')}"]
    ratio = found.ratio_to_best(usual, aim)
    times = "" if ratio is None else f", {ratio:.3g} times the best plan's"
    return [f"{name}: {title(aim)} {form_of(aim)(read_metric(usual.metrics, aim))}{times}"]


def _price_of_energy(best: "Outcome", found: "SearchResult") -> list[str]:
    """Say what the least energy saves against the fastest plan of the same list, and what it costs in latency."""
    aim, latency = found.objective.path, "e2e_s.mean"
    if not aim.startswith("energy_"):
        return []
    rivals = found.ranked or found.changing
    fastest = min(rivals, key=lambda result: read_metric(result.metrics, latency) or float("inf"))
    more, longer = found.ratio_to_best(fastest, aim), found.ratio_to_best(fastest, latency)
    if fastest is best or not more or not longer:
        return []
    return [
        f"against the fastest plan, {fastest.plan}: {share(1 - 1 / more)} less energy, "
        f"{title(latency)} {1 / longer:.3g} times as long"
    ]


def _is_told_apart(known: "Versus | None") -> bool:
    """Whether the interval of the ratio of two plans leaves no doubt which is better."""
    return known is not None and not known.ratio_low <= 1 <= known.ratio_high


def _shortfall(found: "SearchResult") -> str:
    """Say what plans in the checkpoint's own formats do not, where others do."""
    own = any(str(result.plan) not in found.changes for result, _ in found.breaking)
    return "keeps every limit" if own else "can start"


def _closest(found: "SearchResult") -> str:
    """Say why there is no answer, and what comes closest: the fewest limits broken, then the best rank."""
    if not found.breaking:
        return "no plan can start"
    result, limits = min(found.breaking, key=lambda pair: len(pair[1]))
    broken = ", ".join(
        f"{limit} with {form_of(limit.path)(read_metric(result.metrics, limit.path))}" for limit in limits
    )
    return f"no plan keeps every limit; closest is {result.plan}, which breaks {broken}"
