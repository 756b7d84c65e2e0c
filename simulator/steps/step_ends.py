"""A part of a step at an end of its 90 % interval: errors of prices, of the engine's constants, and between servers.

    width = sqrt(prices^2 + constants^2)                       what the part is off by, in seconds
    end   = middle * exp(+-sqrt(ln((middle +- width) / middle)^2 + ln(1 + spread)^2))

so that no end is below zero. All parts of a step are at the same end at once: their widths add up.

A run in which some sources of error alone are at their ends says what they do to a metric. Two plans that
share them are off in the same direction, so that their difference is surer than either.
"""

import math
from collections.abc import Container
from typing import Final

import numpy as np

from costmodel.ops.arrays import Array
from simulator.steps.step_sum import IntervalEnd, StepSum

# Sources of error beside the labels of ops, whose prices are a source each.
ENGINE: Final = "engine constants"
SPREAD: Final = "servers"
# Of joules alone (`simulator.results.run_work`): what is known of a device's power.
AWAKE_POWER: Final = "awake power"
WORK_ENERGY: Final = "energy of work"
VOLTAGE: Final = "how energy falls with the clock"


def at_end(
    end: IntervalEnd,
    prices: StepSum | None = None,
    *,
    constant_s: float | Array = 0.0,
    error_s: float | Array = 0.0,
    spread_frac: float = 0.0,
    only: Container[str] | None = None,
) -> Array:
    """Return the seconds of priced ops and of what the engine's constants add to them, at one end.

    ``error_s`` is the half width of ``constant_s``. ``only`` holds the sources of error that are at theirs.
    """
    middle_s = np.asarray(constant_s if prices is None else prices.latency_s + constant_s, dtype=np.float64)
    if end == "middle" or not (middle_s.any() or np.any(error_s)):
        return middle_s
    sign = -1.0 if end == "low" else 1.0
    width_s = 0.0 if prices is None else prices.half_width_s(end, only)
    if (only is None or ENGINE in only) and np.any(error_s):
        width_s = np.hypot(width_s, error_s)
    shifted_s = middle_s + sign * width_s
    if not spread_frac or not (only is None or SPREAD in only):
        return shifted_s
    ratio = np.divide(shifted_s, middle_s, out=np.ones_like(middle_s), where=(middle_s > 0) & (shifted_s > 0))
    return middle_s * np.exp(sign * np.hypot(np.log(ratio), math.log1p(spread_frac)))
