"""From the intervals of steps to the metrics': the workload replayed with every step at either end of its own.

The step tables at the two ends assume that errors of one op are the same in all layers and steps, and that errors of
different ops are independent (``simulator.steps.step_sum.StepSum``); errors of the engine's constants and what servers
differ in beside them are at the same end (``simulator.steps.step_ends``). A metric's 90 % interval spans its values in
the three runs: slower steps can serve a request sooner (another batch forms), so the ends may change places and the
best estimate may lie outside them.

What no step shows (client, frontend, bursts) is a relative width of TTFT, which joins that of the runs in quadrature of
their logarithms. E2E is off by as many seconds, and goodput counts limits on TTFT that are as much tighter or looser.
So does what is not known of a device's power join the joules (`simulator.results.run_work`).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from simulator.results.metric_spellings import STATISTICS
from simulator.results.metrics import RequestSlo
from simulator.results.objective import Metrics, metric_paths, read_metric
from simulator.results.run_work import POWER_LOG_WIDTH
from simulator.steps.step_sum import IntervalEnd

Interval = tuple[float, float]

_TTFT: Final = "ttft_s"
_E2E: Final = "e2e_s"
_JOULES: Final = ("energy_j", "energy_j_per_output_token")


def metric_intervals(runs: Sequence[Metrics], *, first_token_frac: float = 0.0) -> dict[str, Interval]:
    """Return [low, high] of every metric an objective may name, by its path; a metric unknown in any run is left out.

    ``runs`` are the metrics of one plan and workload at the best estimate and at both ends. ``first_token_frac`` is the
    half width of TTFT that they do not show, relative to the best estimate.
    """
    intervals = {}
    for path in metric_paths():
        values = [value for run in runs if (value := read_metric(run, path)) is not None]
        if len(values) == len(runs):
            intervals[path] = (min(values), max(values))
    for statistic in STATISTICS if first_token_frac else ():
        first, whole = f"{_TTFT}.{statistic}", f"{_E2E}.{statistic}"
        ttft_s, e2e_s = read_metric(runs[0], first), read_metric(runs[0], whole)
        if ttft_s is None or first not in intervals:
            continue
        ends = ttft_s / (1 + first_token_frac), ttft_s * (1 + first_token_frac)
        intervals[first] = _joined(ttft_s, intervals[first], ends)
        if e2e_s is not None and whole in intervals:
            shifted = e2e_s + ends[0] - ttft_s, e2e_s + ends[1] - ttft_s
            intervals[whole] = _joined(e2e_s, intervals[whole], shifted)
    widths = [read_metric(run, POWER_LOG_WIDTH) or 0.0 for run in runs[1:]]
    for path in _JOULES if any(widths) else ():
        joules = read_metric(runs[0], path)
        if joules is not None and path in intervals:
            ends = joules * math.exp(-widths[0]), joules * math.exp(widths[-1])
            intervals[path] = _joined(joules, intervals[path], ends)
    return intervals


def slo_at(end: IntervalEnd, slo: RequestSlo, first_token_frac: float) -> RequestSlo:
    """Return limits that a run at an end meets as often as its requests meet ``slo`` with TTFT at that end too."""
    if end == "middle" or slo.ttft_s is None or not first_token_frac:
        return slo
    factor = 1 + first_token_frac
    return replace(slo, ttft_s=slo.ttft_s * factor if end == "low" else slo.ttft_s / factor)


def _joined(value: float, one: Interval, other: Interval) -> Interval:
    """Join two intervals around one value in quadrature of their logarithms; around no positive value, enclose both."""
    low, high = min(one[0], other[0]), max(one[1], other[1])
    if not (math.isfinite(high) and low > 0):
        return low, high
    below = math.hypot(*(math.log(value / interval[0]) for interval in (one, other)))
    above = math.hypot(*(math.log(interval[1] / value) for interval in (one, other)))
    return value * math.exp(-below), value * math.exp(above)
