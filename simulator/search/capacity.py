"""How much traffic a plan takes: the densest arrivals that keep every limit on the plan, in requests per second.

The trace is replayed at rates on a geometric grid, each as long as `simulator.workload.lasting` makes it, and the
densest that keeps the limits is found by bisection: limits are taken to hold at every rate below one where they hold.
"""

from collections.abc import Callable
from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from simulator.errors import EngineLimitError
from simulator.results.objective import SUSTAINABLE_RATE, Metrics, Slo, read_metric
from simulator.workload.lasting import at_rate, from_zero, rate_per_s
from simulator.workload.workload import OpenLoop, Workload

_GRID: Final = 1.02  # ratio of neighbouring rates
_REACH: Final = 420  # steps up and down from the trace's own rate: a factor of 4,096


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The highest rate of arrivals that keeps every limit, 0 when not even a trickle does; and how that was seen."""

    requests_per_s: float
    is_short: bool  # the trace lasted less than twenty mean requests at that rate, and could not be repeated


def check_rate(workload: Workload, asked: str) -> None:
    """Refuse a workload that has no rate of its own; ``asked`` is what needs one. Raises ``UserError``."""
    hint = "use a trace with arrival times"
    if not isinstance(workload.client, OpenLoop):
        raise UserError(f"{asked}: the rate of a closed loop, or under a concurrency, is the server's", hint=hint)
    if workload.arrival_s[-1] <= workload.arrival_s[0]:
        raise UserError(f"{asked}: all requests of {workload.name} arrive at once", hint=hint)


def check_capacity(workload: Workload, slo: Slo) -> None:
    """Refuse what a sustainable rate means nothing for; raises ``UserError``."""
    check_rate(workload, SUSTAINABLE_RATE)
    if not slo.per_plan:
        raise UserError(
            f"{SUSTAINABLE_RATE} is the most traffic within limits, but no limit on the plan is stated",
            hint="for example --slo ttft_s.p99<=2, or --slo ttft_s<=2 --slo slo_attainment_frac>=0.99",
        )


def find_capacity(measure: Callable[[Workload], Metrics], workload: Workload, slo: Slo) -> Capacity:
    """Return the most traffic within ``slo``; ``measure`` replays a workload on the plan."""
    workload = from_zero(workload)
    request_s = read_metric(measure(workload), "e2e_s.mean") or 0.0
    low, high = -_REACH - 1, _REACH + 1
    while high - low > 1:
        step = (low + high) // 2
        asked, _ = at_rate(workload, _GRID**step, request_s=request_s)
        low, high = (low, step) if _breaks(measure, asked, slo) else (step, high)
    scale = _GRID**low
    return Capacity(
        requests_per_s=0.0 if low < -_REACH else rate_per_s(workload) * scale,
        is_short=at_rate(workload, scale, request_s=request_s)[1],
    )


def _breaks(measure: Callable[[Workload], Metrics], workload: Workload, slo: Slo) -> bool:
    """Whether a limit is broken, or the plan falls so far behind that the run outlasts the engine's clock."""
    try:
        return bool(slo.broken(measure(workload)))
    except EngineLimitError:
        return True
