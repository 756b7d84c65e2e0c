"""Half widths of 90 % intervals, learnt from servers that were left out: the [spread] table of an engine profile.

An interval holds the errors of prices and constants; what a left-out server is further off is the spread. Its width is
the smallest with which nine of ten rows are inside, every server with the same weight; for TTFT the spread of steps is
already in the interval. The own part of a plan is what is left when the median of its server is taken off.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.fidelity.replay import Point

_LEVEL: Final = 0.90


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """Relative half width of the spread, the part of it that is each plan's own, and the servers behind it."""

    whole: float
    own: float
    servers: int


def width(points: Sequence[Point], metric: str) -> Width:
    """Return the spread of ``metric`` that left-out ``points`` want beside the intervals they have."""
    known = [point for point in points if np.isfinite(point.interval(metric)).all()]
    names = sorted({point.group.name for point in known})
    if not known:
        return Width(whole=math.nan, own=math.nan, servers=0)
    needs, owns, weights = [], [], []
    for name in names:
        rows = [point for point in known if point.group.name == name]
        errors = np.array([math.log(point.measured(metric) / point.own(metric)) for point in rows])
        ends = np.log(np.array([point.interval(metric) for point in rows]) / [[point.own(metric)] for point in rows])
        needs += list(_missing(errors, ends))
        owns += list(_missing(errors - np.median(errors), ends))
        weights += [1.0 / len(rows)] * len(rows)
    return Width(
        whole=math.expm1(_quantile(needs, weights)),
        own=math.expm1(min(_quantile(owns, weights), _quantile(needs, weights))),
        servers=len(names),
    )


def _missing(errors: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return what each error wants in quadrature beside the half width on its side."""
    half = np.where(errors > 0, ends[:, 1], -ends[:, 0])
    return np.sqrt(np.maximum(0.0, errors**2 - half**2))


def _quantile(values: Sequence[float], weights: Sequence[float]) -> float:
    order = np.argsort(values)
    share = np.cumsum(np.array(weights)[order])
    return float(np.array(values)[order][np.searchsorted(share, _LEVEL * share[-1])])
