"""How much traffic a plan takes: the densest arrivals that keep every limit on the plan, in requests per second.

The whole trace is replayed at rates on a geometric grid, and the densest that keeps the limits is found by bisection:
limits are taken to hold at every rate below one at which they hold. A trace tells only as much as it is long: at the
rate found it should last many times as long as a request.
"""

from collections.abc import Callable
from typing import Final

from simulator.errors import InputError
from simulator.objective import SUSTAINABLE_RATE, Metrics, Slo
from simulator.workload.scale import scale_workload
from simulator.workload.workload import OpenLoop, Workload

_GRID: Final = 1.02  # ratio of neighbouring rates
_REACH: Final = 420  # steps up and down from the trace's own rate: a factor of 4,096


def check_capacity(workload: Workload, slo: Slo) -> None:
    """Refuse what a sustainable rate means nothing for; raises ``InputError``."""
    if not isinstance(workload.client, OpenLoop):
        raise InputError(
            f"{SUSTAINABLE_RATE}: a closed loop's rate is the server's doing", hint="use a trace with arrival times"
        )
    if workload.arrival_s[-1] <= workload.arrival_s[0]:
        raise InputError(
            f"{SUSTAINABLE_RATE}: all requests of {workload.name} arrive at once", hint="use a trace with arrival times"
        )
    if not slo.per_plan:
        raise InputError(
            f"{SUSTAINABLE_RATE} is the most traffic within limits, but no limit on the plan is stated",
            hint="for example --slo ttft_s.p99<=2, or --slo ttft_s<=2 --slo slo_attainment_frac>=0.99",
        )


def sustainable_rate(measure: Callable[[Workload], Metrics], workload: Workload, slo: Slo) -> float:
    """Return the highest rate of arrivals per second that keeps ``slo``; 0 when not even a trickle does.

    ``measure`` replays a workload on the plan.
    """
    low, high = -_REACH - 1, _REACH + 1
    while high - low > 1:
        step = (low + high) // 2
        if slo.broken(measure(scale_workload(workload, _GRID**step))):
            high = step
        else:
            low = step
    span_s = float(workload.arrival_s[-1] - workload.arrival_s[0])
    return 0.0 if low < -_REACH else (len(workload) - 1) / span_s * _GRID**low
