"""Whether the machine stayed the same: a share of the run's points measured once more at the end."""

import math
import random
import statistics
from collections.abc import Sequence
from typing import Final

from profiler.bench import Bench
from profiler.point import Point
from profiler.run import Run

_SHARE: Final = 0.05
_FEWEST: Final = 3
_MOST: Final = 50


def measure_drift(run: Run, bench: Bench, timed: Sequence[tuple[Point, float]], *, seed: int) -> list[float]:
    """Repeat 5 % of this rank's points; returns every rank's log ratios of second to first time.

    The repeats check the run and are not stored. All ranks call it together.
    """
    count = min(max(_FEWEST, math.ceil(_SHARE * len(timed))), _MOST, len(timed))
    ratios = []
    for point, first_s in random.Random(seed).sample(list(timed), count):  # noqa: S311 - not a secret
        if run.is_over():
            break
        (row, *_) = bench.measure(point)
        if row["status"] == "ok":
            ratios.append(math.log(row["latency_s"] / first_s))
    return [ratio for part in run.ranks.collect(ratios) for ratio in part]


def drift_frac(ratios: Sequence[float]) -> float | None:
    """Median relative change, signed; None without repeats."""
    return math.expm1(statistics.median(ratios)) if ratios else None
