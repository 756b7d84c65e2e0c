"""From measured rows to knots: group by shape, reference and trend per label, residuals, holes filled.

Runs in ``apex fit`` only.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.fitted.knots import FamilyKnots, LabelFit
from costmodel.fitted.measured_rows import MeasuredRows, without_repeats
from costmodel.fitted.reference import Reference
from costmodel.ops.arrays import Array
from costmodel.ops.label import Label, parsed_labels

_TREND_BINS = 12
_FEWEST_PER_BIN = 8
_TRUSTS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
_FEWEST_FOR_TRUST = 50
# Residuals are kept to 0.02 %, a hundredth of the least held-out error: the file is half as large, and no answer at a
# measured point changes, for that is the measured latency itself. Estimates err ten times as much.
_RESIDUAL_STEP: Final = 2.0**-12
_ESTIMATE_STEP: Final = 2.0**-9


def build_knots(rows: MeasuredRows) -> FamilyKnots:
    """Fit one family; repeats of a point become their median."""
    rows = without_repeats(rows)
    labels: dict[Label, LabelFit] = {}
    known = parsed_labels(np.unique(rows.label).tolist())
    residual = np.empty_like(rows.latency_s)
    for text, label in known.items():
        own = rows.label == text
        part = rows.take(own)
        compute, memory = rows.efficiency[text]
        known_part = part.take(~part.is_estimate)
        reference = Reference.fit(
            known_part.latency_s, known_part.flop_s, known_part.bytes_s, compute=compute, memory=memory
        )
        log_s = np.log(reference.seconds(part.flop_s, part.bytes_s))
        raw = np.log(part.latency_s) - log_s
        trend_log_s, trend = _running_median(log_s[~part.is_estimate], raw[~part.is_estimate])
        utilisation = np.maximum(known_part.flop_s, known_part.bytes_s) / known_part.latency_s
        labels[label] = LabelFit(
            reference=reference,
            trend_log_s=trend_log_s,
            trend=trend,
            best_utilisation=max(1.0, float(utilisation.max())),
        )
        residual[own] = raw - np.interp(log_s, trend_log_s, trend)
    first = _first_of_shape(rows)
    start = np.append(np.flatnonzero(first), len(first)).astype(np.int64)
    knots = FamilyKnots(
        family=rows.family,
        features=rows.features,
        label=tuple(known[text] for text in rows.label[first].tolist()),
        shape=rows.shape[first],
        start=start,
        x=rows.x,
        y=rows.y,
        latency_s=np.where(rows.is_estimate, np.nan, rows.latency_s),
        residual=residual,
        labels=labels,
    )
    whole = knots if np.all(rows.y == 1.0) else _with_full_grids(knots)
    step = np.where(np.isnan(whole.latency_s), _ESTIMATE_STEP, _RESIDUAL_STEP)
    return replace(whole, residual=np.round(whole.residual / step) * step)


def _first_of_shape(rows: MeasuredRows) -> NDArray[np.bool_]:
    first = np.ones(len(rows.x), dtype=bool)
    first[1:] = np.any(rows.shape[1:] != rows.shape[:-1], axis=1) | (rows.label[1:] != rows.label[:-1])
    return first


def _running_median(log_s: Array, residual: Array) -> tuple[Array, Array]:
    """Median residual in bins of equal width in log time; one bin when there are few points."""
    edges = np.linspace(log_s.min(), log_s.max() + 1e-9, _TREND_BINS + 1)
    bins = np.clip(np.searchsorted(edges, log_s, side="right") - 1, 0, _TREND_BINS - 1)
    centre, median = [], []
    for index in range(_TREND_BINS):
        inside = bins == index
        if np.count_nonzero(inside) >= _FEWEST_PER_BIN:
            centre.append(float(np.median(log_s[inside])))
            median.append(float(np.median(residual[inside])))
    if not centre:
        return np.array([float(np.median(log_s))]), np.array([float(np.median(residual))])
    return np.array(centre), np.array(median)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """One shape's measurements on the full grid of its x and y, NaN where it has none."""

    x: Array
    y: Array
    latency_s: Array
    residual: Array


def _with_full_grids(knots: FamilyKnots) -> FamilyKnots:
    """Give each shape the full grid of its x and y; holes get the residual of their neighbours along both axes."""
    grids = [_grid(knots, shape) for shape in range(knots.num_shapes)]
    labels = {
        name: replace(fit, trust_along_x=_trust_along_x([grids[shape] for shape in knots.of_label(name).tolist()]))
        for name, fit in knots.labels.items()
    }
    filled = [
        np.where(
            np.isnan(grid.residual),
            fill_from_neighbours(np.log(grid.x), np.log(grid.y), grid.residual, labels[name].trust_along_x),
            grid.residual,
        )
        for name, grid in zip(knots.label, grids, strict=True)
    ]
    return replace(
        knots,
        start=np.cumsum([0, *(grid.residual.size for grid in grids)]).astype(np.int64),
        x=np.concatenate([np.repeat(grid.x, len(grid.y)) for grid in grids]),
        y=np.concatenate([np.tile(grid.y, len(grid.x)) for grid in grids]),
        latency_s=np.concatenate([grid.latency_s.ravel() for grid in grids]),
        residual=np.concatenate([residual.ravel() for residual in filled]),
        labels=labels,
    )


def _grid(knots: FamilyKnots, shape: int) -> _Grid:
    own = knots.rows(shape)
    x, column = np.unique(knots.x[own], return_inverse=True)
    y, row = np.unique(knots.y[own], return_inverse=True)
    latency_s = np.full((len(x), len(y)), np.nan)
    residual = np.full((len(x), len(y)), np.nan)
    latency_s[column, row] = knots.latency_s[own]
    residual[column, row] = knots.residual[own]
    return _Grid(x=x, y=y, latency_s=latency_s, residual=residual)


def _trust_along_x(grids: Sequence[_Grid]) -> float:
    """Choose the weight of x lines that misses measured cells least, where lines of both axes bracket them."""
    errors_x, errors_y = [], []
    for grid in grids:
        along_y, inside_y = _line_estimates(np.log(grid.y), grid.residual)
        across, bracketed = _line_estimates(np.log(grid.x), grid.residual.T)
        along_x, inside_x = across.T, bracketed.T
        both = inside_x & inside_y & ~np.isnan(grid.residual)
        errors_x.append((along_x - grid.residual)[both])
        errors_y.append((along_y - grid.residual)[both])
    error_x, error_y = np.concatenate(errors_x), np.concatenate(errors_y)
    if len(error_x) < _FEWEST_FOR_TRUST:
        return 0.5
    missed = [float(np.median(np.abs(trust * error_x + (1.0 - trust) * error_y))) for trust in _TRUSTS]
    return _TRUSTS[int(np.argmin(missed))]


def fill_from_neighbours(log_x: Array, log_y: Array, residual: Array, trust_along_x: float = 0.5) -> Array:
    """Estimate every cell of a grid from the *other* known cells of its row and its column.

    ``residual`` [nx, ny] with NaN where unknown. Between two known cells of a line the estimate is linear, beyond the
    last one it is held; bracketed lines win over held ones, two of a kind are weighted by ``trust_along_x``. A cell
    whose row and column know nothing takes the mean of the nearest known cells.
    """
    along_y, inside_y = _line_estimates(log_y, residual)
    across, bracketed = _line_estimates(log_x, residual.T)
    along_x, inside_x = across.T, bracketed.T
    weight_y = _line_weight(along_y, inside_y, 1.0 - trust_along_x)
    weight_x = _line_weight(along_x, inside_x, trust_along_x)
    total: Array = weight_x + weight_y
    known_x: Array = np.where(np.isnan(along_x), 0.0, along_x)
    known_y: Array = np.where(np.isnan(along_y), 0.0, along_y)
    blend = known_x * weight_x + known_y * weight_y
    estimate = np.divide(blend, total, out=np.full(residual.shape, np.nan), where=total > 0)
    for i, j in np.argwhere(np.isnan(estimate)):
        others = ~np.isnan(residual)
        others[i, j] = False
        if not others.any():
            estimate[i, j] = 0.0
            continue
        distance = np.hypot((log_x[:, None] - log_x[i]), (log_y[None, :] - log_y[j]))
        near = np.argsort(np.where(others, distance, np.inf), axis=None)[:2]
        known = others.ravel()[near]
        estimate[i, j] = float(residual.ravel()[near][known].mean())
    return np.asarray(estimate)


def _line_weight(estimate: Array, is_inside: NDArray[np.bool_], trust: float) -> Array:
    """Weight of a line's estimate: its trust when bracketed, next to nothing when held, none without one."""
    weight = np.where(is_inside, max(trust, 1e-3), 1e-6)
    return np.asarray(np.where(np.isnan(estimate), 0.0, weight))


def _line_estimates(log_y: Array, residual: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Estimate each cell from the other known cells of its row [rows, ny]; the flag says it was bracketed."""
    rows, count = residual.shape
    known = ~np.isnan(residual)
    index = np.arange(count)
    before = np.full((rows, count), -1)
    after = np.full((rows, count), count)
    for j in range(1, count):
        before[:, j] = np.where(known[:, j - 1], index[j - 1], before[:, j - 1])
    for j in range(count - 2, -1, -1):
        after[:, j] = np.where(known[:, j + 1], index[j + 1], after[:, j + 1])
    has_before, has_after = before >= 0, after < count
    low, high = np.where(has_before, before, 0), np.where(has_after, after, 0)
    row = np.arange(rows)[:, None]
    value_low: Array = np.where(has_before, residual[row, low], np.nan)
    value_high: Array = np.where(has_after, residual[row, high], np.nan)
    inside = has_before & has_after
    span = np.where(inside, log_y[high] - log_y[low], 1.0)
    across = (log_y[None, :] - log_y[low]) / span
    between = np.asarray(value_low) + across * (np.asarray(value_high) - value_low)
    return np.asarray(np.where(inside, between, np.where(has_before, value_low, value_high))), inside
