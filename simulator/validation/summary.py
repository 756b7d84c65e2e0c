"""How predictions of many runs stand to what was measured: errors, bias, coverage, order, and one sentence."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from simulator.validation.predict import ValidatedRun

# What a verdict speaks of, in words; the other metrics are in the tables.
_JUDGED: Final = {"ttft_s.mean": "TTFT", "tpot_s.mean": "TPOT", "e2e_s.mean": "E2E"}
_JUDGED_OTHERWISE: Final = {"itl_s.mean": "ITL", "throughput_tokens_per_s": "throughput"}
_FEWEST_TO_RANK: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One metric over ``runs`` runs; errors are predicted / measured - 1, as fractions."""

    runs: int
    mape_frac: float  # mean of the absolute errors
    median_frac: float  # of the absolute errors
    p90_frac: float  # likewise: nine of ten are smaller
    bias_frac: float  # mean of the errors
    worst_frac: float  # the error that is largest in size
    worst_run: str
    coverage_frac: float | None  # share of measured values inside their 90 % interval
    rank_correlation: float | None  # Spearman's; None for fewer than three runs, or where all are alike
    kendall: float | None  # Kendall's tau-b, likewise


def agreements(runs: Sequence[ValidatedRun]) -> dict[str, Agreement]:
    """Return the agreement of every metric that was measured and predicted, by its path."""
    paths = dict.fromkeys(path for run in runs for path in run.run.measured)
    found = {path: agreement(runs, path) for path in paths}
    return {path: value for path, value in found.items() if value is not None}


def agreement(runs: Sequence[ValidatedRun], path: str) -> Agreement | None:
    """Return the agreement of the metric at ``path``; None where no run has it on both sides."""
    known = [(run, error) for run in runs if (error := run.error_frac(path)) is not None]
    if not known:
        return None
    errors = np.array([error for _, error in known])
    worst = int(np.argmax(np.abs(errors)))
    covered = [inside for run, _ in known if (inside := run.is_covered(path)) is not None]
    sides = (
        np.array([run.run.measured[path] for run, _ in known]),
        np.array([run.predicted[path] for run, _ in known]),
    )
    return Agreement(
        runs=len(known),
        mape_frac=float(np.abs(errors).mean()),
        median_frac=float(np.median(np.abs(errors))),
        p90_frac=float(np.quantile(np.abs(errors), 0.9)),
        bias_frac=float(errors.mean()),
        worst_frac=float(errors[worst]),
        worst_run=known[worst][0].run.name,
        coverage_frac=float(np.mean(covered)) if covered else None,
        rank_correlation=rank_correlation(*sides),
        kendall=kendall(*sides),
    )


def rank_correlation(measured: NDArray[np.float64], predicted: NDArray[np.float64]) -> float | None:
    """Return Spearman's rank correlation of two series [n], equal values sharing their mean rank."""
    if len(measured) < _FEWEST_TO_RANK or np.ptp(measured) == 0 or np.ptp(predicted) == 0:
        return None
    return float(np.corrcoef(_ranks(measured), _ranks(predicted))[0, 1])


def kendall(measured: NDArray[np.float64], predicted: NDArray[np.float64]) -> float | None:
    """Return Kendall's tau-b of two series [n]: pairs in the same order less those in the other, ties taken off."""
    if len(measured) < _FEWEST_TO_RANK or np.ptp(measured) == 0 or np.ptp(predicted) == 0:
        return None
    sums = np.zeros(3)
    for one, other in zip(measured, predicted, strict=True):
        orders = np.sign(one - measured), np.sign(other - predicted)
        sums += [orders[0] @ orders[1], orders[0] @ orders[0], orders[1] @ orders[1]]
    return float(sums[0] / np.sqrt(sums[1] * sums[2]))


def verdict(runs: Sequence[ValidatedRun], unusable: int = 0) -> str:
    """Say in one sentence how far off the predictions are; ``unusable`` runs were not predicted."""
    if not runs:
        return f"none of {unusable} runs could be predicted"
    judged = {name: found for path, name in _JUDGED.items() if (found := agreement(runs, path)) is not None}
    judged = judged or {
        name: found for path, name in _JUDGED_OTHERWISE.items() if (found := agreement(runs, path)) is not None
    }
    left = f"; {unusable} more could not be predicted" if unusable else ""
    if not judged:
        return f"nothing that was measured of {_counted(len(runs))} is predicted{left}"
    if len(runs) == 1:
        parts = [f"{name} is predicted {_off(found.worst_frac)}" for name, found in judged.items()]
    else:
        parts = [f"{name} is off by {found.mape_frac:.1%} in the mean" for name, found in judged.items()]
    told = [found for found in judged.values() if found.coverage_frac is not None]
    inside = round(sum(found.runs * (found.coverage_frac or 0.0) for found in told))
    total = sum(found.runs for found in told)
    cover = f", and {inside} of {total} measured values lie within their 90 % intervals" if told else ""
    over = "" if len(runs) == 1 else f"over {len(runs)} runs "
    return f"{over}{_listed(parts)}{cover}{left}"


def _off(error_frac: float) -> str:
    return f"{abs(error_frac):.1%} too {'high' if error_frac >= 0 else 'low'}"


def _counted(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place], dtype=np.float64)
