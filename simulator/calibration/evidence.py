"""What runs of a server say, as numbers with what each may be off by for reasons no constant stands for.

    residual = log(predicted / measured) = slopes . moves + e_run + e_plan

``e_run`` holds the noise of a repeat (public servers: 1.7 % of TPOT, 3.7 % of TTFT, mean of absolute differences) and
what is special about a load; ``e_plan`` what all runs of a plan share. Together they are about the ``own`` parts of the
spread that profiles state.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass

Array = NDArray[np.float64]

# Standard deviations of the logarithm, by metric: of a run, and of a plan.
_TPOT: Final = (0.03, 0.02)
_TTFT: Final = (0.05, 0.04)
TTFT: Final = "ttft_s.mean"
TPOT: Final = "tpot_s.mean"
ITL: Final = "itl_s.mean"
E2E: Final = "e2e_s.mean"
RATE: Final = "throughput_tokens_per_s"


def telling_metrics(known: Sequence[str]) -> list[str]:
    """Return the metrics of a run that say something the others do not.

    E2E is TTFT and the steps behind it, ITL is TPOT but for how tokens are sent, and a rate follows from E2E.
    """
    found = [TTFT] if TTFT in known else []
    found += [name for name in (TPOT, ITL) if name in known][:1]
    if len(found) < 2 and E2E in known:
        found.append(E2E)
    return found or [name for name in (RATE,) if name in known]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One number per run and metric: the logarithm of what was measured, with its run, plan and metric."""

    runs: NDArray[np.int64]
    plans: NDArray[np.str_]
    metrics: NDArray[np.str_]
    log_measured: Array

    def __len__(self) -> int:
        return len(self.runs)

    def covariance(self) -> Array:
        """Return the covariance of what no constant explains."""
        return covariance(self.plans, self.metrics)

    def without(self, run: int) -> NDArray[np.bool_]:
        """Return which numbers are of other runs."""
        return np.asarray(self.runs != run)


def covariance(plans: NDArray[np.str_], metrics: NDArray[np.str_]) -> Array:
    """Return the covariance of residuals, [numbers, numbers]: of each alone, and of a plan's metric together."""
    widths = _widths(metrics)
    alike = (plans[:, None] == plans[None, :]) & (metrics[:, None] == metrics[None, :])
    return np.asarray(np.diag(widths[:, 0] ** 2) + alike * np.outer(widths[:, 1], widths[:, 1]))


def own_variance(metrics: NDArray[np.str_]) -> Array:
    """Return the variance of each number that no other shares, [numbers]: the noise of a run."""
    return np.asarray(_widths(metrics)[:, 0] ** 2)


def _widths(metrics: NDArray[np.str_]) -> Array:
    return np.array([_TTFT if metric == TTFT else _TPOT for metric in metrics]).reshape(-1, 2)
