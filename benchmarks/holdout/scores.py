"""Errors of the product's prices, of the forest and of the lines, on the same held-out points."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.holdout.baselines import by_forest, by_lines
from benchmarks.holdout.points import Points
from benchmarks.holdout.split import QUESTIONS, SEEN
from costmodel.cost_model import CostModel
from costmodel.families.all import OP_FAMILIES
from costmodel.families.rows import iter_row_ops
from costmodel.ops.arrays import Array

MOST_ASKED: Final = 3_000
FEWEST_JUDGED: Final = 200
# How much worse than the better baseline the product may be, in per cent of the time.
ALLOWED: Final = 0.3
COVERED: Final = (0.87, 0.93)
# Decode calls that set the time of a step, whose intervals are asked for separately.
LONG_S: Final = 50e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Errors of one format under one question: |ln(predicted / measured)| in per cent, and the share covered."""

    device: str
    family: str
    name: str
    question: str
    points: int
    product: tuple[float, float]  # median and 90th percentile
    forest: tuple[float, float]
    lines: tuple[float, float]
    coverage: float

    @property
    def is_met(self) -> tuple[bool, bool]:
        """Whether median and 90th percentile are no worse than the better baseline's, by more than is allowed."""
        better = [min(np.nan_to_num(pair, nan=np.inf)) for pair in zip(self.forest, self.lines, strict=True)]
        return tuple(own <= best + ALLOWED for own, best in zip(self.product, better, strict=True))  # type: ignore[return-value]

    @property
    def is_covered(self) -> bool:
        """Whether the 90 % interval holds about that often."""
        return COVERED[0] <= self.coverage <= COVERED[1]


def iter_scores(device: str, points: Points, costs: CostModel, kept: Path) -> Iterator[Score]:
    """Yield the score of each question; what the baselines say is kept below ``kept``, they do not change."""
    for code, question in QUESTIONS.items():
        asked = np.flatnonzero(points.held_out == code)
        if len(asked) > MOST_ASKED:
            asked = np.sort(np.random.default_rng(0).choice(asked, MOST_ASKED, replace=False))
        if not len(asked) or not np.any(points.held_out == SEEN):
            continue
        part = points.take(asked)
        baselines = _baselines(points, asked, kept / f"{points.family}-{points.name.replace('|', '-')}-{question}.npz")
        predicted, is_covered = prices(part, costs)
        measured = np.log(part.latency_s)
        longer = {"": np.ones(len(asked), dtype=np.bool_)}
        if points.name.startswith("decode") and question == "shapes":
            longer[f" above {LONG_S * 1e6:.0f} us"] = part.latency_s > LONG_S
        for more, own in longer.items():
            if not own.any():
                continue
            yield Score(
                device=device,
                family=points.family,
                name=points.name + more,
                question=question,
                points=int(np.count_nonzero(own)),
                product=_summary((predicted - measured)[own]),
                forest=_summary((baselines["forest"] - measured)[own]),
                lines=_summary((baselines["lines"] - measured)[own]),
                coverage=float(np.mean(is_covered[own])),
            )


def prices(points: Points, costs: CostModel) -> tuple[Array, NDArray[np.bool_]]:
    """Return ln of the product's prices, and whether each interval holds what was measured."""
    log_s, is_covered = np.full(len(points.latency_s), np.nan), np.zeros(len(points.latency_s), dtype=np.bool_)
    for op, rows in iter_row_ops(OP_FAMILIES[points.family], points.columns, costs.cluster):
        found = costs.predict(op)
        measured_s = points.latency_s[rows]
        log_s[rows] = np.log(found.latency_s)
        is_covered[rows] = (found.low_s <= measured_s) & (measured_s <= found.high_s)
    return log_s, is_covered


def _summary(error: Array) -> tuple[float, float]:
    """Median and 90th percentile of |error| in per cent, over the points that have one."""
    size = 100.0 * np.abs(error[~np.isnan(error)])
    if not len(size):
        return float("nan"), float("nan")
    return float(np.median(size)), float(np.quantile(size, 0.9))


def _baselines(points: Points, asked: NDArray[np.int64], file: Path) -> Mapping[str, Array]:
    measured_s = points.latency_s[asked]
    if file.exists():
        with np.load(file) as found:
            if np.array_equal(found["measured_s"], measured_s):
                return {name: found[name] for name in ("forest", "lines")}
    seen = points.take(points.held_out == SEEN)
    part = points.take(asked)
    made = {"forest": by_forest(seen, part), "lines": by_lines(seen, part)}
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, measured_s=measured_s, **made)
    return made
