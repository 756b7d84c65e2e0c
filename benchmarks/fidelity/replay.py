"""Replaying rows as `apex validate` does: each distinct setting once, under one or more variants of engine profiles."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final

from benchmarks.fidelity.profile_changes import changed, shifted
from benchmarks.fidelity.rows import Row, Setting
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.results.interval import Interval
from simulator.validation.measured_run import MeasuredRun, UnusableRun
from simulator.validation.predict import Predictor, ValidatedRun
from simulator.workload.parse import parse_workload

Changes = Mapping[str, Any]  # of an engine profile: dotted key, value
Found = tuple[Mapping[str, float], Mapping[str, Interval]] | str  # predictions and intervals by path, or why none
# Settings of one task: small enough to share the work evenly, large enough that few curves are priced twice.
_TASK_SETTINGS: Final = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to replay: ``changes`` replace values of every engine profile, ``settings`` those of every server.

    ``shifts`` are added to numbers of a profile, those of the server's name if there are any, else of its engine's.
    """

    name: str
    shifts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    changes: Changes = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    clients: Mapping[str, str] = field(default_factory=dict)  # by a server's name: appended to its closed loop
    with_interval: bool = False

    def profile_of(self, row: Row) -> EngineProfile:
        """Return the profile that the variant replays a row with."""
        shifts = self.shifts.get(row.server.name, self.shifts.get(row.engine, {}))
        return changed(shifted(row.profile, shifts), self.changes)


BASE: Final = Variant(name="as it is")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One row beside what is predicted of it; ``found`` is unusable where it is not believed, or would not start."""

    row: Row
    found: ValidatedRun | UnusableRun

    def predicted(self, path: str) -> float:
        """Return the prediction of a metric, in s; NaN where there is none."""
        return self.found.predicted[path] if isinstance(self.found, ValidatedRun) else math.nan


def validated(points: Sequence[Point]) -> list[ValidatedRun]:
    """Return the predictions of points that have one."""
    return [point.found for point in points if isinstance(point.found, ValidatedRun)]


def trusted(points: Sequence[Point]) -> list[Point]:
    """Return the points that are believed and were predicted."""
    return [point for point in points if isinstance(point.found, ValidatedRun)]


def replay(rows: Sequence[Row], variants: Sequence[Variant] = (BASE,), *, workers: int = 2) -> dict[str, list[Point]]:
    """Return the points of ``rows``, in their order, under each variant, by its name."""
    tasks = sorted(_tasks(rows, variants), key=lambda task: -task.work)
    known: dict[Setting, list[Found]] = {}
    if workers > 1 and len(tasks) > 1:
        with ProcessPoolExecutor(workers) as pool:
            for found in pool.map(_run, tasks):
                known.update(found)
    else:
        for task in tasks:
            known.update(_run(task))
    return {variant.name: [_point(row, known, place) for row in rows] for place, variant in enumerate(variants)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """A variant of one server."""

    profile: EngineProfile
    settings: Mapping[str, Any]
    client: str
    with_interval: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    runs: Mapping[Setting, tuple[MeasuredRun, str]]  # with what was sent
    ways: Sequence[_Way]

    @property
    def work(self) -> int:
        """Tokens in flight by tokens answered, which replays take their time by."""
        return sum(answer * concurrency for _, _, _, answer, concurrency in self.runs)


def _tasks(rows: Sequence[Row], variants: Sequence[Variant]) -> list[_Task]:
    """Split each server's distinct settings, those of a plan together."""
    ways: dict[str, list[_Way]] = {}
    servers: dict[str, dict[Setting, tuple[MeasuredRun, str]]] = {}
    for row in rows:
        name = row.server.name
        if name not in ways:
            ways[name] = [_way(variant, row) for variant in variants]
        if isinstance(row.run, MeasuredRun):
            servers.setdefault(name, {})[row.setting] = row.run, row.sent
    return [
        _Task(runs=dict(ordered[start : start + _TASK_SETTINGS]), ways=ways[name])
        for name, runs in servers.items()
        for ordered in [sorted(runs.items(), key=lambda item: item[0])]
        for start in range(0, len(ordered), _TASK_SETTINGS)
    ]


def _way(variant: Variant, row: Row) -> _Way:
    return _Way(
        profile=variant.profile_of(row),
        settings=variant.settings,
        client=variant.clients.get(row.server.name, ""),
        with_interval=variant.with_interval,
    )


@cache
def _predictor() -> Predictor:
    """Return the one of this process: what its tasks share is opened and priced once."""
    return Predictor()


def _run(task: _Task) -> dict[Setting, list[Found]]:
    """Replay every setting of a task in every way; ways that are alike once."""
    first = [task.ways.index(way) for way in task.ways]
    found: dict[Setting, list[Found]] = {}
    for setting, (run, sent) in task.runs.items():
        known: list[Found] = []
        for place, way in enumerate(task.ways):
            known.append(known[first[place]] if first[place] < place else _found(run, sent, way))
        found[setting] = known
    return found


def _found(run: MeasuredRun, sent: str, way: _Way) -> Found:
    deployment = replace(run.deployment, settings={**run.deployment.settings, **way.settings})
    workload = parse_workload(sent + way.client) if way.client else run.workload
    asked = replace(run, deployment=deployment, workload=workload)
    found = _predictor().predict(asked, way.profile, with_interval=way.with_interval)
    if isinstance(found, UnusableRun):
        return found.reason
    predicted, interval = (
        {path: side[path] for path in run.measured if path in side} for side in (found.predicted, found.interval)
    )
    return predicted, interval


def _point(row: Row, known: Mapping[Setting, Sequence[Found]], variant: int) -> Point:
    """Return a row beside what was found of its setting; each repeat of it has its own measurement."""
    run = row.run
    if isinstance(run, UnusableRun):
        return Point(row=row, found=run)
    found = known[row.setting][variant]
    if isinstance(found, str):
        refused = UnusableRun(name=run.name, place=run.place, reason=found, group=run.group, set=run.set)
        return Point(row=row, found=refused)
    return Point(row=row, found=ValidatedRun(run=run, predicted=found[0], interval=found[1], outcome=None))
