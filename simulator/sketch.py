"""Quantiles of a stream in bounded memory: a histogram with bins of equal ratio.

Bin k holds (g^(k-1), g^k] with g = (1 + e) / (1 - e); its value is reported as 2 g^k / (1 + g), which is off by at most
the relative error e. This is DDSketch (Masson, Rim and Lee, VLDB 2019) over a fixed range.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

_ERROR: Final = 1e-3
_RATIO: Final = (1 + _ERROR) / (1 - _ERROR)
_SMALLEST: Final = 1e-9  # anything below, zero included, shares the first bin
_LARGEST: Final = 1e9


class LogHistogram:
    """Weighted values between 1e-9 and 1e9; the mean is exact, quantiles are within 0.1 %."""

    def __init__(self) -> None:
        bins = int(np.ceil(np.log(_LARGEST / _SMALLEST) / np.log(_RATIO))) + 2
        self.weights: F64 = np.zeros(bins)
        self.total = 0.0
        self.sum = 0.0

    def add(self, values: F64, weights: F64 | None = None) -> None:
        """Count ``values`` [n], each ``weights`` [n] times (once if None)."""
        each = np.ones(len(values)) if weights is None else weights
        place = np.ceil(np.log(np.maximum(values, _SMALLEST) / _SMALLEST) / np.log(_RATIO)).astype(np.int64)
        self.weights += np.bincount(place, weights=each, minlength=len(self.weights))
        self.total += float(each.sum())
        self.sum += float((values * each).sum())

    @property
    def mean(self) -> float:
        """Exact mean, NaN without values."""
        return self.sum / self.total if self.total else float("nan")

    def quantile(self, share: float) -> float:
        """Value that ``share`` of the weight does not exceed, within 0.1 %; NaN without values."""
        if not self.total:
            return float("nan")
        place = int(np.searchsorted(np.cumsum(self.weights), share * self.total))
        return float(_SMALLEST * 2 * _RATIO**place / (1 + _RATIO))
