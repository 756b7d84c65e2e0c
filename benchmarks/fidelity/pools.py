"""The rows of `disagg_points.csv`: deployments of two pools, each server left out of the one constant they tell.

What a request takes from one pool to the other beside its KV's way is the router's, which no kernel table holds. Rows
whose prefill workers have few requests each show it: there the difference of a first token is that constant. It is the
median of such rows of a server, and the mean of servers but the one that is replayed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Final

from benchmarks.fidelity.profile_changes import changed
from benchmarks.fidelity.rows import METRICS
from cluster_specs.errors import UserError
from simulator.calibration.evidence import TTFT
from simulator.engine_profiles.constant import Constant, error_of
from simulator.engine_profiles.engine_profile import EngineProfile, load_profile
from simulator.validation.measured_run import MeasuredRun
from simulator.validation.predict import Predictor, ValidatedRun
from simulator.validation.read_points import PointTable, TablePoint, read_point_table

MAPPING: Final = Path(__file__).parent / "servers" / "disagg_points.toml"
PEER: Final = "aic012"
_FEW: Final = 48  # requests under way per prefill worker
# Prompts of this server run products that no public table holds, twice as slow: its first tokens tell those instead.
_NOT_ITS_KERNELS: Final = "Dynamo with SGLang 0.5.8, DeepSeek-R1 FP8, B200"
_KEY: Final = "pools.hand_over_s"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRow:
    """One row: the run, and what another tool predicts of it by path."""

    run: MeasuredRun
    per_worker: float  # requests under way per prefill worker
    peer: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolServer:
    """Rows of one server, replayed as its profile is and with the constant of the others."""

    name: str
    engine: str
    rows: Sequence[PoolRow]
    as_it_is: Sequence[ValidatedRun]
    left_out: Sequence[ValidatedRun]
    own_s: float | None  # the constant its rows want; None where they tell something else
    others_s: float  # and what the others want

    def by_peer(self) -> list[ValidatedRun]:
        """Return the rows as the other tool predicts them."""
        return [
            ValidatedRun(run=row.run, predicted=row.peer, interval={}, outcome=None) for row in self.rows if row.peer
        ]


def read_pool_rows(path: Path) -> dict[str, list[PoolRow]]:
    """Read the table, by server; raises ``UserError``, for a row without a server too."""
    table = read_point_table(path, MAPPING)
    found: dict[str, list[PoolRow]] = {server.name: [] for server in table.mapping.server}
    for point, row in _rows(table):
        if point.server is None:
            raise UserError(f"{point.place} is of no server of {MAPPING}")
        found[point.server.name].append(row)
    return found


def replay_pools(path: Path, predictor: Predictor) -> list[PoolServer]:
    """Replay every row with its profile's constant, without any, and with that of the other servers."""
    servers = read_pool_rows(path)
    own: dict[str, float] = {}
    for name, rows in servers.items():
        if name != _NOT_ITS_KERNELS:
            few = [row for row in rows if row.per_worker <= _FEW]
            found = _replayed(few, predictor, 0.0)
            own[name] = median(run.run.measured[TTFT] - run.predicted[TTFT] for run in found)
    replayed = []
    for name, rows in servers.items():
        others_s = fmean(value for server, value in own.items() if server != name)
        replayed.append(
            PoolServer(
                name=name,
                engine=_profile(rows[0].run).engine,
                rows=rows,
                as_it_is=_replayed(rows, predictor, None),
                left_out=_replayed(rows, predictor, others_s),
                own_s=own.get(name),
                others_s=others_s,
            )
        )
    return replayed


def _rows(table: PointTable) -> list[tuple[TablePoint, PoolRow]]:
    found = []
    for point, run in zip(table.points, table.runs(), strict=True):
        if not isinstance(run, MeasuredRun):
            raise UserError(f"{run.place}: {run.reason}")
        workers = float(point.cells["prefill_num_workers"])
        row = PoolRow(run=run, per_worker=float(point.cells["concurrency"]) / workers, peer=_peer(point))
        found.append((point, row))
    return found


def _peer(point: TablePoint) -> dict[str, float]:
    texts = {path: point.cells[f"{PEER}_pred_{path.partition('_')[0]}_ms"] for path in METRICS}
    return {path: float(text) / 1e3 for path, text in texts.items() if text and math.isfinite(float(text))}


def _profile(run: MeasuredRun) -> EngineProfile:
    return load_profile(run.deployment.engine)


def _replayed(rows: Sequence[PoolRow], predictor: Predictor, hand_over_s: float | None) -> list[ValidatedRun]:
    """Replay rows with another constant; None: that of the profile. Raises ``UserError`` for one that cannot be."""
    found = []
    for row in rows:
        profile = _profile(row.run)
        if hand_over_s is not None and profile.pools is not None:
            error = min(hand_over_s, error_of(profile.pools.hand_over_s))
            profile = changed(profile, {_KEY: Constant(hand_over_s, error)})
        predicted = predictor.predict(row.run, profile)
        if not isinstance(predicted, ValidatedRun):
            raise UserError(f"{row.run.place}: {predicted.reason}")
        found.append(replace(predicted, outcome=None))
    return found
