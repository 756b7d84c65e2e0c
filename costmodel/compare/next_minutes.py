"""What another ten minutes of measuring would buy: shapes of two steps not measured yet, at the last run's pace.

The profiler takes the shapes of the steps by their shares once every label has what a fit needs.
"""

from typing import Final

import numpy as np

from cluster_specs.lazy_dataclass import dataclass
from costmodel.compare.step_errors import widths_and_sources
from costmodel.cost_model import CostModel, Source
from profiles_db.manifest import SHARES, ShapeManifest
from profiles_db.schema import FAMILIES
from profiles_db.store import Store

_MINUTES: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class NextMinutes:
    """What ten more minutes measure: points, and of the steps' shapes first those that no row holds, by their shares.

    The fractions are of the time of a prefill and of a decode step.
    """

    points: int
    unmeasured: int
    measured_frac: tuple[float, float]
    then_frac: tuple[float, float]

    def __str__(self) -> str:
        """One sentence for a person."""
        if not self.unmeasured:
            return "Every shape of these steps is measured: more time would lower the noise alone."
        now, then = (" and ".join(f"{part:.0%}" for part in parts) for parts in (self.measured_frac, self.then_frac))
        shapes = f"{self.unmeasured} shape{'s' if self.unmeasured > 1 else ''} of these steps that no row holds"
        most = "the" if self.points >= self.unmeasured else f"{self.points} of the"
        return (
            f"Another {_MINUTES} minutes of `apex profile --manifest` reach about {self.points} points at the last "
            f"run's pace, {most} {shapes} among them: {then} of a prefill and a decode step would be "
            f"measured, {now} are."
        )


def next_minutes(manifest: ShapeManifest, costs: CostModel, pace_per_s: float) -> NextMinutes:
    """Return what ten minutes at ``pace_per_s`` points a second add to the shapes in the manifest's shares."""
    shares, measured = [], []
    for family, table in manifest.shares.items():
        shares.append(np.column_stack([table[name].to_numpy() for name in SHARES]))
        measured.append(widths_and_sources(family, table, costs)[1] == Source.MEASURED)
    share, is_measured = np.concatenate(shares), np.concatenate(measured)
    whole = share.sum(axis=0)
    points = round(pace_per_s * 60 * _MINUTES)
    unmeasured = np.flatnonzero(~is_measured)
    reached = unmeasured[np.argsort(-share[unmeasured].mean(axis=1), kind="stable")][:points]
    now = share[is_measured].sum(axis=0)
    then = (now + share[reached].sum(axis=0)) / whole
    return NextMinutes(
        points=points,
        unmeasured=len(unmeasured),
        measured_frac=(float(now[0] / whole[0]), float(now[1] / whole[1])),
        then_frac=(float(then[0]), float(then[1])),
    )


def last_pace_per_s(store: Store, device: str) -> float | None:
    """Return the points a second of the last profiling run of a device; None where every row was imported."""
    runs = [run for run in store.runs(device).to_pylist() if run["ended_at"] and run["origin"] == "measured"]
    for run in sorted(runs, key=lambda run: run["started_at"], reverse=True):
        own = {"run_id": run["run_id"], "origin": "measured"}
        tables = (store.read(family, device=device, statuses=None, where=own) for family in FAMILIES)
        points, seconds = sum(table.num_rows for table in tables), (run["ended_at"] - run["started_at"]).total_seconds()
        if points and seconds > 0:
            return float(points / seconds)
    return None
