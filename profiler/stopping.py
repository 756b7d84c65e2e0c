"""When a measurement has seen enough: the confidence interval of the median, or a cap on time.

The interval needs no distribution: with n sorted samples x, the median lies between the order statistics
x[l] and x[u], l = floor((n - z sqrt(n)) / 2), u = ceil((n + z sqrt(n)) / 2), with the confidence of the normal
quantile z (Conover, Practical Nonparametric Statistics, section 3.2).
"""

import math
from bisect import insort
from dataclasses import field
from statistics import NormalDist
from typing import Protocol

from cluster_specs.lazy_dataclass import dataclass


class StoppingRule(Protocol):
    """Decides after each sample whether a measurement goes on; a fresh one per measurement."""

    def add(self, sample_s: float, spent_s: float) -> None:
        """Take one sample and the wall time it cost."""

    @property
    def reason(self) -> str | None:
        """Why to stop, None to go on."""


@dataclass(slots=True, kw_only=True)
class MedianConfidence:
    """Stop when half the median's interval is within ``relative`` of it, or when ``max_s`` of wall time is spent.

    ``min_s`` keeps a quiet stretch of a few milliseconds from settling the matter.
    """

    relative: float = 0.01
    confidence: float = 0.95
    min_samples: int = 10
    min_s: float = 0.0
    max_s: float = 0.5
    _sorted: list[float] = field(default_factory=list)
    _spent_s: float = 0.0

    def add(self, sample_s: float, spent_s: float) -> None:
        """Take one sample and the wall time it cost."""
        insort(self._sorted, sample_s)
        self._spent_s += spent_s

    @property
    def half_width(self) -> float:
        """Half the interval relative to the median; infinite below ``min_samples``."""
        count = len(self._sorted)
        if count < self.min_samples:
            return math.inf
        low, high = median_interval(count, self.confidence)
        return (self._sorted[high] - self._sorted[low]) / 2 / self._sorted[count // 2]

    @property
    def reason(self) -> str | None:
        """``settled`` when the interval is tight, ``time`` when the cap is reached first."""
        if self._spent_s >= self.min_s and self.half_width <= self.relative:
            return "settled"
        # Two samples are the least from which a spread can be told at all.
        if self._spent_s >= self.max_s and len(self._sorted) >= 2:
            return "time"
        return None


def median_interval(count: int, confidence: float) -> tuple[int, int]:
    """Return indices of the order statistics that enclose the median of ``count`` sorted samples."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    spread = z * math.sqrt(count)
    return max(0, math.floor((count - spread) / 2)), min(count - 1, math.ceil((count + spread) / 2))
