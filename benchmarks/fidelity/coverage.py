"""How often 90 % intervals hold what was measured, and how wide they are; every server counts the same."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulator.validation.predict import ValidatedRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Share of runs inside, the same with equal weight for each server, and the median half width over the middle."""

    runs: int
    inside: float
    inside_by_server: float
    half_width: float


def coverage(runs: Sequence[ValidatedRun], path: str) -> Coverage | None:
    """Return the coverage of the metric at ``path``; None where no run has an interval of it."""
    inside: dict[str, list[bool]] = {}
    widths = []
    for run in runs:
        is_covered = run.is_covered(path)
        if is_covered is not None:
            low, high = run.interval[path]
            inside.setdefault(run.run.group, []).append(is_covered)
            widths.append((high - low) / 2 / run.predicted[path])
    if not widths:
        return None
    return Coverage(
        runs=len(widths),
        inside=float(np.mean([held for own in inside.values() for held in own])),
        inside_by_server=float(np.mean([np.mean(own) for own in inside.values()])),
        half_width=float(np.median(widths)),
    )
