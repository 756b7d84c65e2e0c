"""Constants that measured calls tell: launch floors and shares of the stated peaks, each with its source and error.

Efficiencies are medians of roofline over latency (launch floor taken off) where one side of the roofline dominates;
floors are what the smallest 2 % of calls take. A constant with too few calls behind it is left out, never guessed.
"""

from typing import Final

import numpy as np

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.arrays import Array

# An efficiency is learnt from calls this many floors long, bound by one side by this factor, at least so many.
_LARGE_CALL = 10.0
_DOMINANCE = 2.0
_FEWEST = 12
_FLOOR_QUANTILE = 0.02
COMPUTE: Final = 0
MEMORY: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """One constant under ``[analytic]``; ``key`` is its place there."""

    key: str
    value: float
    source: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Measured calls: what they took, the two sides of their roofline, and where they come from."""

    latency_s: Array
    flop_s: Array
    bytes_s: Array
    source: str


def floor(key: str, calls: Calls, what: str) -> list[Calibrated]:
    """Return what the smallest calls take; nothing where there are few."""
    if len(calls.latency_s) < _FEWEST:
        return []
    low, middle, high = np.quantile(calls.latency_s, [_FLOOR_QUANTILE / 2, _FLOOR_QUANTILE, 2 * _FLOOR_QUANTILE])
    return [
        Calibrated(
            key=key,
            value=float(middle),
            source=f"fastest 2 % of {len(calls.latency_s)} {what} rows, {calls.source}",
            error=f"1 % to 4 % quantiles {low:.3g} to {high:.3g}",
        )
    ]


def efficiency(key: str, calls: Calls, side: int, what: str) -> list[Calibrated]:
    """Return the share of one side's peak (``COMPUTE`` or ``MEMORY``) that large calls bound by it reach."""
    if len(calls.latency_s) < _FEWEST:
        return []
    sides = (calls.flop_s, calls.bytes_s)
    floor_s = np.quantile(calls.latency_s, _FLOOR_QUANTILE)
    bound = (calls.latency_s > _LARGE_CALL * floor_s) & (sides[side] > _DOMINANCE * sides[1 - side])
    if np.count_nonzero(bound) < _FEWEST:
        return []
    shares = sides[side][bound] / (calls.latency_s[bound] - floor_s)
    low, middle, high = np.quantile(shares, [0.1, 0.5, 0.9])
    return [
        Calibrated(
            key=key,
            value=float(min(middle, 1.0)),
            source=f"median of {np.count_nonzero(bound)} large {what} rows, {calls.source}",
            error=f"80 % of rows lie in {low:.2f} to {high:.2f}",
        )
    ]
