"""How well a fitted model stands against what was measured: held-out errors, and transfer across clocks.

Held-out errors answer the questions of `costmodel.fitting.holdout` (a point left out, the largest octave left out, a
shape left out). Transfer across clocks prices every point measured at a lower clock from the points of the highest
clock alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from cluster_specs.cluster import ClusterSpec
from cluster_specs.lazy_dataclass import dataclass
from costmodel.compare.curves_to_draw import measured_rows_of, op_of, point_name
from costmodel.fit_file.contents import Artefact
from costmodel.fitted.knots import Errors, FamilyKnots, with_labels
from costmodel.fitted.reference import REGIMES
from costmodel.fitted_costs import FittedCosts
from costmodel.fitting.holdout import held_out_errors_of_fit
from costmodel.ops.arrays import Array
from costmodel.ops.label import Label

QUESTION_NAMES: Final[Mapping[str, str]] = {
    "point": "point left out",
    "octave": "largest octave left out",
    "shape": "shape left out",
    "sibling": "shape left out, siblings known",
}


def held_out_rows(artefact: Artefact) -> list[dict[str, Any]]:
    """Return the artefact's held-out errors as table rows.

    ``median_log`` and ``p90_log`` are of |ln(predicted / measured)|, ``bias_log`` is the mean of the signed logarithm.
    """
    families = list(artefact.families)
    questions = list(QUESTION_NAMES)
    regions = ["all", *REGIMES]
    ordered = sorted(
        artefact.held_out,
        key=lambda row: (
            families.index(row.family),
            row.label,
            questions.index(row.question),
            regions.index(row.regime),
        ),
    )
    return [
        {
            "family": row.family,
            "label": row.label,
            "held_out": QUESTION_NAMES[row.question],
            "region": row.regime,
            "points": row.points,
            "median_log": row.median,
            "p90_log": row.p90,
            "bias_log": row.bias,
            "coverage_frac": None if np.isnan(row.coverage) else row.coverage,
        }
        for row in ordered
    ]


def overall(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows over all regions, without that column."""
    return [{k: v for k, v in row.items() if k != "region"} for row in rows if row["region"] == "all"]


def individual_errors(
    artefact: Artefact, cluster: ClusterSpec, families: Sequence[str]
) -> dict[str, dict[str, Errors]]:
    """Return ln(predicted / measured) of every held-out point, per family and question."""
    chosen = {name: artefact.families[name] for name in families}
    return {name: held_out_errors_of_fit(knots, measured_rows_of(knots, cluster)) for name, knots in chosen.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockTransfer:
    """Points of one label measured at ``clock_mhz`` and at ``reference_mhz``, and what was predicted of the former."""

    family: str
    label: Label
    reference_mhz: float
    clock_mhz: Array
    reference_s: Array
    measured_s: Array
    predicted_s: Array
    name: tuple[str, ...]  # what was run

    @property
    def log_error(self) -> Array:
        """ln(predicted / measured)."""
        return np.asarray(np.log(self.predicted_s / self.measured_s))


def clock_transfers(artefact: Artefact, cluster: ClusterSpec) -> list[ClockTransfer]:
    """Predict every lower clock from the highest; empty unless some label was measured at two locked clocks."""
    found = []
    for knots in artefact.families.values():
        clocks: dict[Label, list[int]] = {}
        for label in knots.labels:
            if label.clock_mhz is not None:
                clocks.setdefault(label.at(None), []).append(label.clock_mhz)
        found += [
            _transfer(artefact, knots, base, sorted(own), cluster) for base, own in clocks.items() if len(own) > 1
        ]
    return [transfer for transfer in found if transfer.name]


def _transfer(
    artefact: Artefact, knots: FamilyKnots, base: Label, clocks: list[int], cluster: ClusterSpec
) -> ClockTransfer:
    top = with_labels(knots, [base.at(clocks[-1])])
    known = {
        (*top.shape[shape].tolist(), x, y): latency
        for shape in range(top.num_shapes)
        for x, y, latency in _points(top, shape)
    }
    columns: dict[str, list[float]] = {name: [] for name in ("clock", "reference", "measured", "predicted")}
    names: list[str] = []
    alone = replace(artefact, families={knots.family: top})
    for clock in clocks[:-1]:
        costs = FittedCosts(alone, cluster, clock)
        for shape in knots.of_label(base.at(clock)).tolist():
            head = tuple(knots.shape[shape].tolist())
            points = [(x, y, t) for x, y, t in _points(knots, shape) if (*head, x, y) in known]
            if not points:
                continue
            x, y, latency_s = (np.array(column) for column in zip(*points, strict=True))
            predicted = costs.predict(op_of(knots, shape, x, y, cluster)).latency_s
            columns["clock"] += [float(clock)] * len(x)
            columns["reference"] += [known[(*head, a, b)] for a, b, _ in points]
            columns["measured"] += latency_s.tolist()
            columns["predicted"] += predicted.tolist()
            names += [point_name(knots, shape, a, b) for a, b, _ in points]
    return ClockTransfer(
        family=knots.family,
        label=base,
        reference_mhz=float(clocks[-1]),
        clock_mhz=np.array(columns["clock"]),
        reference_s=np.array(columns["reference"]),
        measured_s=np.array(columns["measured"]),
        predicted_s=np.array(columns["predicted"]),
        name=tuple(names),
    )


def _points(knots: FamilyKnots, shape: int) -> list[tuple[float, float, float]]:
    own = knots.rows(shape)
    rows = zip(knots.x[own].tolist(), knots.y[own].tolist(), knots.latency_s[own].tolist(), strict=True)
    return [(x, y, latency) for x, y, latency in rows if not np.isnan(latency)]


def clock_rows(transfers: list[ClockTransfer]) -> list[dict[str, Any]]:
    """Return the error of pricing a clock from the highest one, per family, label and clock."""
    rows = []
    for transfer in transfers:
        for clock in np.unique(transfer.clock_mhz).tolist():
            error = transfer.log_error[transfer.clock_mhz == clock]
            rows.append(
                {
                    "family": transfer.family,
                    "label": transfer.label.text,
                    "from_mhz": transfer.reference_mhz,
                    "to_mhz": clock,
                    "points": len(error),
                    "median_log": float(np.median(np.abs(error))),
                    "p90_log": float(np.quantile(np.abs(error), 0.9)),
                    "bias_log": float(error.mean()),
                }
            )
    return rows
