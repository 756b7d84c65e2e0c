"""How much traffic a plan takes: the densest arrivals that keep every limit on the plan, in requests per second.

The trace is replayed at rates on a geometric grid, and the densest that keeps the limits is found by bisection: limits
are taken to hold at every rate below one at which they hold. A queue needs time to grow, so at each rate the trace is
repeated until it lasts many times as long as a mean request; traces with shared prefixes or turns are not, because
their repeats would find their prompts in the cache. At a rate at which the trace would outlast the engine's clock, its
head is replayed.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from simulator.errors import EngineLimitError
from simulator.results.objective import SUSTAINABLE_RATE, Metrics, Slo, read_metric
from simulator.workload.scale import scale_workload
from simulator.workload.span import LONGEST_SPAN_S
from simulator.workload.workload import OpenLoop, Workload

_GRID: Final = 1.02  # ratio of neighbouring rates
_REACH: Final = 420  # steps up and down from the trace's own rate: a factor of 4,096
_LEAST_SPAN: Final = 20  # mean requests a replay lasts


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The highest rate of arrivals that keeps every limit, 0 when not even a trickle does; and how that was seen."""

    requests_per_s: float
    is_short: bool  # the trace lasted less than twenty mean requests at that rate, and could not be repeated


def check_capacity(workload: Workload, slo: Slo) -> None:
    """Refuse what a sustainable rate means nothing for; raises ``UserError``."""
    if not isinstance(workload.client, OpenLoop):
        raise UserError(
            f"{SUSTAINABLE_RATE}: the rate of a closed loop, or under a concurrency, is the server's",
            hint="use a trace with arrival times",
        )
    if workload.arrival_s[-1] <= workload.arrival_s[0]:
        raise UserError(
            f"{SUSTAINABLE_RATE}: all requests of {workload.name} arrive at once", hint="use a trace with arrival times"
        )
    if not slo.per_plan:
        raise UserError(
            f"{SUSTAINABLE_RATE} is the most traffic within limits, but no limit on the plan is stated",
            hint="for example --slo ttft_s.p99<=2, or --slo ttft_s<=2 --slo slo_attainment_frac>=0.99",
        )


def find_capacity(measure: Callable[[Workload], Metrics], workload: Workload, slo: Slo) -> Capacity:
    """Return the most traffic within ``slo``; ``measure`` replays a workload on the plan."""
    # Epoch seconds divided by a rate would lose what they resolve.
    workload = replace(workload, arrival_s=workload.arrival_s - workload.arrival_s[0])
    rate_per_s = (len(workload) - 1) / float(workload.arrival_s[-1] - workload.arrival_s[0])
    request_s = read_metric(measure(workload), "e2e_s.mean") or 0.0
    can_repeat = workload.prefix is None and workload.after is None and workload.replica is None

    def least_requests(scale: float) -> float:
        return _LEAST_SPAN * request_s * rate_per_s * scale

    low, high = -_REACH - 1, _REACH + 1
    while high - low > 1:
        step = (low + high) // 2
        scale = _GRID**step
        times = max(1, round(least_requests(scale) / len(workload))) if can_repeat else 1
        asked = scale_workload(_repeated(_within_the_clock(workload, scale), times, rate_per_s), scale)
        low, high = (low, step) if _breaks(measure, asked, slo) else (step, high)
    scale = _GRID**low
    return Capacity(
        requests_per_s=0.0 if low < -_REACH else rate_per_s * scale,
        is_short=not can_repeat and len(workload) < least_requests(scale),
    )


def _breaks(measure: Callable[[Workload], Metrics], workload: Workload, slo: Slo) -> bool:
    """Whether a limit is broken, or the plan falls so far behind that the run outlasts the engine's clock."""
    try:
        return bool(slo.broken(measure(workload)))
    except EngineLimitError:
        return True


def _within_the_clock(workload: Workload, scale: float) -> Workload:
    """Return as much of the workload as the engine's clock holds at ``scale`` x its rate."""
    is_late = workload.arrival_s > LONGEST_SPAN_S * scale
    return workload.head(int(np.argmax(is_late))) if is_late.any() else workload


def _repeated(workload: Workload, times: int, rate_per_s: float) -> Workload:
    """Return the workload ``times`` in a row, a mean gap apart."""
    span_s = len(workload) / rate_per_s
    return replace(
        workload,
        arrival_s=np.concatenate([workload.arrival_s + span_s * turn for turn in range(times)]),
        prompt_tokens=np.tile(workload.prompt_tokens, times),
        output_tokens=np.tile(workload.output_tokens, times),
    )
