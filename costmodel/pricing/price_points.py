"""From residuals back to seconds: reference times residual, at a clock, never below the roofline, with an interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.cost_model import Source
from costmodel.fitted.knots import LabelFit
from costmodel.ops.arrays import Array, distinct
from costmodel.ops.op_types import Collective, Op
from costmodel.ops.roofline import Roofline, compute_dtype, peak_flop_per_s, roofline
from costmodel.power_model import PowerModel
from costmodel.pricing.domain import OutOfDomain
from costmodel.pricing.measured_links import MeasuredLinks

if TYPE_CHECKING:
    from cluster_specs.cluster import ClusterSpec


# Points per interval between two knots: the reference bends there.
SUB_POINTS = 3
# How far beyond the ends a curve is prepared, in octaves; further out its last slope goes on.
OCTAVES_BEYOND = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """Values at prepared points, as ``CurvePoints`` and ``SurfaceGrid`` want them."""

    latency_s: Array
    power_w: Array
    source: NDArray[np.int8]
    log_half_width: Array
    body: NDArray[np.int8]  # source of a price beside the point, which may be a measured one itself
    width_class: NDArray[np.int64]  # what binds there and how long it takes, by which half-widths differ


@dataclass(frozen=True, slots=True, kw_only=True)
class Pricing:
    """How measured points become prices on one cluster at one clock; ``measured_mhz`` is the clock they ran at.

    For prices that have yet to choose among clocks, ``measured_mhz`` is what unlocked rows ran at. For collectives
    ``cluster`` has the links that were measured, and ``links`` those that are stated.
    """

    cluster: ClusterSpec
    clock_mhz: float | None
    measured_mhz: float
    policy: OutOfDomain
    power: PowerModel
    is_monotone: bool = False
    links: MeasuredLinks | None = None

    def price(
        self, op: Op, fit: LabelFit, residual: Array, *, measured_s: Array, octaves_outside: Array, is_lent: bool
    ) -> Priced:
        """Price the points of ``op``; ``measured_s`` is NaN where no latency was measured."""
        work = roofline(op, self.cluster if self.links is None else self.links.stated, self.clock_mhz)
        measured_work = work if self.links is None and self.clock_mhz is None else roofline(op, self.cluster)
        flop_s, bytes_s = _sides(op, measured_work, self.cluster)
        expected_s = np.exp(fit.expected_log_s(flop_s, bytes_s) + residual)
        is_measured = ~np.isnan(measured_s) & (not is_lent)
        latency_s = np.where(is_measured, measured_s, expected_s)
        if self.links is not None and self.links.changed and isinstance(op, Collective):
            latency_s = self.links.scaled(op, latency_s, fit, bytes_s)
            is_measured = np.zeros_like(is_measured)
        if self.clock_mhz is not None and self.clock_mhz != self.measured_mhz:
            share = fit.reference.compute_share(flop_s, bytes_s)
            latency_s = latency_s * (1.0 + share * (self.measured_mhz / self.clock_mhz - 1.0))
            is_measured = np.zeros_like(is_measured)
        # A measured point may beat the stated peaks (and was reported when fitted); an estimate may not.
        latency_s = np.where(is_measured, latency_s, np.maximum(latency_s, work.floor_s / fit.best_utilisation))
        body = np.where(octaves_outside > 0, Source.EXTRAPOLATED, Source.BORROWED if is_lent else Source.FITTED)
        source = np.where(is_measured, Source.MEASURED, body)
        width_class = fit.width_class(flop_s, bytes_s)
        energy_j = self.power.op_energy_j(op, work, latency_s, self.clock_mhz)
        return Priced(
            latency_s=latency_s,
            power_w=energy_j / latency_s,
            source=source.astype(np.int8),
            log_half_width=half_width(fit, source, width_class, octaves_outside),
            body=body.astype(np.int8),
            width_class=width_class,
        )


def half_width(
    fit: LabelFit, source: NDArray[np.int8], width_class: NDArray[np.int64], octaves_outside: Array
) -> Array:
    """Half-width of the interval of points that come from ``source``."""
    return np.asarray(fit.log_half_width[source, width_class] * np.maximum(octaves_outside, 1.0))


def risen(latency_s: Array, is_knot: NDArray[np.bool_]) -> Array:
    """Latency that never falls along any axis; knots, which must rise already, stay as they are."""
    low = np.where(is_knot, latency_s, 0.0)
    high = np.where(is_knot, latency_s, np.inf)
    for axis in range(latency_s.ndim):
        low = np.maximum.accumulate(low, axis=axis)
        high = np.flip(np.minimum.accumulate(np.flip(high, axis), axis=axis), axis)
    latency_s = np.clip(latency_s, low, high)
    for axis in range(latency_s.ndim):
        latency_s = np.maximum.accumulate(latency_s, axis=axis)
    return latency_s


def work_sides(op: Op, cluster: ClusterSpec) -> tuple[Array, Array]:
    """FLOP time and byte time of ``op`` at the stated peaks, clock aside; a collective's bytes are on its links."""
    return _sides(op, roofline(op, cluster), cluster)


def _sides(op: Op, work: Roofline, cluster: ClusterSpec) -> tuple[Array, Array]:
    if isinstance(op, Collective):
        return np.zeros_like(work.floor_s), work.floor_s
    flop_s = work.flop / peak_flop_per_s(cluster.device, compute_dtype(op))
    return np.asarray(flop_s), np.asarray(work.bytes / cluster.device.memory_bytes_per_s)


def with_sub_points(knots: Array, *, low: float, octaves_beyond: int = OCTAVES_BEYOND) -> Array:
    """Knots, points between them, and points down to ``low`` and up beyond the last; ascending and distinct."""
    log_x = np.log(knots)
    steps = np.arange(1, SUB_POINTS) / SUB_POINTS
    between = (log_x[:-1, None] + np.diff(log_x)[:, None] * steps).ravel()
    above = log_x[-1] + np.log(2.0) * np.arange(0.5, octaves_beyond + 0.5, 0.5)
    below = np.arange(np.log(low), log_x[0], np.log(2.0) / 2) if low < knots[0] else np.zeros(0)
    extra = np.exp(np.concatenate([below, between, above]))
    return distinct(np.concatenate([knots, extra]))


def octaves_outside(x: Array, low: float, high: float) -> Array:
    """How many octaves each x lies outside [low, high]; zero inside."""
    return np.asarray(np.maximum(np.maximum(np.log2(low / x), np.log2(x / high)), 0.0))
