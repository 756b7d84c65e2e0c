"""What differs between two answers of one command: what they rest on, which plan is best, and its metrics."""

from collections.abc import Mapping
from typing import Any, Final

from simulator.report.formats import form_of, title
from simulator.report.text_table import text_table
from simulator.results.objective import metric_paths, read_metric

Answer = Mapping[str, Any]

_SHOWN: Final = (
    "e2e_s.mean",
    "ttft_s.mean",
    "ttft_s.p99",
    "tpot_s.mean",
    "throughput_tokens_per_s",
    "sustainable_requests_per_s",
    "slo_attainment_frac",
    "goodput_requests_per_s",
    "energy_j_per_output_token",
    "usd_per_million_output_tokens",
)


def changed_inputs(before: Answer, after: Answer) -> list[str]:
    """Name the inputs whose digests differ; the trace's when its file has changed, though its name has not."""
    old, new = before["made_by"]["rests_on"], after["made_by"]["rests_on"]
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def plans_of(answer: Answer) -> dict[str, Answer]:
    """Return the simulated plans of a search's answer, or the one of a simulation's, by name; best first."""
    return {plan["plan"]: plan for plan in answer.get("plans", [answer])}


def changed_metrics(before: Answer, after: Answer) -> dict[str, list[str]]:
    """Return the metrics whose values differ, by plan; a plan that only one answer has is named with ``plan``."""
    old, new = plans_of(before), plans_of(after)
    found = {}
    for name in dict.fromkeys([*old, *new]):
        if name not in old or name not in new:
            found[name] = ["plan"]
            continue
        ours, theirs = old[name]["metrics"], new[name]["metrics"]
        paths = [path for path in metric_paths() if read_metric(ours, path) != read_metric(theirs, path)]
        if paths or ours != theirs:
            found[name] = paths or ["other metrics"]
    return found


def best_of(answer: Answer) -> Answer | None:
    """Return the plan that an answer names best: the first that breaks no limit."""
    return next((plan for plan in plans_of(answer).values() if not plan["breaks"]), None)


def difference_table(before: Answer, after: Answer) -> str:
    """Lay the best plans of both answers side by side, and what the first one's becomes in the second."""
    plans = {"before": best_of(before), "after": best_of(after)}
    kept = plans["before"] and plans_of(after).get(plans["before"]["plan"])
    if kept is not None and plans["after"] is not None and kept["plan"] != plans["after"]["plan"]:
        plans["before's plan, after"] = kept
    shown = {name: plan for name, plan in plans.items() if plan is not None}
    rows = [["plan", *(plan["plan"] for plan in shown.values()), ""]]
    for path in _SHOWN:
        values = [read_metric(plan["metrics"], path) for plan in shown.values()]
        if any(value is not None for value in values):
            rows.append([title(path), *map(form_of(path), values), _ratio(shown, path)])
    return text_table(["", *shown, "after / before"], rows, left={""})


def _ratio(shown: Mapping[str, Answer], path: str) -> str:
    old, new = (read_metric(shown[name]["metrics"], path) if name in shown else None for name in ("before", "after"))
    return f"{new / old:.3g}" if old and new is not None else ""
