"""What a search optimises and which limits a plan must keep, as text: ``e2e_s.mean``, ``ttft_s.p99<=2``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from simulator.errors import InputError

STATISTICS: Final = ("mean", "p50", "p90", "p95", "p99")
_LATENCIES: Final = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s")
# Plain metrics and whether less is better.
_PLAIN: Final = {
    "throughput_tokens_per_s": False,
    "throughput_requests_per_s": False,
    "output_tokens_per_s": False,
    "goodput_requests_per_s": False,
    "makespan_s": True,
    "energy_j": True,
    "energy_j_per_output_token": True,
    "usd_per_million_output_tokens": True,
    "mfu_frac": False,
    "mbu_frac": False,
}
_SLO: Final = re.compile(r"^\s*(?P<path>[a-z0-9_.]+)\s*(?P<sign><=|>=)\s*(?P<limit>[0-9.eE+-]+)\s*$")

Metrics = Mapping[str, object]


def metric_paths() -> list[str]:
    """Return every metric an objective or a limit may name."""
    return [f"{name}.{statistic}" for name in _LATENCIES for statistic in STATISTICS] + list(_PLAIN)


def read_metric(metrics: Metrics, path: str) -> float | None:
    """Return the value at ``path``, None where the simulation could not tell (no price, no energy model)."""
    name, _, statistic = path.partition(".")
    value = metrics.get(name)
    if statistic and isinstance(value, Mapping):
        value = value.get(statistic)
    return float(value) if isinstance(value, int | float) else None


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
class Slo:
    """A limit on one metric."""

    path: str
    limit: float
    at_most: bool

    def holds(self, metrics: Metrics) -> bool:
        """Whether the metric is known and keeps the limit."""
        value = read_metric(metrics, self.path)
        return value is not None and (value <= self.limit if self.at_most else value >= self.limit)

    def __str__(self) -> str:
        """Text form that ``parse_slo`` reads back."""
        return f"{self.path}{'<=' if self.at_most else '>='}{self.limit:g}"


def parse_objective(text: str) -> Objective:
    """Read an objective; a latency without a statistic means its mean. Raises ``InputError``."""
    path = _checked_path(text.strip(), "objective")
    return Objective(path=path, less_is_better=_PLAIN.get(path, True))


def parse_slo(text: str) -> Slo:
    """Read a limit such as ``ttft_s.p99<=2``. Raises ``InputError``."""
    match = _SLO.match(text)
    if match is None:
        raise InputError(f"slo {text!r} is not METRIC<=LIMIT or METRIC>=LIMIT", hint="for example ttft_s.p99<=2")
    try:
        limit = float(match["limit"])
    except ValueError as error:
        raise InputError(f"slo {text!r}: {match['limit']!r} is no number", hint="for example ttft_s.p99<=2") from error
    return Slo(path=_checked_path(match["path"], "slo"), limit=limit, at_most=match["sign"] == "<=")


def _checked_path(path: str, where: str) -> str:
    if path in _LATENCIES:
        return f"{path}.mean"
    known = metric_paths()
    if path not in known:
        close = get_close_matches(path, known, n=3)
        raise InputError(
            f"{where}: {path!r} is no metric",
            hint=f"did you mean {' or '.join(close)}?" if close else f"one of {', '.join(known)}",
        )
    return path
