"""One plan under one rate of arrivals after the other, and the knee: the highest rate that it keeps up with.

A plan keeps up where no run of its interval falls behind (`simulator.results.saturation`) and no limit on it is broken.
"""

from collections.abc import Callable, Sequence
from typing import Any

from cluster_specs.lazy_dataclass import dataclass
from simulator.errors import EngineLimitError
from simulator.pools.layouts import Outcome, Started, replay_layout, with_layout_interval
from simulator.results.objective import Limit, Slo, read_metric
from simulator.search.fan_out import run_all
from simulator.search.search import at_once
from simulator.serving import Serving
from simulator.workload.lasting import at_rate, from_zero, rate_per_s
from simulator.workload.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class RatePoint:
    """What a plan does at one rate; ``outcome`` is None where it falls so far behind that the engine's clock ends."""

    rate_per_s: float
    outcome: Outcome | None
    broken: tuple[Limit, ...]
    is_short: bool  # the trace could not be repeated until it lasts twenty mean requests

    @property
    def keeps_up(self) -> bool:
        """Whether the plan takes this rate, at both ends of the interval too."""
        return self.outcome is not None and self.outcome.saturation is None and not self.broken

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        found = self.outcome
        return {
            "rate_per_s": self.rate_per_s,
            "keeps_up": self.keeps_up,
            "breaks": [str(limit) for limit in self.broken],
            "trace_is_short": self.is_short,
            "metrics": None if found is None else found.metrics,
            "metrics_interval": {} if found is None or found.interval is None else dict(found.interval),
            "saturation": None if found is None or found.saturation is None else found.saturation.to_json(),
        }


def knee(points: Sequence[RatePoint]) -> RatePoint | None:
    """Return the last point, by rate, up to which the plan keeps up with every rate; None where there is none."""
    last = None
    for point in sorted(points, key=lambda point: point.rate_per_s):
        if not point.keeps_up:
            break
        last = point
    return last


def sweep(
    serving: Serving,
    started: Started,
    workload: Workload,
    rates: Sequence[float],
    slo: Slo,
    *,
    on_done: Callable[[int, int], None] | None = None,
) -> list[RatePoint]:
    """Replay ``workload``, which has arrival times, at each of ``rates`` (requests per second)."""
    workload = from_zero(workload)
    own = rate_per_s(workload)
    trickle, _ = at_rate(workload, min(rates) / own, request_s=0.0)
    request_s = read_metric(replay_layout(serving, started, trickle).metrics, "e2e_s.mean") or 0.0

    def measured(rate: float) -> RatePoint:
        asked, is_short = at_rate(workload, rate / own, request_s=request_s)
        try:
            outcome = with_layout_interval(serving, replay_layout(serving, started, asked, slo), asked, slo)
        except EngineLimitError:
            return RatePoint(rate_per_s=rate, outcome=None, broken=(), is_short=is_short)
        broken = slo.broken(outcome.metrics)
        return RatePoint(rate_per_s=rate, outcome=outcome, broken=broken, is_short=is_short)

    return run_all(measured, rates, threads=at_once(workload, None), on_done=on_done)
