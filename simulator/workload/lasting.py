"""A workload at another rate, repeated until queues have had time to grow.

A short trace flatters a plan: its last requests arrive before the queue has grown. So at each rate it is repeated until
it lasts many times as long as a mean request; traces with shared prefixes, turns, images or recorded replicas are not,
because their repeats would find their prompts in the cache. Where it would outlast the engine's clock its head
is taken.
"""

from dataclasses import replace
from typing import Final

import numpy as np

from simulator.workload.scale import scale_workload
from simulator.workload.span import LONGEST_SPAN_S
from simulator.workload.workload import Workload

_LEAST_SPAN: Final = 20  # mean requests a replay lasts


def from_zero(workload: Workload) -> Workload:
    """Return the workload with its first arrival at 0: epoch seconds divided by a rate lose what they resolve."""
    return replace(workload, arrival_s=workload.arrival_s - workload.arrival_s[0])


def rate_per_s(workload: Workload) -> float:
    """Return requests per second from the first arrival to the last, which must differ."""
    return (len(workload) - 1) / float(workload.arrival_s[-1] - workload.arrival_s[0])


def at_rate(workload: Workload, scale: float, *, request_s: float) -> tuple[Workload, bool]:
    """Return a workload that starts at 0 at ``scale`` x its rate, and whether it stays short of what is asked for.

    ``request_s`` is how long a mean request lasts where nothing waits.
    """
    least = _LEAST_SPAN * request_s * rate_per_s(workload) * scale
    bound = (workload.prefix, workload.after, workload.replica, workload.items)  # what belongs to single requests
    can_repeat = all(column is None for column in bound)
    times = max(1, round(least / len(workload))) if can_repeat else 1
    longer = _repeated(_within_the_clock(workload, scale), times, rate_per_s(workload))
    return scale_workload(longer, scale), not can_repeat and len(workload) < least


def _within_the_clock(workload: Workload, scale: float) -> Workload:
    """Return as much of the workload as the engine's clock holds at ``scale`` x its rate."""
    is_late = workload.arrival_s > LONGEST_SPAN_S * scale
    return workload.head(int(np.argmax(is_late))) if is_late.any() else workload


def _repeated(workload: Workload, times: int, rate: float) -> Workload:
    """Return the workload ``times`` in a row, a mean gap apart."""
    span_s = len(workload) / rate
    return replace(
        workload,
        arrival_s=np.concatenate([workload.arrival_s + span_s * turn for turn in range(times)]),
        prompt_tokens=np.tile(workload.prompt_tokens, times),
        output_tokens=np.tile(workload.output_tokens, times),
    )
