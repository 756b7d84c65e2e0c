"""Replaying measured servers: each distinct setting once, under one or more variants of the engine profiles.

What variants share is computed once: op curves are priced anew only where a variant changes more than host times.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from benchmarks.fidelity.profile_changes import changed, shifted
from benchmarks.fidelity.rejection import rejections
from benchmarks.fidelity.servers.server import Row, ServingGroup, number
from cluster_specs.load import load_cluster
from costmodel.bundled_fits import choose_costs
from costmodel.cost_model import CostModel
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.feasible.server_setup import Overrides
from simulator.results.interval import Interval
from simulator.serving import Refusal, Serving
from simulator.simulate import replay, with_interval
from simulator.steps.op_curves import OpCurves
from simulator.workload.parse import parse_workload

Changes = Mapping[str, Any]  # of an engine profile: dotted key, value
Costs = Callable[[ServingGroup], CostModel]
# Settings of one task: small enough to share the work evenly, large enough that few curves are priced twice.
_TASK_SETTINGS: Final = 24
_NAN: Final = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to replay: ``changes`` replace values of every engine profile, ``settings`` those of every server.

    ``shifts`` are added to numbers of a profile, those of the group's name if there are any, else of its engine's.
    """

    name: str
    shifts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    changes: Changes = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    clients: Mapping[str, str] = field(default_factory=dict)  # by a group's name: appended to its closed loop
    with_interval: bool = False

    def profile_of(self, group: ServingGroup) -> EngineProfile:
        """Return the profile that the variant replays a group with."""
        shifts = self.shifts.get(group.name, self.shifts.get(group.engine, {}))
        return changed(shifted(group.engine_profile(), shifts), self.changes)


BASE: Final = Variant(name="as it is")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Mean times of one setting with their 90 % intervals (NaN where they were not asked for), or why it is refused."""

    ttft_s: float = _NAN
    tpot_s: float = _NAN
    ttft_interval_s: Interval = (_NAN, _NAN)
    tpot_interval_s: Interval = (_NAN, _NAN)
    refused: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measured run beside what is predicted of it."""

    row: Row
    group: ServingGroup
    plan: str
    devices: int
    prediction: Prediction
    rejected: str | None

    @property
    def ttft_s(self) -> float:
        """Predicted mean over requests; NaN where refused."""
        return self.prediction.ttft_s

    @property
    def tpot_s(self) -> float:
        """Predicted mean over requests; NaN where refused."""
        return self.prediction.tpot_s

    @property
    def refused(self) -> str | None:
        """Why the simulator would not start the plan."""
        return self.prediction.refused

    @property
    def measured_ttft_s(self) -> float:
        """Mean over requests."""
        return float(self.row["silicon_ttft_ms"]) / 1e3

    @property
    def measured_tpot_s(self) -> float:
        """Mean over requests."""
        return float(self.row["silicon_tpot_ms"]) / 1e3

    def own(self, metric: str) -> float:
        """Return what is predicted of ``ttft`` or ``tpot``, in s."""
        return float(getattr(self.prediction, f"{metric}_s"))

    def interval(self, metric: str) -> Interval:
        """Return the 90 % interval of ``ttft`` or ``tpot``, in s."""
        low, high = getattr(self.prediction, f"{metric}_interval_s")
        return float(low), float(high)

    def measured(self, metric: str) -> float:
        """Return the measured ``ttft`` or ``tpot``, in s."""
        return self.measured_ttft_s if metric == "ttft" else self.measured_tpot_s

    def peer(self, metric: str, column: str = "aic012") -> float:
        """Return another tool's prediction of ``ttft`` or ``tpot``, in s; NaN where it has none."""
        text = self.row[f"{column}_pred_{metric}_ms"]
        return float(text) / 1e3 if text else _NAN

    def setting(self) -> tuple[str, int, int, str, int]:
        """Return what tells one setting from another: server, lengths, plan, concurrency."""
        isl, osl, concurrency = (number(self.row, name) for name in ("isl", "osl", "concurrency"))
        return self.group.name, isl, osl, self.plan, concurrency


def read_points(path: Path) -> list[Row]:
    """Read the rows of `serving_points.csv`."""
    with path.open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["silicon_ttft_ms"] and row["silicon_tpot_ms"]]


@cache
def bundled(device: str) -> CostModel:
    """Return what an installed package prices a node of eight such devices with."""
    return choose_costs(None, load_cluster(f"{device}-8"))


def bundled_costs_of(group: ServingGroup) -> CostModel:
    """Return what an installed package prices the group's servers with."""
    return bundled(group.device)


def replay_groups(
    rows: Sequence[Row],
    groups: Sequence[ServingGroup],
    variants: Sequence[Variant] = (BASE,),
    *,
    costs: Costs = bundled_costs_of,
    workers: int = 2,
) -> dict[str, list[Point]]:
    """Return the points of all ``groups`` under each variant, by its name; rows of other groups are left out."""
    tasks = [
        _Task(group=group, rows=part, variants=tuple(variants), costs=costs)
        for group in groups
        for part in _parts([row for row in rows if group.holds(row)], group)
    ]
    tasks.sort(key=lambda task: -sum(number(row, "concurrency") * number(row, "osl") for row in task.rows))
    known: dict[tuple[str, Setting], tuple[Prediction, ...]] = {}
    if workers > 1 and len(tasks) > 1:
        with ProcessPoolExecutor(workers) as pool:
            for found in pool.map(_run, tasks):
                known.update(found)
    else:
        for task in tasks:
            known.update(_run(task))
    points: dict[str, list[Point]] = {variant.name: [] for variant in variants}
    for group in groups:
        own = [row for row in rows if group.holds(row)]
        if not own:
            continue
        rejected = rejections(own, group, group.model_spec(), load_cluster(f"{group.device}-8"))
        for row in own:
            plan = group.plan_of(row)
            for variant, prediction in zip(variants, known[group.name, _setting(row, group)], strict=True):
                points[variant.name].append(
                    Point(
                        row=row,
                        group=group,
                        plan=str(plan),
                        devices=plan.num_devices,
                        prediction=prediction,
                        rejected=rejected.get(row["id"]),
                    )
                )
    return points


Setting = tuple[str, str, str, str]


def _setting(row: Row, group: ServingGroup) -> Setting:
    return group.plan(row), row["isl"], row["osl"], row["concurrency"]


def _parts(rows: Sequence[Row], group: ServingGroup) -> list[tuple[Row, ...]]:
    """Split a group's distinct settings into tasks, those of a plan together."""
    distinct = {_setting(row, group): row for row in rows}
    ordered = [distinct[setting] for setting in sorted(distinct)]
    return [tuple(ordered[at : at + _TASK_SETTINGS]) for at in range(0, len(ordered), _TASK_SETTINGS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    group: ServingGroup
    rows: tuple[Row, ...]
    variants: tuple[Variant, ...]
    costs: Costs


def _run(task: _Task) -> dict[tuple[str, Setting], tuple[Prediction, ...]]:
    """Replay every setting of a task under every variant."""
    group, costs = task.group, task.costs(task.group)
    profiles = [variant.profile_of(group) for variant in task.variants]
    curves: list[tuple[EngineProfile, dict[float | None, OpCurves]]] = []
    priced = [_shared(profile, curves) for profile in profiles]
    alike = [_first_alike(task.variants, profiles, index) for index in range(len(profiles))]
    found = {}
    for row in task.rows:
        predictions: list[Prediction] = []
        for index, (variant, profile, known) in enumerate(zip(task.variants, profiles, priced, strict=True)):
            if alike[index] < index:
                predictions.append(predictions[alike[index]])
                continue
            serving = Serving(
                model=group.model_spec(),
                cluster=costs.cluster,
                profile=profile,
                costs=lambda _clock: costs,
                overrides=Overrides(**{"enable_prefix_caching": False, **group.settings(row), **variant.settings}),
                priced=known,
            )
            predictions.append(_predicted(serving, group, row, variant))
        found[group.name, _setting(row, group)] = tuple(predictions)
    return found


def _first_alike(variants: Sequence[Variant], profiles: Sequence[EngineProfile], index: int) -> int:
    """Return the first variant that replays this group just as the one at ``index`` does."""
    own = variants[index]
    return next(
        at
        for at, (variant, profile) in enumerate(zip(variants, profiles, strict=True))
        if profile == profiles[index]
        and (variant.settings, variant.clients, variant.with_interval) == (own.settings, own.clients, own.with_interval)
    )


def _shared(
    profile: EngineProfile, curves: list[tuple[EngineProfile, dict[float | None, OpCurves]]]
) -> dict[float | None, OpCurves]:
    """Return the curves of a profile that differs from this one in host times only, else new ones."""
    for other, known in curves:
        if profile.model_copy(update={"host": other.host}) == other:
            return known
    curves.append((profile, {}))
    return curves[-1][1]


def _predicted(serving: Serving, group: ServingGroup, row: Row, variant: Variant) -> Prediction:
    lengths = f"closed:isl={row['isl']},osl={row['osl']},concurrency={row['concurrency']}"
    workload = parse_workload(f"{lengths}{group.client}{variant.clients.get(group.name, '')}")
    start = serving.start(group.plan_of(row), workload)
    if isinstance(start, Refusal):
        return Prediction(refused=start.reason)
    result = replay(serving, start, workload)
    times = {"ttft_s": result.metrics["ttft_s"]["mean"], "tpot_s": result.metrics["tpot_s"]["mean"]}
    if not variant.with_interval:
        return Prediction(**times)
    ends = with_interval(serving, result, workload).interval or {}
    return Prediction(**times, ttft_interval_s=ends["ttft_s.mean"], tpot_interval_s=ends["tpot_s.mean"])
