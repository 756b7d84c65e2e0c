"""Replaying measured runs: the very requests that a server was sent, as its client sent them."""

import math
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any, Final

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from cluster_specs.load import load_cluster
from costmodel.cost_model import CostModel
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.feasible.server_setup import Overrides
from simulator.pools.disaggregation import PoolsResult, PoolStarts
from simulator.pools.layouts import Outcome, Started, replay_layout, start_layout, with_layout_interval
from simulator.results.interval import Interval
from simulator.results.metric_spellings import STATISTICS
from simulator.results.metrics import Distribution
from simulator.results.objective import metric_paths, read_metric
from simulator.results.token_gaps import gap_distribution
from simulator.serving import CostSource, Refusal, Serving
from simulator.steps.op_curves import OpCurves
from simulator.validation.deployment import Deployment
from simulator.validation.measured_run import MeasuredRun, UnusableRun

# Clients pool single gaps; a simulation's own quantiles are of requests' mean gaps (docs/decisions/0065).
_GAP_QUANTILES: Final = tuple(f"itl_s.{statistic}" for statistic in STATISTICS if statistic != "mean")
_NO_GAPS: Final = (
    "quantiles of ITL are not predicted: single gaps are known without preemption, drafts, pipeline stages and tokens "
    "that are sent together only"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatedRun:
    """A measured run beside its prediction: metrics by path, their 90 % intervals, and the simulation behind them.

    ``outcome`` is None where the simulation was let go of.
    """

    run: MeasuredRun
    predicted: Mapping[str, float]
    interval: Mapping[str, Interval]  # [low, high] by path
    outcome: Outcome | None
    notes: tuple[str, ...] = ()

    def error_frac(self, path: str) -> float | None:
        """Return predicted / measured - 1; None where either is not known or nothing was measured to compare with."""
        measured, predicted = self.run.measured.get(path), self.predicted.get(path)
        if measured is None or predicted is None or not measured > 0:
            return None
        return predicted / measured - 1

    def is_covered(self, path: str) -> bool | None:
        """Whether the interval holds what was measured; None where either is not known."""
        measured, interval = self.run.measured.get(path), self.interval.get(path)
        return None if measured is None or interval is None else interval[0] <= measured <= interval[1]


@dataclass(slots=True)
class Predictor:
    """Predicts runs one after the other; what they share is opened and priced once.

    Op curves are shared by all profiles that price an op alike, so that variants of host times cost a replay alone.
    """

    _servings: dict[str, Serving] = field(default_factory=dict)
    _costs: dict[Any, CostModel] = field(default_factory=dict)
    _curves: dict[Any, dict[float | None, OpCurves]] = field(default_factory=dict)

    def serving(self, deployment: Deployment, profile: EngineProfile | None = None) -> Serving:
        """Return the server of a deployment, under ``profile`` in place of its own."""
        whose = replace(deployment, plan="", settings={})  # what is read is that of every layout and setting
        like = self._servings.get(repr(whose))
        if like is None:
            like = self._servings.setdefault(repr(whose), whose.serving(costs=self._cost_source(whose)))
        own = profile or like.profile
        key = (
            *_prices(deployment),
            own.engine,
            own.mxfp4_experts.tile_rows_on(like.cluster.device),
            own.sustained_load.slowdown_frac,
        )
        return replace(
            like,
            profile=own,
            overrides=Overrides(**deployment.settings),
            priced=self._curves.setdefault(key, {}),
        )

    def predict(
        self, run: MeasuredRun, profile: EngineProfile | None = None, *, with_interval: bool = True
    ) -> ValidatedRun | UnusableRun:
        """Replay a run; one whose plan the engine would not start, or cannot be modelled, is unusable for that reason.

        ``with_interval`` costs two more replays; without it, quantiles of ITL are not predicted either. Raises
        ``UserError`` where the deployment itself cannot be read.
        """
        serving, layout = self.serving(run.deployment, profile), run.deployment.layout()
        try:
            started = start_layout(serving, layout, run.workload)
            if isinstance(started, Refusal):
                return _unusable(run, f"plan {layout} cannot start: {started.reason}")
            if (contradiction := _too_many_blocks(run, started)) is not None:
                return _unusable(run, contradiction)
            has_gaps = with_interval and any(path in run.measured for path in _GAP_QUANTILES)
            outcome = replay_layout(serving, started, run.workload, log=has_gaps)
            outcome, gaps = _without_log(outcome)
            if with_interval:
                outcome = with_layout_interval(serving, outcome, run.workload)
        except UserError as error:
            return _unusable(run, str(error))
        if (rejected := outcome.metrics["rejected"]) != {}:
            counts = ", ".join(f"{count} {reason}" for reason, count in rejected.items())
            return _unusable(run, f"the simulated server does not answer all requests that the real one did: {counts}")
        predicted = _predicted(outcome.metrics, run.client_lead_s)
        interval = _intervals(outcome, run.client_lead_s)
        for path in _GAP_QUANTILES:
            of_means, ends = predicted.pop(path, None), interval.pop(path, None)
            if gaps is None or of_means is None:
                continue
            predicted[path] = getattr(gaps, path.partition(".")[2])
            if ends is not None:  # single gaps are off by what the steps are off by, as their means are
                interval[path] = ends[0] * predicted[path] / of_means, ends[1] * predicted[path] / of_means
        return ValidatedRun(
            run=run,
            predicted=predicted,
            interval=interval,
            outcome=outcome,
            notes=(*outcome.notes, *serving.notes(run.workload), *([] if gaps or not has_gaps else [_NO_GAPS])),
        )

    def _cost_source(self, deployment: Deployment) -> CostSource:
        def opened(clock_mhz: float | None) -> CostModel:
            key = (*_prices(deployment), clock_mhz)
            if key not in self._costs:
                self._costs[key] = deployment.cost_source(load_cluster(deployment.cluster))(clock_mhz)
            return self._costs[key]

        return opened


def predict_run(run: MeasuredRun, profile: EngineProfile | None = None) -> ValidatedRun | UnusableRun:
    """Replay one run, with its intervals; several are predicted faster by one `Predictor`."""
    return Predictor().predict(run, profile)


def _too_many_blocks(run: MeasuredRun, started: Started) -> str | None:
    """Why the KV blocks that the server told are not those of this model and device, if their memory has no room."""
    blocks = run.server.num_gpu_blocks
    if blocks is None or isinstance(started, PoolStarts):
        return None
    memory = started.memory
    needed = memory.weights_bytes + blocks * memory.block_bytes
    if needed <= memory.device_bytes:
        return None
    return (
        f"its server's {blocks:,} KV blocks take {blocks * memory.block_bytes / 2**30:.1f} GiB beside "
        f"{memory.weights_bytes / 2**30:.1f} GiB of weights, a device has {memory.device_bytes / 2**30:.1f} GiB: it "
        "ran another model, KV format, layout or device"
    )


def _without_log(outcome: Outcome) -> tuple[Outcome, Distribution | None]:
    """Take the gaps between tokens out of a run's log, and let go of the log."""
    if isinstance(outcome, PoolsResult) or outcome.run is None:
        return outcome, None
    gaps = gap_distribution(outcome.run)
    return replace(outcome, run=replace(outcome.run, log=None)), gaps


def _prices(deployment: Deployment) -> tuple[Any, ...]:
    return deployment.cluster, deployment.costs, deployment.out_of_domain


def _unusable(run: MeasuredRun, reason: str) -> UnusableRun:
    return UnusableRun(name=run.name, place=run.place, reason=reason)


def _predicted(metrics: Mapping[str, object], lead_s: float) -> dict[str, float]:
    """Return every metric by its path; rates over the client's own duration."""
    found = {path: value for path in metric_paths() if (value := read_metric(metrics, path)) is not None}
    return {path: _over_duration(path, value, found["duration_s"], lead_s) for path, value in found.items()}


def _intervals(outcome: Outcome, lead_s: float) -> dict[str, Interval]:
    duration_s = read_metric(outcome.metrics, "duration_s") or math.nan
    return {
        path: (_over_duration(path, low, duration_s, lead_s), _over_duration(path, high, duration_s, lead_s))
        for path, (low, high) in (outcome.interval or {}).items()
    }


def _over_duration(path: str, value: float, duration_s: float, lead_s: float) -> float:
    """Return a metric of a span as one of the span with the client's lead."""
    if path == "duration_s":
        return value + lead_s
    if path.startswith("throughput_"):
        return value * duration_s / (duration_s + lead_s)
    return value
