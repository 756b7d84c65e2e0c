"""Latencies of all requests of a run beside those of its replay: quantiles, and how far the distributions lie apart."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from simulator.results.metrics import request_latencies_s
from simulator.simulate import SimulatedPlan
from simulator.validation.predict import ValidatedRun

Array = NDArray[np.float64]

QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_LATENCIES: Final = ("ttft_s", "tpot_s", "e2e_s")
_FEWEST: Final = 2
_ONE_IN_TWENTY: Final = 1.358  # of the limiting distribution of the Kolmogorov-Smirnov statistic


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyDistribution:
    """One latency of a run in seconds, sorted: ``measured`` [n] and ``predicted`` [m].

    ``ks_distance`` is the largest distance between the two empirical distribution functions; two samples of one
    distribution and these sizes lie further apart than ``ks_by_chance`` in one case of twenty.
    """

    metric: str
    measured: Array
    predicted: Array

    @property
    def title(self) -> str:
        """What people call the latency."""
        return self.metric.removesuffix("_s").upper()

    @property
    def ks_distance(self) -> float:
        """Kolmogorov-Smirnov distance, 0 to 1."""
        both = np.concatenate([self.measured, self.predicted])
        shares = [np.searchsorted(side, both, side="right") / len(side) for side in (self.measured, self.predicted)]
        return float(np.abs(shares[0] - shares[1]).max())

    @property
    def ks_by_chance(self) -> float:
        """Distance that chance exceeds in one case of twenty."""
        n, m = len(self.measured), len(self.predicted)
        return _ONE_IN_TWENTY * math.sqrt((n + m) / (n * m))

    def quantiles(self) -> list[tuple[float, float, float]]:
        """Return (share of requests, measured, predicted) of each of ``QUANTILES``."""
        sides = [np.quantile(side, QUANTILES).tolist() for side in (self.measured, self.predicted)]
        return list(zip(QUANTILES, *sides, strict=True))

    def to_json(self) -> dict[str, object]:
        """Plain values; docs/reference/outputs.md documents them."""
        return {
            "measured_requests": len(self.measured),
            "predicted_requests": len(self.predicted),
            "ks_distance": self.ks_distance,
            "ks_by_chance": self.ks_by_chance,
            "quantiles": [
                {"share": share, "measured_s": measured, "predicted_s": predicted}
                for share, measured, predicted in self.quantiles()
            ],
        }


def distributions(run: ValidatedRun) -> list[LatencyDistribution]:
    """Return the distributions of a run whose requests are known one by one; none of any other."""
    requests, outcome = run.run.requests, run.outcome
    if requests is None or not isinstance(outcome, SimulatedPlan) or outcome.run is None:
        return []
    predicted, counted = request_latencies_s(outcome.run), outcome.run.measured
    found = []
    for name in _LATENCIES:
        sides = _known(getattr(requests, name)[counted]), _known(predicted[name][counted])
        if min(map(len, sides)) >= _FEWEST:
            found.append(LatencyDistribution(metric=name, measured=sides[0], predicted=sides[1]))
    return found


def _known(values: Array) -> Array:
    return np.sort(values[np.isfinite(values)])
