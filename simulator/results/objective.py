"""What a search optimises and which limits hold, as text: ``e2e_s.mean``, ``ttft_s.p99<=2``, ``ttft_s<=2``.

A limit on a statistic (or on a plain metric) binds the plan. A limit on a latency itself binds every single request:
those that keep all of them count towards the goodput. A limit may carry a unit (``500ms``, ``95%``), and `<` says the
same as `<=`. What else a metric may be called is in `simulator.results.metric_spellings`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from difflib import get_close_matches
from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from simulator.results.metric_spellings import LATENCIES, STATISTICS, UNITS_S, read_spelling
from simulator.results.metrics import RequestSlo

SUSTAINABLE_RATE: Final = "sustainable_requests_per_s"  # of a search that ranks by it alone (simulator.search.capacity)
# Plain metrics and whether less is better.
_PLAIN: Final = {
    "throughput_tokens_per_s": False,
    "throughput_total_tokens_per_s": False,
    "throughput_requests_per_s": False,
    "goodput_requests_per_s": False,
    SUSTAINABLE_RATE: False,
    "slo_attainment_frac": False,
    "duration_s": True,
    "energy_j": True,
    "energy_j_per_output_token": True,
    "usd_per_million_output_tokens": True,
    "mfu_frac": False,
    "mbu_frac": False,
}
_PER_REQUEST: Final = ("ttft_s", "tpot_s", "e2e_s")
_LIMIT: Final = re.compile(
    rf"(?P<name>[a-z0-9_.]+)\s*(?P<sign><=?|>=?)\s*(?P<bound>[0-9.e+-]+?)\s*(?P<unit>%|{'|'.join(UNITS_S)})?",
    re.IGNORECASE,
)

Metrics = Mapping[str, object]


def metric_paths() -> list[str]:
    """Return every metric an objective or a limit may name."""
    return [f"{name}.{statistic}" for name in LATENCIES for statistic in STATISTICS] + list(_PLAIN)


def read_metric(metrics: Metrics, path: str) -> float | None:
    """Return the value at ``path``, None where the simulation could not tell (no price, no energy model)."""
    name, _, statistic = path.partition(".")
    value = metrics.get(name)
    if statistic and isinstance(value, Mapping):
        value = value.get(statistic)
    return float(value) if isinstance(value, int | float) else None


def mean_parts_s(metrics: Metrics) -> dict[str, float]:
    """Return mean seconds of a request in the queue, from admission to the first token, and from there to the last."""
    queue, ttft, e2e = (read_metric(metrics, f"{name}.mean") or 0.0 for name in ("queue_s", "ttft_s", "e2e_s"))
    return {"queue": queue, "prefill": ttft - queue, "decode": e2e - ttft}


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One metric to minimise or maximise."""

    path: str
    less_is_better: bool

    def rank(self, metrics: Metrics) -> float:
        """Sort key: smaller is better, a plan without the metric comes last."""
        value = read_metric(metrics, self.path)
        if value is None:
            return float("inf")
        return value if self.less_is_better else -value


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A bound on one metric of a plan."""

    path: str
    bound: float
    at_most: bool

    def holds(self, metrics: Metrics) -> bool:
        """Whether the metric is known and keeps the bound."""
        value = read_metric(metrics, self.path)
        return value is not None and (value <= self.bound if self.at_most else value >= self.bound)

    def __str__(self) -> str:
        """Text form."""
        return f"{self.path}{'<=' if self.at_most else '>='}{self.bound:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What the user asks for: bounds per request, which define goodput, and bounds per plan."""

    per_request: RequestSlo = field(default_factory=RequestSlo)
    per_plan: tuple[Limit, ...] = ()

    def broken(self, metrics: Metrics) -> tuple[Limit, ...]:
        """Return the bounds on the plan that its metrics break."""
        return tuple(limit for limit in self.per_plan if not limit.holds(metrics))


def less_is_better(path: str) -> bool | None:
    """Whether a metric is to be small; None of one that nobody ranks by."""
    return _PLAIN.get(path, True) if path in metric_paths() else None


def parse_objective(text: str) -> Objective:
    """Read an objective; a latency without a statistic means its mean. Raises ``UserError``."""
    path, _ = read_spelling(text)
    path = _checked_path(f"{path}.mean" if path in LATENCIES else path, "objective")
    return Objective(path=path, less_is_better=_PLAIN.get(path, True))


def parse_objectives(texts: Sequence[str]) -> list[Objective]:
    """Read objectives, the one to rank by first; raises ``UserError`` for one that is named twice."""
    objectives = [parse_objective(text) for text in texts]
    paths = [objective.path for objective in objectives]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise UserError(f"objective: {twice} is named twice", hint="name each once, the one to rank by first")
    return objectives


def wants_capacity(objectives: Sequence[Objective]) -> bool:
    """Whether plans are ranked by the most traffic that each takes, which is found by replaying at other rates."""
    return any(objective.path == SUSTAINABLE_RATE for objective in objectives)


def parse_slo(texts: Sequence[str]) -> Slo:
    """Read limits such as ``ttft_s.p99<=2``, ``tpot<50ms`` and ``p99_ttft_ms<=500``. Raises ``UserError``."""
    per_request: dict[str, float] = {}
    per_plan: dict[tuple[str, bool], Limit] = {}
    for text in texts:
        path, at_most, bound = _read_limit(text)
        if path == SUSTAINABLE_RATE:
            raise UserError(f"slo {text!r}: limits are what {path} is found within", hint="rank by it: --objective")
        is_per_request = path in _PER_REQUEST
        if is_per_request and not at_most:
            raise UserError(f"slo {text!r}: a request's latency can only be bounded from above", hint="use <=")
        if path in per_request or (path, at_most) in per_plan:
            raise UserError(f"slo {text!r}: {path} is bounded twice", hint="keep the tighter limit")
        if is_per_request:
            per_request[path] = bound
        else:
            per_plan[path, at_most] = Limit(path=_checked_path(path, "slo"), bound=bound, at_most=at_most)
    return Slo(per_request=RequestSlo(**per_request), per_plan=tuple(per_plan.values()))


def _read_limit(text: str) -> tuple[str, bool, float]:
    """Return the path that a limit binds, whether it is an upper one, and the bound in SI units."""
    match = _LIMIT.fullmatch(text.strip())
    if match is None:
        raise UserError(f"slo {text!r} is not METRIC<=LIMIT or METRIC>=LIMIT", hint="for example ttft_p99<=500ms")
    try:
        bound = float(match["bound"])
    except ValueError as error:
        raise UserError(f"slo {text!r}: {match['bound']!r} is no number", hint="for example tpot_s<=0.05") from error
    if bound <= 0:
        raise UserError(f"slo {text!r}: the limit is {bound:g}, must be > 0", hint="limits are in seconds and SI units")
    path, named = read_spelling(match["name"])
    unit = (match["unit"] or "").lower()
    if named is not None and named != "s" and unit:
        raise UserError(f"slo {text!r}: the metric is in {named}, the limit in {unit}", hint="state one unit")
    unit = unit or named or ""
    is_latency = path.partition(".")[0] in LATENCIES
    if (unit in UNITS_S and not is_latency) or (unit == "%" and not path.endswith("_frac")):
        raise UserError(f"slo {text!r}: {path} is not measured in {unit}", hint="for example ttft_p99<=500ms")
    return path, match["sign"].startswith("<"), bound * (UNITS_S.get(unit, 1.0) if unit != "%" else 0.01)


def _checked_path(path: str, where: str) -> str:
    if path not in metric_paths():
        close = get_close_matches(path, [*metric_paths(), *LATENCIES], n=3)
        listed = f"{', '.join(LATENCIES)} with .{', .'.join(STATISTICS)}; {', '.join(_PLAIN)}"
        raise UserError(
            f"{where}: {path!r} is no metric",
            hint=f"did you mean {' or '.join(close)}?" if close else f"one of {listed}",
        )
    return path
