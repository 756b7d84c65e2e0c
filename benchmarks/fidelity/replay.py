"""Replaying one group of measured rows: each distinct setting once, with one cost model."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fidelity.groups import ServingGroup
from benchmarks.fidelity.rejection import rejections
from costmodel.cost_model import CostModel
from simulator.feasible.server_setup import Overrides
from simulator.model.load_model import load_model
from simulator.serving import Refusal, Serving
from simulator.simulate import replay
from simulator.steps.op_curves import OpCurves
from simulator.workload.parse import parse_workload

Row = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measured run beside what two predictors say of it; NaN where a predictor could not."""

    row: Row
    plan: str
    ttft_s: float
    tpot_s: float
    rejected: str | None
    refused: str | None = None

    @property
    def measured_ttft_s(self) -> float:
        """Mean over requests."""
        return float(self.row["silicon_ttft_ms"]) / 1e3

    @property
    def measured_tpot_s(self) -> float:
        """Mean over requests."""
        return float(self.row["silicon_tpot_ms"]) / 1e3

    def peer(self, name: str) -> float:
        """Return aiconfigurator's own prediction of ``ttft`` or ``tpot``, in s."""
        text = self.row[f"aic012_pred_{name}_ms"]
        return float(text) / 1e3 if text else float("nan")


def read_points(path: Path) -> list[Row]:
    """Read the rows of `serving_points.csv`."""
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def replay_group(rows: Sequence[Row], group: ServingGroup, costs: CostModel) -> list[Point]:
    """Replay the rows of ``group`` among ``rows``."""
    own = [row for row in rows if group.holds(row)]
    cluster, model, profile = costs.cluster, load_model(group.model), group.engine_profile()
    rejected = rejections(own, group, model, cluster)
    priced: dict[float | None, OpCurves] = {}
    known: dict[tuple[str, ...], tuple[float, float, str | None]] = {}
    points = []
    for row in own:
        plan = group.plan_of(row)
        key = (str(plan), row["isl"], row["osl"], row["concurrency"])
        if key not in known:
            serving = Serving(
                model=model,
                cluster=cluster,
                profile=profile,
                costs=lambda _clock: costs,
                overrides=Overrides(enable_prefix_caching=False, **group.settings(row)),
                priced=priced,
            )
            workload = parse_workload(
                f"closed:isl={row['isl']},osl={row['osl']},concurrency={row['concurrency']}{group.client}"
            )
            start = serving.start(plan, workload)
            if isinstance(start, Refusal):
                known[key] = (float("nan"), float("nan"), start.reason)
            else:
                metrics = replay(serving, start, workload).metrics
                known[key] = (metrics["ttft_s"]["mean"], metrics["tpot_s"]["mean"], None)
        ttft_s, tpot_s, refused = known[key]
        points.append(
            Point(
                row=row,
                plan=str(plan),
                ttft_s=ttft_s,
                tpot_s=tpot_s,
                rejected=rejected.get(row["id"]),
                refused=refused,
            )
        )
    return points
