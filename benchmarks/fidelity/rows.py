"""The rows of `serving_points.csv` as measured runs, read as `apex validate --mapping` reads them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster_specs.errors import UserError
from simulator.calibration.evidence import TPOT, TTFT
from simulator.engine_profiles.engine_profile import EngineProfile, load_profile
from simulator.validation.deployment import Deployment
from simulator.validation.measured_run import MeasuredRun, UnusableRun
from simulator.validation.point_mapping import TableServer
from simulator.validation.predict import ValidatedRun
from simulator.validation.read_points import PointTable, TablePoint, read_point_table

MAPPING: Final = Path(__file__).parent / "servers" / "serving_points.toml"
METRICS: Final = {TPOT: "TPOT", TTFT: "TTFT"}  # what every row measured: path, title
ENGINES: Final = {"vllm": "vLLM", "sglang": "SGLang", "tensorrt-llm": "TensorRT-LLM"}  # as profiles name them
PEERS: Final = {"aic012": "aiconfigurator 0.12", "aisim013": "AISimulate 0.13"}  # columns begin with, name

Setting = tuple[str, str, int, int, int]  # server, plan, prompt and answer tokens, concurrency


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row; ``run`` is unusable where a rule of the mapping says that it is not believed."""

    point: TablePoint
    server: TableServer
    profile: EngineProfile
    deployment: Deployment
    sent: str  # what the server was sent, as --trace takes it
    run: MeasuredRun | UnusableRun
    setting: Setting
    devices: int

    @property
    def engine(self) -> str:
        """The engine, as ``ENGINES`` names it."""
        return self.profile.engine

    def measured(self, path: str) -> float:
        """Return what was measured of a metric of ``METRICS``, in s."""
        return self.point.measured[path]

    def peer(self, path: str, column: str) -> float:
        """Return another tool's prediction of the same, in s; NaN where it has none."""
        text = self.point.cells[f"{column}_pred_{path.partition('_')[0]}_ms"]
        return float(text) / 1e3 if text else math.nan

    def predicted_by(self, column: str) -> ValidatedRun | None:
        """Return the row beside what another tool predicts of it; None where it is not believed."""
        if isinstance(self.run, UnusableRun):
            return None
        known = {path: value for path in METRICS if math.isfinite(value := self.peer(path, column))}
        return ValidatedRun(run=self.run, predicted=known, interval={}, outcome=None)


def read_rows(path: Path) -> list[Row]:
    """Read the table, in the order of the mapping's servers; raises ``UserError``, for a row of no server as well."""
    table = read_point_table(path, MAPPING)
    profiles: dict[str, EngineProfile] = {}
    rows = [_row(table, point, run, profiles) for point, run in zip(table.points, table.runs(), strict=True)]
    order = {server.name: place for place, server in enumerate(table.mapping.server)}
    return sorted(rows, key=lambda row: order[row.server.name])


def _row(
    table: PointTable, point: TablePoint, run: MeasuredRun | UnusableRun, profiles: dict[str, EngineProfile]
) -> Row:
    server = point.server
    if server is None:
        raise UserError(f"{point.place}: is of no server of {MAPPING}", hint="state it under [[server]]")
    deployment = table.deployment(point)
    if deployment.engine not in profiles:
        profiles[deployment.engine] = load_profile(deployment.engine)
    prompt, answer, concurrency = (int(point.values[name]) for name in ("isl", "osl", "concurrency"))
    return Row(
        point=point,
        server=server,
        profile=profiles[deployment.engine],
        deployment=deployment,
        sent=table.workload(point),
        run=run,
        setting=(server.name, deployment.plan, prompt, answer, concurrency),
        devices=deployment.layout().num_devices,
    )
