"""What the page of a search holds: its JSON by columns, each text once, numbers to five digits.

A column per metric (``values``, one per plan, null where unknown) makes thousands of plans small enough to be sent
around. What differs between few plans is a list of its texts and the place of each plan's in it. The scripts in
`simulator/report/page` read it; the keys are documented where they are made.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from simulator.report.formats import TITLES, number, share, title, unit_of
from simulator.report.what_limits import OPS, kinds, limiting
from simulator.results.metric_spellings import LATENCIES
from simulator.results.objective import Limit, less_is_better, parse_slo

PER_USER: Final = "tokens_per_s_per_user"
PER_DEVICE: Final = "throughput_tokens_per_s_per_device"
_DERIVED: Final = {PER_USER: "tokens/s/user", PER_DEVICE: "tokens/s/device"}
# After the two above and the objective, most telling first; the table begins with these.
_FIRST: Final = (
    "e2e_s.mean",
    "ttft_s.mean",
    "ttft_s.p99",
    "tpot_s.mean",
    "tpot_s.p99",
    "throughput_tokens_per_s",
    "devices",
    "energy_j_per_output_token",
    "usd_per_million_output_tokens",
    "goodput_requests_per_s",
    "slo_attainment_frac",
    "mfu_frac",
    "mbu_frac",
)
# Shown as parts of a whole, or of each pool alone: no axis.
_APART: Final = frozenset({"breakdown", "prefill", "decode", "rejected", *OPS.values()})
_OF_A_POOL: Final = ("utilisation_frac", "kv_use_frac", "kv_peak_frac", "mean_batch_seqs", "preemptions")


def page_data(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the scripts of the page read, from the JSON of a search."""
    plans: list[Mapping[str, Any]] = result["plans"]
    inputs = result["inputs"]
    limits = parse_slo(inputs["slos"]).per_plan
    measured = [_measured(plan) for plan in plans]
    intervals = [_intervals(plan) for plan in plans]
    flags = _Texts()
    return {
        "objective": inputs["objective"],
        "limits": [str(limit) for limit in limits],
        "memory_bytes": inputs.get("device_memory_bytes"),
        "metrics": [
            _metric(path, measured, intervals, _bounds(path, limits, plans))
            for path in _paths(inputs["objective"], measured)
        ],
        "plans": [plan["plan"] for plan in plans],
        # By name of a text: `texts`, and for each plan the place of its own.
        "facts": {
            "group": _fact(plan["group"] for plan in plans),
            "limited by": _fact(limiting(plan) for plan in plans),
            "breaks": _fact(", ".join(plan["breaks"]) for plan in plans),
            "changes answers": _fact(", ".join(plan.get("changes_answers", ())) for plan in plans),
            "against the best": _fact(_versus(plan) for plan in plans),
            "notes": _fact("\n".join(plan["notes"]) for plan in plans),
            "runs on": _fact(_engines(plan["engines"]) for plan in plans),
        },
        # Limits of the server and what is no share of the memory, as they stand in the JSON.
        "settings": _settings(plans),
        # By pool (one without a name), and by part: a share of the devices' time, bytes of one rank.
        "ops": {pool: _shares([plan["metrics"].get(key) or {} for plan in plans]) for pool, key in _pools(plans)},
        "kinds": {pool: _shares([kinds(plan, pool) for plan in plans]) for pool, _ in _pools(plans)},
        "memory": {pool: _shares([_bytes(plan["memory"], pool) for plan in plans]) for pool, _ in _pools(plans)},
        # Each line of a plan's commands as the places of its words in `flags`, which are joined by " --".
        "launch": [[[flags.place(word) for word in line.split(" --")] for line in plan["launch"]] for plan in plans],
        "flags": flags.texts,
    }


class _Texts:
    """Texts in the order of their first use, each with its place."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._places: dict[str, int] = {}

    def place(self, text: str) -> int:
        """Return where the text stands, as a new one at the end."""
        if text not in self._places:
            self._places[text] = len(self.texts)
            self.texts.append(text)
        return self._places[text]


def _fact(texts: Iterable[str]) -> dict[str, Any]:
    kept = _Texts()
    return {"at": [kept.place(text) for text in texts], "texts": kept.texts}


def _measured(plan: Mapping[str, Any]) -> dict[str, float]:
    """Return every number that a plan was found to have, by its path."""
    found: dict[str, float] = {"devices": plan["devices"]}
    for name, value in plan["metrics"].items():
        if name in _APART:
            continue
        own = {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, Mapping) else {name: value}
        found |= {path: inner for path, inner in own.items() if isinstance(inner, int | float)}
    for pool in ("prefill", "decode"):
        own = plan["metrics"].get(pool, {})
        found |= {f"{pool}.{name}": own[name] for name in _OF_A_POOL if own.get(name) is not None}
    if tpot := found.get("tpot_s.mean"):
        found[PER_USER] = 1 / tpot
    if "throughput_tokens_per_s" in found:
        found[PER_DEVICE] = found["throughput_tokens_per_s"] / plan["devices"]
    return found


def _intervals(plan: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    found = {path: (low, high) for path, (low, high) in (plan.get("metrics_interval") or {}).items()}
    if (tpot := found.get("tpot_s.mean")) and all(tpot):
        found[PER_USER] = (1 / tpot[1], 1 / tpot[0])
    if rate := found.get("throughput_tokens_per_s"):
        found[PER_DEVICE] = (rate[0] / plan["devices"], rate[1] / plan["devices"])
    return found


def _paths(objective: str, measured: Sequence[Mapping[str, float]]) -> list[str]:
    known = dict.fromkeys(path for found in measured for path in found)
    return [path for path in dict.fromkeys([*_DERIVED, objective, *_FIRST, *known]) if path in known]


def _metric(
    path: str,
    measured: Sequence[Mapping[str, float]],
    intervals: Sequence[Mapping[str, tuple[float, float]]],
    bounds: tuple[float | None, float | None],
) -> dict[str, Any]:
    """Return a metric: its unit, whether less is better (null: neither), values, limits, intervals by plan's place."""
    return {
        "path": path,
        "title": _DERIVED.get(path) or _title(path),
        "unit": unit_of(path),
        "less": False if path in _DERIVED else less_is_better(path),
        "least": bounds[0],
        "most": bounds[1],
        "values": [_short(found.get(path)) for found in measured],
        "intervals": {
            place: [_short(end) for end in found[path]] for place, found in enumerate(intervals) if path in found
        },
    }


def _title(path: str) -> str:
    if path in TITLES or path.partition(".")[0] in LATENCIES:
        return title(path)
    words = path.removesuffix("_frac").replace("_s.", " ").replace("_", " ").replace(".", " ")
    words = words.replace("kv ", "KV ").removesuffix(" s")
    return f"{words[:-2]} W" if words.endswith(" w") else words


def _bounds(
    path: str, limits: Sequence[Limit], plans: Sequence[Mapping[str, Any]]
) -> tuple[float | None, float | None]:
    """Return the least and the most that the limits on a plan allow of a metric, also of one that follows from it."""
    least, most = None, None
    devices = {plan["devices"] for plan in plans}
    for limit in limits:
        bound, at_most = limit.bound, limit.at_most
        if path == PER_USER and limit.path == "tpot_s.mean":
            bound, at_most = 1 / bound, not at_most
        elif path == PER_DEVICE and limit.path == "throughput_tokens_per_s" and len(devices) == 1:
            bound /= max(devices)
        elif path != limit.path:
            continue
        least, most = (least, bound) if at_most else (bound, most)
    return least, most


def _short(value: float | None) -> float | None:
    """Keep five digits of what is no count."""
    return value if value is None or isinstance(value, int) else float(f"{value:.5g}")


def _pools(plans: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [(pool, key) for pool, key in OPS.items() if any(key in plan["metrics"] for plan in plans)]


def _bytes(memory: Mapping[str, Any], pool: str) -> Mapping[str, Any]:
    own = memory.get(pool, {}) if pool else {} if "prefill" in memory else memory
    return {key: value for key, value in own.items() if key.endswith("_bytes")}


def _shares(parts: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
    """Return names of parts, largest first over all plans, and of each plan (place of the name, value) by turns."""
    sums: dict[str, float] = {}
    for own in parts:
        for name, value in own.items():
            sums[name] = sums.get(name, 0.0) + (value or 0.0)
    names = sorted(sums, key=lambda name: -sums[name])
    place = {name: index for index, name in enumerate(names)}
    return {
        "names": [name.removesuffix("_frac").removesuffix("_bytes").replace("_", " ") for name in names],
        "parts": [
            [number for name, value in own.items() if value for number in (place[name], _share(value))] for own in parts
        ],
    }


def _share(value: float) -> float:
    """Keep what a bar can show."""
    return round(value, 4) if isinstance(value, float) else value


def _settings(plans: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    flat = [dict(_flat("", {**plan["limits"], "memory": plan["memory"]})) for plan in plans]
    names = dict.fromkeys(name for own in flat for name in own)
    return {name: _fact(own.get(name, "") for own in flat) for name in names}


def _flat(path: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name every setting inside nested mappings by its path; shares of the memory are shown as such."""
    for key, value in values.items():
        own = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            yield from _flat(own, value)
        elif not key.endswith("_bytes"):
            yield own, "-" if value is None else value if isinstance(value, str) else f"{value}"


def _versus(plan: Mapping[str, Any]) -> str:
    found = plan.get("versus_best")
    if found is None:
        return ""
    low, high = found["ratio_interval"]
    return (
        f"{title(found['metric'])} is {number(found['ratio'])} times the best plan's (90 % interval {number(low)} to "
        f"{number(high)}); the best plan is better with a probability of {share(found['best_is_better_frac'])}"
    )


def _engines(engines: Mapping[str, str | None]) -> str:
    return "\n".join(f"{name}: {reason or 'yes'}" for name, reason in engines.items())
