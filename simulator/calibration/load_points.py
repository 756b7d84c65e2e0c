"""Where a server's runs tell of a load what no constant does, and how far that reaches: a kernel learnt from servers.

    log factor(tokens, ranks) ~ Gaussian process of deviation ``sd``, k as in `engine_profiles.load_factors`

Points stand at the steps that a run is made of: one decoding for all that are under way, one with a prompt. The factor
is a sum of kernels on the points, with weights of covariance sd^2 K^-1; as moves of deviation one, weights are sd L^-T
moves, where K = L L^T. So drawn, a run says nothing of loads that are far from its own.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from cluster_specs.lazy_dataclass import dataclass
from simulator.calibration.replays import Replays
from simulator.calibration.unknowns import Unknown
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.engine_profiles.load_factors import LoadFactors, LoadPoint, nearness
from simulator.pools.layouts import start_layout
from simulator.serving import StartedPlan
from simulator.simulate import client_metrics

_ALIKE: Final = 0.9  # points that a kernel joins as much are one
_NUGGET: Final = 0.05  # of a point's variance, so that near ones do not fight each other
_SOURCE: Final = "runs of the server"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadKernel:
    """Deviation of the factor's logarithm, and its reach in octaves of tokens and of ranks."""

    sd: float = 0.06
    tokens_octaves: float = 0.84
    ranks_octaves: float = 0.84

    def of(self, profile: EngineProfile) -> "LoadKernel":
        """Return the kernel with the reach of the points that a profile has already; as it is where it has none."""
        own = profile.load_factors
        if not own.points:
            return self
        return replace(self, tokens_octaves=own.tokens_octaves, ranks_octaves=own.ranks_octaves)

    def joins(self, one: LoadPoint, other: LoadPoint) -> float:
        """Return how much the factor at a point says of that at another, 0 to 1."""
        tokens, ranks = np.log2(one.tokens / other.tokens), np.log2(one.ranks / other.ranks)
        return float(nearness(tokens, ranks, self.tokens_octaves, self.ranks_octaves))


# As public servers have it, see docs/calibration.md: errors there are with what the others say.
LEARNT: Final = LoadKernel()


def load_points(replays: Replays, kernel: LoadKernel) -> list[LoadPoint]:
    """Return the steps that runs are made of, each once; none of runs on two pools."""
    found: list[LoadPoint] = []
    for place in range(len(replays.runs)):
        for point in points_of(replays, place):
            if all(kernel.joins(point, other) < _ALIKE for other in found):
                found.append(point)
    return sorted(found, key=lambda point: (point.ranks, point.tokens))


def points_of(replays: Replays, place: int) -> list[LoadPoint]:
    """Return the steps of the run at ``place``: one that decodes for all requests under way, one with a mean prompt."""
    run = replays.runs[place]
    started = start_layout(replays.serving(place, replays.profile), run.layout, run.workload)
    if not isinstance(started, StartedPlan):
        return []
    metrics, plan = client_metrics(started, run.workload), started.plan
    waits_s = metrics["e2e_s"]["mean"] - metrics["queue_s"]["mean"]
    running = metrics["throughput_requests_per_s"] * waits_s / (plan.dp * plan.attention_dp)
    prompt = min(run.workload.mean_prompt_tokens, started.limits.max_num_batched_tokens)
    tokens = [max(1, round(value)) for value in (running, prompt) if math.isfinite(value)]
    return [LoadPoint(tokens=count, ranks=plan.stage_ranks, weight=0.0) for count in tokens]


def load_unknowns(points: Sequence[LoadPoint], kernel: LoadKernel) -> tuple[Unknown, ...]:
    """Return an independent unknown per point, each of deviation one."""
    if not points:
        return ()
    joined = np.array([[kernel.joins(one, other) for other in points] for one in points])
    root = np.linalg.cholesky(joined + _NUGGET * np.eye(len(points)))
    weights = kernel.sd * np.linalg.inv(root).T  # a column for each unknown
    return tuple(
        Unknown(
            key=f"load_factors.{place}",
            value=0.0,
            error=1.0,
            is_factor=False,
            load=LoadFactors(
                tokens_octaves=kernel.tokens_octaves,
                ranks_octaves=kernel.ranks_octaves,
                points=[
                    point.model_copy(update={"weight": float(weight)})
                    for point, weight in zip(points, column, strict=True)
                ],
                source=_SOURCE,
            ),
        )
        for place, column in enumerate(weights.T)
    )
