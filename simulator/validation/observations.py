"""What of a measured run is compared with a replay: means over the run, or over groups of its requests.

Where requests are known one by one, those with like prompts that waited alike in the prediction are a group: an error
that grows with the prompt, with the wait or with neither then shows in one run. Groups are formed by what was asked and
predicted, never by what was measured.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from simulator.engine.result import EngineResult
from simulator.results.metrics import request_latencies_s
from simulator.validation.measured_run import MeasuredRun

Array = NDArray[np.float64]

# Relative standard deviation of one mean: twice what repeats of public servers lie apart (docs/accuracy.md), since a
# replay of a closed loop jumps as well where a batch forms otherwise.
_NOISE: Final = {"ttft_s": 0.06, "tpot_s": 0.02, "e2e_s": 0.02}
_FEWEST: Final = 12  # requests of a group
_MOST_PARTS: Final = 3  # groups by prompt, and of each by wait
_SPREAD_TO_SPLIT: Final = 1.25  # ninth decile over first of what groups are told apart by


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The mean of a latency over some requests of a run; ``requests`` None: over all that the client counts."""

    metric: str  # ttft_s, tpot_s or e2e_s
    measured_s: float
    shared_frac: float  # one standard deviation of what is off in all observations of a run and metric alike
    own_frac: float = 0.0  # and of what is off in this one alone
    requests: NDArray[np.int64] | None = None

    def of(self, result: EngineResult) -> float:
        """Return the mean over the same requests of a replay in seconds; NaN where one was not answered."""
        values = request_latencies_s(result)[self.metric]
        if self.requests is not None:
            return float(values[self.requests].mean())
        counted = values[result.measured & result.is_finished]
        return float(np.nanmean(counted)) if np.isfinite(counted).any() else math.nan


def observations(run: MeasuredRun, predicted: EngineResult) -> list[Observation]:
    """Return what a run tells: of each latency a mean, or one of each group of requests."""
    found = _groups(run, predicted)
    if found:
        return found
    means = {name: run.measured[path] for name in _NOISE if (path := f"{name}.mean") in run.measured}
    if {"ttft_s", "tpot_s"} <= set(means):
        means.pop("e2e_s", None)  # it is their sum
    return [
        Observation(metric=name, measured_s=value, shared_frac=_NOISE[name])
        for name, value in means.items()
        if value > 0
    ]


def _groups(run: MeasuredRun, predicted: EngineResult) -> list[Observation]:
    requests = run.requests
    if requests is None or len(requests) != len(predicted) or len(requests) < _FEWEST:
        return []
    latencies = request_latencies_s(predicted)
    prompts = predicted.prompt_tokens.astype(np.float64)
    keys = {
        "ttft_s": (prompts, latencies["queue_s"], requests.ttft_s),
        "tpot_s": (prompts + predicted.output_tokens / 2, latencies["tpot_s"], requests.tpot_s),
    }
    found = []
    for name, (first, second, measured) in keys.items():
        known = np.isfinite(measured) & (measured > 0) & np.isfinite(latencies[name])
        usable = np.flatnonzero(known & predicted.measured)
        groups = [group for part in _split(usable, first) for group in _split(part, second) if len(group) >= _FEWEST]
        found += [_observation(name, group, measured[group], latencies[name][group]) for group in groups]
    return found


def _split(members: NDArray[np.int64], by: Array) -> list[NDArray[np.int64]]:
    """Part ``members`` into up to three groups of like values; one where they hardly differ or are few."""
    if len(members) < 2 * _FEWEST:
        return [members]
    low, high = np.quantile(by[members], (0.1, 0.9))
    if high <= _SPREAD_TO_SPLIT * low or not high > 0:
        return [members]
    order = members[np.argsort(by[members], kind="stable")]
    return list(np.array_split(order, min(_MOST_PARTS, len(members) // _FEWEST)))


def _observation(name: str, group: NDArray[np.int64], measured: Array, predicted: Array) -> Observation:
    """Weigh a group by how far its requests' own errors let its mean stray."""
    stray = float(np.std(measured - predicted)) / math.sqrt(len(group)) / float(measured.mean())
    return Observation(
        metric=name,
        measured_s=float(measured.mean()),
        shared_frac=_NOISE[name],
        own_frac=math.hypot(_NOISE[name] / 2, stray),
        requests=group,
    )


def whitening(runs: Sequence[Sequence[Observation]]) -> Array:
    """Return the matrix [n, n] that turns the differences of all runs into independent ones of standard deviation 1.

    What a run is off by as a whole says nothing: ten groups of its requests do not make it surer.
    """
    observed = [(number, one) for number, run in enumerate(runs) for one in run]
    places = [(number, one.metric) for number, one in observed]
    alike = np.array([[place == other for other in places] for place in places])
    shared = np.array([one.shared_frac for _, one in observed])
    covariance = alike * np.outer(shared, shared) + np.diag([one.own_frac**2 for _, one in observed])
    return np.asarray(np.linalg.inv(np.linalg.cholesky(covariance)), dtype=np.float64)


def logs(observed: Sequence[Observation], predicted: Sequence[float] | Array) -> Array:
    """Return log(measured / predicted) [n]."""
    return np.array([math.log(one.measured_s / value) for one, value in zip(observed, predicted, strict=True)])
