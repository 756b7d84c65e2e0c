"""Quantiles of a stream in bounded memory: a histogram with bins of equal ratio.

With g = (1 + e) / (1 - e), a bin holds the values in (g^(k-1), g^k] and stands for 2 g^k / (1 + g), which is off by at
most the relative error e. This is DDSketch (Masson, Rim and Lee, VLDB 2019) over a fixed range; values below the range
have a bin of their own that stands for 0.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

RELATIVE_ERROR: Final = 1e-3
_RATIO: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_SMALLEST: Final = 1e-12  # the engine's clock counts no less
_LARGEST: Final = 1e9


class LogHistogram:
    """Weighted values between 1e-12 and 1e9, or 0; the mean is exact, quantiles are within ``RELATIVE_ERROR``."""

    def __init__(self) -> None:
        bins = int(np.ceil(np.log(_LARGEST / _SMALLEST) / np.log(_RATIO))) + 2
        self.weights: F64 = np.zeros(bins)
        self.total = 0.0
        self.sum = 0.0

    def add(self, values: F64, weights: F64 | None = None) -> None:
        """Count ``values`` [n], each ``weights`` [n] times (once if None)."""
        each = np.ones(len(values)) if weights is None else weights
        power = np.ceil(np.log(np.maximum(values, _SMALLEST) / _SMALLEST) / np.log(_RATIO))
        place = np.where(values < _SMALLEST, 0, 1 + power).astype(np.int64)
        self.weights += np.bincount(place, weights=each, minlength=len(self.weights))
        self.total += float(each.sum())
        self.sum += float((values * each).sum())

    @property
    def mean(self) -> float:
        """Exact mean, NaN without values."""
        return self.sum / self.total if self.total else float("nan")

    def quantile(self, share: float) -> float:
        """Smallest value that ``share`` of the weight does not exceed; NaN without values."""
        return self._reached(share * self.total) if self.total else float("nan")

    def quantile_between(self, share: float) -> float:
        """Quantile of values of weight 1, linear between the two ranks next to it as NumPy's is; NaN without values."""
        if not self.total:
            return float("nan")
        rank = (self.total - 1.0) * share
        low, high = self._reached(np.floor(rank) + 1.0), self._reached(np.ceil(rank) + 1.0)
        return low + (high - low) * (rank - float(np.floor(rank)))

    def _reached(self, weight: float) -> float:
        """Value at which the summed weight reaches ``weight``."""
        place = int(np.searchsorted(np.cumsum(self.weights), weight))
        return 0.0 if place == 0 else float(_SMALLEST * 2 * _RATIO ** (place - 1) / (1 + _RATIO))
