"""Runs of one server as they are replayed over and over: the server once, its profile as often as is asked."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import field, replace

import numpy as np

from cluster_specs.lazy_dataclass import dataclass
from simulator.calibration.evidence import Array
from simulator.calibration.unknowns import Unknown, profile_at
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.pools.disaggregation import PoolStarts
from simulator.pools.layouts import Layout, replay_layout, start_layout
from simulator.results.objective import read_metric
from simulator.serving import Refusal, Serving
from simulator.simulate import client_metrics
from simulator.steps.op_curves import OpCurves
from simulator.workload.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One run: its server, its layout, and what its client sent."""

    serving: Serving
    layout: Layout
    workload: Workload
    client_lead_s: float = 0.0  # of the client's duration, before its first request


@dataclass(slots=True)
class Replays:
    """Predicts the same numbers of the same runs under one profile after the other.

    Op curves are shared by profiles that differ in host times and price factors alone.
    """

    runs: Sequence[Replayed]
    metrics: Sequence[Sequence[str]]  # paths, by run
    profile: EngineProfile
    unknowns: Sequence[Unknown]
    priced: dict[tuple[int, float], dict[float | None, OpCurves]] = field(default_factory=dict, repr=False)
    _known: dict[tuple[int, tuple[float, ...]], list[float]] = field(default_factory=dict)

    def with_unknowns(self, unknowns: Sequence[Unknown]) -> "Replays":
        """Return what predicts the same runs, moved by other unknowns; op curves are shared."""
        return replace(self, unknowns=unknowns, _known={})

    def __call__(self, moves: Array) -> Array:
        """Return predicted logarithms, run after run; NaN where the plan would not start or does not answer all."""
        profile = profile_at(self.profile, self.unknowns, moves.tolist())
        key = tuple(moves.tolist())
        return np.log([value for place in range(len(self.runs)) for value in self._predicted(place, key, profile)])

    def _predicted(self, place: int, key: tuple[float, ...], profile: EngineProfile) -> list[float]:
        known = self._known.get((place, key))
        if known is None:
            known = self._known[place, key] = self._replayed(place, profile)
        return known

    def serving(self, place: int, profile: EngineProfile) -> Serving:
        """Return the server of a run under a profile."""
        run = self.runs[place]
        priced = self.priced.setdefault((id(run.serving.costs), profile.sustained_load.slowdown_frac), {})
        return replace(run.serving, profile=profile, priced=priced)

    def _replayed(self, place: int, profile: EngineProfile) -> list[float]:
        run, wanted = self.runs[place], self.metrics[place]
        serving = self.serving(place, profile)
        started = start_layout(serving, run.layout, run.workload)
        if isinstance(started, Refusal):
            return [math.nan] * len(wanted)
        if isinstance(started, PoolStarts):
            metrics = replay_layout(serving, started, run.workload).metrics
        else:
            metrics = client_metrics(started, run.workload)
        if metrics["rejected"]:
            return [math.nan] * len(wanted)
        return [_value(metrics, path, run.client_lead_s) for path in wanted]


def _value(metrics: Mapping[str, object], path: str, lead_s: float) -> float:
    value = read_metric(metrics, path)
    duration_s = read_metric(metrics, "duration_s")
    if value is None or duration_s is None:
        return math.nan
    return value * duration_s / (duration_s + lead_s) if path.startswith("throughput_") else value
