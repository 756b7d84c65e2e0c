"""A measured server of `serving_points.csv` as runs that can be calibrated on: one per distinct setting."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.fidelity.rows import Row, Setting
from simulator.calibration.evidence import TPOT, TTFT, Array, Evidence
from simulator.calibration.replays import Replayed, Replays
from simulator.calibration.unknowns import Unknown, unknowns_of
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.validation.measured_run import MeasuredRun
from simulator.validation.predict import Predictor

METRICS: Final = (TTFT, TPOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredServer:
    """Distinct settings of a server, each with its repeats; rows that the mapping does not believe are left out."""

    name: str
    profile: EngineProfile
    unknowns: tuple[Unknown, ...]
    runs: tuple[MeasuredRun, ...]  # the first repeat of each setting
    replayed: tuple[Replayed, ...]  # the same as replays take them
    measured: tuple[Array, ...]  # by setting: [repeats, metrics], in s
    predictor: Predictor

    @property
    def plans(self) -> NDArray[np.str_]:
        """The plan of each setting."""
        return np.array([str(run.layout) for run in self.replayed])

    def evidence(self, chosen: Sequence[int]) -> Evidence:
        """Return what the first repeat of each chosen setting measured."""
        count = len(METRICS)
        return Evidence(
            runs=np.repeat(np.arange(len(chosen)), count),
            plans=np.repeat(self.plans[list(chosen)], count),
            metrics=np.tile(np.array(METRICS), len(chosen)),
            log_measured=np.log(np.concatenate([self.measured[place][0] for place in chosen])),
        )

    def replays(self, chosen: Sequence[int], shared: Replays | None = None) -> Replays:
        """Return what predicts the chosen settings; op curves are those of ``shared``."""
        found = Replays(
            runs=[self.replayed[place] for place in chosen],
            metrics=[METRICS] * len(chosen),
            profile=self.profile,
            unknowns=self.unknowns,
        )
        if shared is not None:
            found.priced = shared.priced
        return found

    def errors(self, log_predicted: Array, chosen: Sequence[int]) -> Array:
        """Return predicted / measured - 1 of every row of the chosen settings, [rows, metrics]."""
        by_setting = np.exp(log_predicted).reshape(len(chosen), len(METRICS))
        return np.concatenate(
            [predicted / self.measured[place] - 1 for predicted, place in zip(by_setting, chosen, strict=True)]
        )


def measured_server(rows: Sequence[Row]) -> MeasuredServer:
    """Return the server of ``rows`` with those of its settings that would start."""
    settings: dict[Setting, list[MeasuredRun]] = {}
    for row in rows:
        if isinstance(row.run, MeasuredRun):
            settings.setdefault(row.setting, []).append(row.run)
    predictor, profile = Predictor(), rows[0].profile
    repeats = [settings[setting] for setting in sorted(settings)]
    runs = [same[0] for same in repeats]
    found = MeasuredServer(
        name=rows[0].server.name,
        profile=profile,
        unknowns=unknowns_of(profile),
        runs=tuple(runs),
        replayed=tuple(
            Replayed(serving=predictor.serving(run.deployment), layout=run.deployment.layout(), workload=run.workload)
            for run in runs
        ),
        measured=tuple(np.array([[run.measured[path] for path in METRICS] for run in same]) for same in repeats),
        predictor=predictor,
    )
    zero = np.zeros(len(found.unknowns))
    starts = np.isfinite(found.replays(range(len(runs)))(zero)).reshape(len(runs), -1).all(axis=1)
    return replace(
        found,
        runs=tuple(itertools.compress(found.runs, starts)),
        replayed=tuple(itertools.compress(found.replayed, starts)),
        measured=tuple(itertools.compress(found.measured, starts)),
    )
