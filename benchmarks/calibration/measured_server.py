"""A measured server of `serving_points.csv` as runs that can be calibrated on: one per distinct setting."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.fidelity.rejection import rejections
from benchmarks.fidelity.replay import Row, bundled_costs_of
from benchmarks.fidelity.servers.server import ServingGroup
from cluster_specs.load import load_cluster
from simulator.calibration.evidence import TPOT, TTFT, Array, Evidence
from simulator.calibration.replays import Replayed, Replays
from simulator.calibration.unknowns import Unknown, unknowns_of
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.feasible.server_setup import Overrides
from simulator.serving import Serving
from simulator.workload.parse import parse_workload

METRICS: Final = (TTFT, TPOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredServer:
    """Distinct settings of a server, each with its repeats; rows that the rejection rules reject are left out."""

    name: str
    profile: EngineProfile
    unknowns: tuple[Unknown, ...]
    runs: tuple[Replayed, ...]
    measured: tuple[Array, ...]  # by setting: [repeats, metrics], in s

    @property
    def plans(self) -> NDArray[np.str_]:
        """The plan of each setting."""
        return np.array([str(run.layout) for run in self.runs])

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
            runs=[self.runs[place] for place in chosen],
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


def measured_server(group: ServingGroup, rows: Sequence[Row]) -> MeasuredServer:
    """Return a group's server with those of its settings that would start."""
    costs, model, profile = bundled_costs_of(group), group.model_spec(), group.engine_profile()
    own = [row for row in rows if group.holds(row)]
    rejected = rejections(own, group, model, load_cluster(f"{group.device}-8"))
    settings: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in own:
        if row["id"] not in rejected:
            key = group.plan(row), row["isl"], row["osl"], row["concurrency"].zfill(6)
            settings.setdefault(key, []).append(row)

    def opened(_clock_mhz: float | None) -> object:
        return costs

    runs, measured = [], []
    for key in sorted(settings):
        row = settings[key][0]
        workload = f"closed:isl={row['isl']},osl={row['osl']},concurrency={row['concurrency']}{group.client}"
        serving = Serving(
            model=model,
            cluster=costs.cluster,
            profile=profile,
            costs=opened,
            overrides=Overrides(**{"enable_prefix_caching": False, **group.settings(row)}),
        )
        runs.append(Replayed(serving=serving, layout=group.plan_of(row), workload=parse_workload(workload)))
        measured.append(
            np.array([[float(item["silicon_ttft_ms"]), float(item["silicon_tpot_ms"])] for item in settings[key]]) / 1e3
        )
    found = MeasuredServer(
        name=group.name, profile=profile, unknowns=unknowns_of(profile), runs=tuple(runs), measured=tuple(measured)
    )
    starts = (
        np.isfinite(found.replays(range(len(runs)))(np.zeros(len(found.unknowns)))).reshape(len(runs), -1).all(axis=1)
    )
    return MeasuredServer(
        name=found.name,
        profile=profile,
        unknowns=found.unknowns,
        runs=tuple(run for run, is_known in zip(runs, starts, strict=True) if is_known),
        measured=tuple(values for values, is_known in zip(measured, starts, strict=True) if is_known),
    )
