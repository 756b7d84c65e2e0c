"""What every fitted model must keep, whoever wrote the file: values no fit can have are named, never priced."""

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.files.shown import shown
from costmodel.cost_model import Source
from costmodel.families.all import OP_FAMILIES
from costmodel.fitted.knots import FamilyKnots, Filling, LabelFit
from costmodel.fitted.reference import REGIMES
from costmodel.ops.arrays import Array
from costmodel.power_model import PowerModel

# ln(latency / expected): the widest of the bundled fits is 5.2; 15 is a factor of three million.
_MOST_RESIDUAL: Final = 15.0
_LARGEST: Final = float(np.finfo(np.float64).max)


def fault_in_family(knots: FamilyKnots) -> tuple[str, int | None] | None:
    """Return what is wrong with a family and in which of its rows (None: in no single one), or None."""
    family = OP_FAMILIES[knots.family]
    if knots.features != family.features:
        return f"its features are {shown(knots.features)}, must be {', '.join(family.features)}", None
    for label, fit in knots.labels.items():
        if len(label.parts) != len(family.label_parts):
            return f"label {shown(label.text)} must be {'|'.join(family.label_parts)}", None
        for name, value in _label_faults(fit):
            return f"label {label}: {name} is {shown(value)}", None
    unknown = knots.labels_of_shapes - set(knots.labels)
    empty = set(knots.labels) - knots.labels_of_shapes
    if unknown or empty:
        return f"label {shown(min(unknown | empty).text)} has {'rows only' if unknown else 'no rows'}", None
    for kind, correction in knots.derived.items():
        if not (_is_positive(correction.factor) and correction.log_half_width >= 0.0):
            return f"the correction of {shown(kind)} is {shown(correction)}", None
    for name, values, bad, rule in _row_rules(knots):
        if bad.any():
            row = int(np.argmax(bad))
            return f"{name} is {float(values[row])!r}, {rule}", row
    return None


def fault_in_errors(log_errors: Mapping[str, Array]) -> tuple[str, int | None] | None:
    """Return what is wrong with a family's held-out errors and in which of its rows, or None."""
    for question, values in log_errors.items():
        if not _all_between(values, -_LARGEST, _LARGEST, is_nullable=True):
            row = int(np.argmax(np.isinf(values)))
            return f"log_error_{question} is {float(values[row])!r}, must be finite", row
    return None


def fault_in_power(power: PowerModel) -> str:
    """Return what is wrong with the constants of the power model, empty where nothing is."""
    named = ["idle_w", "awake_w", "tdp_w", "j_per_byte", "j_per_link_byte"]
    named += ["voltage_exponent", "voltage_exponent_error", "error_frac"]
    numbers = {name: getattr(power, name) for name in named}
    numbers |= {f"j_per_flop.{name}": value for name, value in power.j_per_flop.items()}
    for name, value in numbers.items():
        if not (np.isfinite(value) and value >= 0.0):
            return f"power: {name} is {shown(value)}, must be >= 0"
    return "" if _is_positive(power.max_mhz) else f"power: max_mhz is {shown(power.max_mhz)}, must be > 0"


def _is_positive(value: float) -> bool:
    return bool(np.isfinite(value) and value > 0.0)


def _label_faults(fit: LabelFit) -> Iterator[tuple[str, object]]:
    """Constants of one label that no fit can have."""
    for name in ("floor_s", "compute_efficiency", "memory_efficiency"):
        if not _is_positive(getattr(fit.reference, name)):
            yield f"reference.{name}", getattr(fit.reference, name)
    if not _is_positive(fit.best_utilisation):
        yield "best_utilisation", fit.best_utilisation
    if not 0.0 <= fit.trust_along_x <= 1.0:
        yield "trust_along_x", fit.trust_along_x
    if fit.trend.shape != fit.trend_log_s.shape or fit.trend.ndim != 1 or not len(fit.trend):
        yield "the length of its trend", fit.trend.shape
    elif not (np.isfinite(fit.trend).all() and np.isfinite(fit.trend_log_s).all()):
        yield "a value of its trend", "not finite"
    elif (np.diff(fit.trend_log_s) <= 0).any() or (np.abs(fit.trend) > _MOST_RESIDUAL).any():
        yield "its trend", "not ascending, or beyond any time"
    width = fit.log_half_width
    if width.shape != (len(Source), len(REGIMES) * fit.num_sizes) or not (np.isfinite(width) & (width >= 0.0)).all():
        yield "log_half_width", width.tolist()
    edges = fit.size_edges_s
    if edges.ndim != 1 or not ((edges > 0.0) & np.isfinite(edges)).all() or (np.diff(edges) <= 0).any():
        yield "size_edges_s", edges.tolist()
    if not 1.0 <= fit.lent_factor < np.inf:
        yield "lent_factor", fit.lent_factor
    yield from _factor_faults(fit)
    if fit.filling is not None:
        yield from _filling_faults(fit.filling)


def _factor_faults(fit: LabelFit) -> Iterator[tuple[str, object]]:
    for name, term in (("apart", fit.shape_factors.apart), ("rest", fit.shape_factors.rest)):
        num_values, log_factor = len(term.values), term.log_factor
        if term.values.ndim != 2 or log_factor.ndim != 2 or len(log_factor) != num_values:
            yield f"the shape of shape_factors.{name}", (term.values.shape, log_factor.shape)
        elif num_values and (log_factor.shape[1] != fit.num_sizes or not (np.abs(log_factor) < _MOST_RESIDUAL).all()):
            yield f"shape_factors.{name}", log_factor.tolist()


def _filling_faults(filling: Filling) -> Iterator[tuple[str, object]]:
    if not (0.0 <= filling.trust <= 1.0):
        yield "filling.trust", filling.trust
    if not filling.alone >= 0.0:
        yield "filling.alone", filling.alone


def _row_rules(knots: FamilyKnots) -> Iterator[tuple[str, Array, NDArray[np.bool_], str]]:
    """Name, values, the rows at fault and the rule of everything that rows must keep."""
    smallest = np.nextafter(0.0, 1.0)
    for name, values in (("x", knots.x), ("y", knots.y)):
        if not _all_between(values, smallest, _LARGEST):
            yield name, values, ~(np.isfinite(values) & (values > 0.0)), "must be a number > 0"
    latency = knots.latency_s
    if not _all_between(latency, smallest, _LARGEST, is_nullable=True):
        yield "latency_s", latency, ~(np.isnan(latency) | (np.isfinite(latency) & (latency > 0.0))), "must be > 0"
    if not _all_between(knots.residual, -_MOST_RESIDUAL, _MOST_RESIDUAL):
        far = ~(np.abs(knots.residual) <= _MOST_RESIDUAL)
        yield "log_residual", knots.residual, far, f"must be between -{_MOST_RESIDUAL:g} and {_MOST_RESIDUAL:g}"
    counts = np.diff(knots.start)
    for index, name in enumerate(knots.features):
        values = knots.shape[:, index]
        if not _all_between(values, 0.0, _LARGEST):
            bad = ~(np.isfinite(values) & (values >= 0.0))
            yield name, np.repeat(values, counts), np.repeat(bad, counts), "must be a number >= 0"
    x, y = knots.x, knots.y
    within = np.ones(len(x), dtype=np.bool_)
    within[knots.start[:-1]] = False
    falls = np.zeros(len(x), dtype=np.bool_)
    falls[1:] = (x[1:] < x[:-1]) | ((x[1:] == x[:-1]) & (y[1:] <= y[:-1]))
    yield "x", x, falls & within, "must ascend within its shape, then y"
    if not _all_between(y, 1.0, 1.0):
        yield "y", y, _off_grid(knots, within), "must be the same for every x of its shape"


def _all_between(values: Array, low: float, high: float, *, is_nullable: bool = False) -> bool:
    """Whether all values are numbers from ``low`` to ``high``; in one pass each, for files are nearly always sound."""
    if is_nullable:
        least, most = np.fmin.reduce(values, initial=high), np.fmax.reduce(values, initial=low)
    else:
        least, most = values.min(initial=high), values.max(initial=low)
    return bool(least >= low and most <= high)


def _off_grid(knots: FamilyKnots, within: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark rows of shapes whose points are no full grid of their x and y."""
    x, y = knots.x, knots.y
    line_starts = np.flatnonzero(~within | np.append(True, x[1:] != x[:-1]))
    length = np.diff(np.append(line_starts, len(x)))
    first_line = np.searchsorted(line_starts, knots.start[:-1])
    lines = np.diff(np.append(first_line, len(line_starts)))
    first_length = np.repeat(length[first_line], lines)
    uneven = np.repeat(length != first_length, length)
    place = np.arange(len(x)) - np.repeat(line_starts, length)
    shape_start = np.repeat(knots.start[:-1], np.diff(knots.start))
    expected = y[np.minimum(shape_start + place, len(y) - 1)]
    return np.asarray(uneven | (y != expected))
