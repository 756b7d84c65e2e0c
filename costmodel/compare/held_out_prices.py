"""What a fit says of each of its own points without that point: the price of a call as if it had not been measured.

A curve or grid through a point proves nothing about it, so the point's residual is replaced by what its neighbours say
(the question *point* of `costmodel.fitting.holdout`) and its latency is forgotten. Everything else of a price follows
as usual: the reference, the trend and the interval stay those of the whole fit, which rest on all points of a label.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from costmodel.compare.curves_to_draw import measured_rows_of
from costmodel.families.all import OP_FAMILIES
from costmodel.fit_file.contents import Artefact
from costmodel.fitted.knots import FamilyKnots
from costmodel.fitted_costs import FittedCosts
from costmodel.fitting.holdout import without_point
from costmodel.ops.arrays import Array
from costmodel.ops.label import Label


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutPoints:
    """Every measured point of a family; arrays are [points], ``row`` is its knot and ``shape`` its shape's number.

    ``log_error`` is ln(predicted / measured) of the point from the others, NaN where none lie on both sides of it.
    """

    knots: FamilyKnots
    row: NDArray[np.int64]
    shape: NDArray[np.int64]
    regime: NDArray[np.int8]
    measured_s: Array
    log_error: Array

    @property
    def is_known(self) -> NDArray[np.bool_]:
        """Whether the point has a price without it."""
        return ~np.isnan(self.log_error)

    @property
    def predicted_s(self) -> Array:
        """Price without the point, NaN where there is none."""
        return np.asarray(self.measured_s * np.exp(self.log_error))

    @property
    def num_measured(self) -> int:
        """Points measured of the whole family."""
        return int(np.count_nonzero(~np.isnan(self.knots.latency_s)))

    @property
    def knot_price_s(self) -> Array:
        """Price of each knot without it [knots], NaN where there is none."""
        price_s = np.full(len(self.knots.x), np.nan)
        price_s[self.row] = self.predicted_s
        return price_s

    def shapes_of(self, label: Label) -> list[int]:
        """Return the shapes of a label that have points here."""
        present = set(self.shape.tolist())
        return [shape for shape in self.knots.of_label(label).tolist() if shape in present]

    @property
    def label_text(self) -> NDArray[np.str_]:
        """Text of each point's label."""
        return self.knots.label_text[self.shape]

    def take(self, points: NDArray[np.bool_] | NDArray[np.int64]) -> "HeldOutPoints":
        """Keep some points."""
        return replace(
            self,
            row=self.row[points],
            shape=self.shape[points],
            regime=self.regime[points],
            measured_s=self.measured_s[points],
            log_error=self.log_error[points],
        )


def held_out_points(knots: FamilyKnots, cluster: ClusterSpec) -> HeldOutPoints:
    """Return the measured points of a family with their errors when left out."""
    row = np.flatnonzero(~np.isnan(knots.latency_s))
    shape = np.repeat(np.arange(knots.num_shapes), np.diff(knots.start))[row]
    rows = measured_rows_of(knots, cluster)
    regime = np.zeros(len(row), dtype=np.int8)
    for name, fit in knots.labels.items():
        own = rows.label == name.text
        regime[own] = fit.reference.regime(rows.flop_s[own], rows.bytes_s[own])
    return HeldOutPoints(
        knots=knots,
        row=row,
        shape=shape,
        regime=regime,
        measured_s=knots.latency_s[row],
        log_error=(held_out_residual(knots) - knots.residual)[row],
    )


def points_of_families(
    artefact: Artefact, cluster: ClusterSpec, families: Sequence[str] = (), where: Sequence[str] = ()
) -> dict[str, HeldOutPoints]:
    """Return the measured points of ``families`` (none: all that were fitted) whose shapes have what ``where`` says.

    ``where`` holds texts ``column=value`` of a family's features and of the parts of its labels. Families that lack a
    column are left out. Raises ``UserError`` for a family that was not fitted, or where nothing is left.
    """
    if missing := [name for name in families if name not in artefact.families]:
        fitted = ", ".join(artefact.families)
        raise UserError(f"family {missing[0]} was not fitted", hint=f"this fit has {fitted}")
    found = {name: held_out_points(artefact.families[name], cluster) for name in families or artefact.families}
    if not where:
        return found
    found = {name: own.take(_chosen(own.knots, where)[own.shape]) for name, own in found.items()}
    found = {name: own for name, own in found.items() if len(own.row)}
    if not found:
        columns = sorted({name for knots in artefact.families.values() for name in _columns(knots)})
        raise UserError(f"no measured point has {' and '.join(where)}", hint=f"columns: {', '.join(columns)}")
    return found


def _columns(knots: FamilyKnots) -> tuple[str, ...]:
    return (*knots.features, *OP_FAMILIES[knots.family].label_parts)


def _chosen(knots: FamilyKnots, where: Sequence[str]) -> NDArray[np.bool_]:
    """Whether each shape has every value asked for."""
    chosen = np.ones(knots.num_shapes, dtype=bool)
    for text in where:
        column, separator, value = (part.strip() for part in text.partition("="))
        if not (column and separator and value):
            raise UserError(f"--where {text}: must be column=value", hint="e.g. --where n=8192")
        if column in knots.features:
            chosen &= [f"{size:.15g}" == value for size in knots.shape[:, knots.features.index(column)].tolist()]
        elif column in _columns(knots):
            chosen &= [OP_FAMILIES[knots.family].part(label, column) == value for label in knots.label]
        else:
            chosen &= False
    return chosen


def held_out_residual(knots: FamilyKnots) -> Array:
    """Residual of each knot from the others, NaN where there is no answer and at knots that were not measured.

    Estimates that complete a label have seen its points: the fit has kept what they are without each of them. Where a
    point's own curve or grid knew it better, or an older fit kept a sample only, that answers alone.
    """
    measured = ~np.isnan(knots.latency_s)
    residual = np.full(len(knots.x), np.nan)
    has_grid = [bool(np.any(knots.y[knots.rows(shape)] != 1.0)) for shape in range(knots.num_shapes)]
    own = measured | np.repeat(np.array(has_grid, dtype=bool), np.diff(knots.start))
    residual[own] = without_point(_with_rows(knots, own))
    for name, fit in knots.labels.items():
        if fit.filling is None:
            continue
        found = fit.filling.errors.get("point")
        if found is not None:
            rows = knots.measured_rows(name)
            residual[rows] = np.nan
            residual[rows[found.place]] = knots.residual[rows[found.place]] + found.error
    return np.asarray(np.where(measured, residual, np.nan))


def from_curves_alone(knots: FamilyKnots) -> list[str]:
    """Labels completed by estimates of which an older fit has not kept every held-out error."""
    return [name.text for name, fit in knots.labels.items() if fit.filling is not None and not fit.filling.errors]


def _with_rows(knots: FamilyKnots, keep: NDArray[np.bool_]) -> FamilyKnots:
    """Return the knots of some rows; shapes stay, some with no row."""
    return replace(
        knots,
        start=np.concatenate([[0], np.cumsum(keep)])[knots.start].astype(np.int64),
        x=knots.x[keep],
        y=knots.y[keep],
        latency_s=knots.latency_s[keep],
        residual=knots.residual[keep],
    )


# At a locked clock in MHz, None unlocked: the fits that each have not seen one part of the points.
HeldOutCosts = Callable[[float | None], Sequence[FittedCosts]]


def held_out_costs(artefact: Artefact, cluster: ClusterSpec) -> HeldOutCosts:
    """Return the fit without every second point of each shape, and without the others.

    A point that neither has forgotten, at the end of its curve, has no neighbour that could say what it takes.
    """
    families: list[dict[str, FamilyKnots]] = [{}, {}]
    for family, knots in artefact.families.items():
        residual = held_out_residual(knots)
        is_even = np.arange(len(knots.x)) % 2 == 0
        for half, turn in zip(families, (is_even, ~is_even), strict=True):
            forgotten = turn & ~np.isnan(residual)
            half[family] = replace(
                knots,
                latency_s=np.where(forgotten, np.nan, knots.latency_s),
                residual=np.where(forgotten, residual, knots.residual),
            )
    halves = [replace(artefact, families=half) for half in families]
    return lambda clock_mhz: [FittedCosts(half, cluster, clock_mhz) for half in halves]
