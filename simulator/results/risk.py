"""How likely a plan keeps a limit, from the 90 % interval of the metric that the limit binds.

The logarithm of a metric is taken to be normal around the best estimate, on each side as wide as the interval is there:
its ends lie 1.645 standard deviations away.
"""

import math
from collections.abc import Mapping
from statistics import NormalDist

from simulator.results.interval import Interval
from simulator.results.objective import Limit, Metrics, read_metric

_NORMAL = NormalDist()
_SIGMAS = _NORMAL.inv_cdf(0.95)


def chance_of_keeping(limit: Limit, metrics: Metrics, intervals: Mapping[str, Interval] | None) -> float | None:
    """Return the probability that a plan keeps ``limit``; None where the metric or its interval is unknown."""
    value, ends = read_metric(metrics, limit.path), (intervals or {}).get(limit.path)
    if value is None or ends is None:
        return None
    low, high = ends
    if not (value > 0 and low > 0 and math.isfinite(high)):
        return None
    away = math.log(limit.bound / value)
    width = max(0.0, math.log(high / value) if away > 0 else math.log(value / low)) / _SIGMAS
    below = _NORMAL.cdf(away / width) if width else 0.5 + 0.5 * (away > 0) - 0.5 * (away < 0)
    return below if limit.at_most else 1 - below
