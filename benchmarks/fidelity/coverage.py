"""How often 90 % intervals hold what was measured, and how wide they are; every server counts the same."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.fidelity.replay import Point


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Share of rows inside, the same with equal weight for each server, and the median half width over the middle."""

    rows: int
    inside: float
    inside_by_server: float
    half_width: float


def coverage(points: Sequence[Point], metric: str) -> Coverage | None:
    """Return the coverage of ``metric``; None where no point has an interval."""
    known = [point for point in points if np.isfinite(point.interval(metric)).all()]
    if not known:
        return None
    ends = np.array([point.interval(metric) for point in known])
    measured = np.array([point.measured(metric) for point in known])
    inside = (ends[:, 0] <= measured) & (measured <= ends[:, 1])
    servers = np.array([point.group.name for point in known])
    own = np.array([point.own(metric) for point in known])
    return Coverage(
        rows=len(known),
        inside=float(inside.mean()),
        inside_by_server=float(np.mean([inside[servers == name].mean() for name in np.unique(servers)])),
        half_width=float(np.median((ends[:, 1] - ends[:, 0]) / 2 / own)),
    )
