"""Whether a plan keeps up with its load, at both ends of the interval of its step times.

Near the load at which queues grow without bound a few percent of a step decide between a wait of milliseconds and one
of minutes. A point estimate there is worth little, so the verdict says on which side each end lies. A run is saturated

- where its mean request waits for admission more than ``WAIT_LIMIT`` times as long as it then takes to its first token:
  with arrivals at random and services alike (M/D/1) the mean wait is u / (2 (1 - u)) services at utilisation u, which
  is 4.5 at 90 %. What the frontend takes for each request is no wait for others: a small model, whose prompts take less
  time than its HTTP server, is not near saturation at one request per second;
- where seats never run out, but ever more sequences share a step: the last answer of an open loop comes later after the
  last arrival than a quarter of the time all arrivals took (less than 80 % of the offered rate is served), and later
  than eight times what the longest requests (p99) last at the fast end, so that a few long answers do not decide, nor
  steps that are several times as long at the slow end.

Clients of a closed or capped loop wait for answers, so nothing grows; there the median request's wait counts, which the
start burst leaves alone, and a run that had to take KV back from running requests is saturated too.

Of two pools the wait is that for the prefill pool.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from cluster_specs.lazy_dataclass import dataclass
from simulator.results.interval import Interval
from simulator.workload.workload import CappedLoop, ClosedLoop, Workload

Metrics = Mapping[str, Any]
Verdict = Literal["near saturation", "overloaded"]

WAIT_LIMIT: Final = 4.5
_LATE_SHARE: Final = 0.25
_LATE_REQUESTS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturation:
    """A verdict, and the mean time to first token at the fast and at the slow end, in seconds."""

    verdict: Verdict
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"verdict": self.verdict, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """How a load is offered: by clients that wait, or over ``span_s`` from the first arrival to the last, if known."""

    waits: bool
    span_s: float | None = None

    @classmethod
    def of(cls, workload: Workload) -> "Offered":
        """Take it from a workload; turns of a session are sent when others end."""
        if isinstance(workload.client, ClosedLoop | CappedLoop):
            return cls(waits=True)
        if workload.after is not None or len(workload) == 0:
            return cls(waits=False)
        return cls(waits=False, span_s=float(workload.arrival_s[-1] - workload.arrival_s[0]))


def saturation_of(
    runs: Sequence[Metrics], interval: Mapping[str, Interval], offered: Offered, frontends_s: Sequence[float]
) -> Saturation | None:
    """Judge a plan by its ``runs`` at the best estimate and at both ends; None where it keeps up in all of them.

    ``frontends_s`` are the seconds that the frontend adds to each request of each run.
    """
    longest_s = min((run["e2e_s"]["p99"] for run in runs if run["e2e_s"]["p99"] is not None), default=None)
    behind = [
        waits_long(run, offered, frontend_s) or falls_behind(run, offered, longest_s)
        for run, frontend_s in zip(runs, frontends_s, strict=True)
    ]
    if not any(behind) or "ttft_s.mean" not in interval:
        return None
    low, high = interval["ttft_s.mean"]
    return Saturation(verdict="overloaded" if all(behind) else "near saturation", low=low, high=high)


def waits_long(run: Metrics, offered: Offered, frontend_s: float) -> bool:
    """Whether requests that passed the frontend wait long beyond their own service, or lose what they had."""
    statistic = "p50" if offered.waits else "mean"
    wait_s, first_s = run["queue_s"][statistic], run["ttft_s"][statistic]
    if wait_s is None or first_s is None:
        return False
    has_retaken = offered.waits and run.get("preemptions", 0) > 0
    return has_retaken or bool(wait_s - frontend_s > WAIT_LIMIT * (first_s - wait_s))


def falls_behind(run: Metrics, offered: Offered, longest_s: float | None) -> bool:
    """Whether answers end long after arrivals do; ``longest_s`` is the p99 of E2E at the fast end."""
    if offered.span_s is None or longest_s is None:
        return False
    late_s = run["duration_s"] - offered.span_s
    return bool(late_s > max(_LATE_SHARE * offered.span_s, _LATE_REQUESTS * longest_s))
