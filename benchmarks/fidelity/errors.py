"""Errors of predictions, as predicted / measured - 1 in percent."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """MAPE, median, 90th percentile and signed bias over ``count`` values, in percent."""

    count: int
    mape: float
    median: float
    p90: float
    bias: float

    def __str__(self) -> str:
        return f"{self.mape:.1f} / {self.median:.1f} / {self.p90:.1f} / {self.bias:+.1f}"


def errors(predicted: Sequence[float], measured: Sequence[float]) -> Errors | None:
    """Return the errors of the pairs whose prediction is known; None where there are none."""
    pairs = np.array([[p, m] for p, m in zip(predicted, measured, strict=True) if np.isfinite(p)])
    if not len(pairs):
        return None
    error = 100.0 * (pairs[:, 0] / pairs[:, 1] - 1.0)
    return Errors(
        count=len(error),
        mape=float(np.abs(error).mean()),
        median=float(np.median(np.abs(error))),
        p90=float(np.quantile(np.abs(error), 0.9)),
        bias=float(error.mean()),
    )
