"""Priced op curves: each distinct op is asked of the cost model once, however many layers, stages and plans share it.

A plan fixes every (n, k) and message width, so what is left of an op is a curve over the token counts of interest.
"""

from copy import copy
from dataclasses import fields, replace
from threading import RLock
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.cost_model import CostModel, Prediction, Source
from costmodel.ops.arrays import Array
from costmodel.ops.op_types import Attention, Collective, Moe, Op
from costmodel.ops.roofline import roofline
from costmodel.pricing.analytic_costs import AnalyticCosts
from simulator.engine_profiles.constant import error_of
from simulator.engine_profiles.price_factors import PriceFactors
from simulator.model.cells.moe import EvenedExperts
from simulator.model.linear import MXFP4_MXFP8, ProductAlone
from simulator.model.norm import NormWithinAllReduce
from simulator.steps.expert_kernels import fills_tiles, weight_only_twin
from simulator.steps.op_factors import factor_of
from simulator.steps.sustained_clock import SustainedClock
from simulator.steps.wider_formats import added_rounding, wider

_ANALYTIC: Final = int(Source.ANALYTIC)  # a plain number: comparing arrays with a member of an enum is slow
# Of a curve, what goes with the time an op takes.
_TIMED: Final = ("latency_s", "low_s", "high_s", "energy_j", "clocked_s", "clocked_j")
_TOLD_BELOW: Final = 0.9  # a bound that lowers a price by less is not worth a line


@dataclass(frozen=True, slots=True)
class OpCurve:
    """Latency with its 90 % interval, energy, FLOP and memory bytes of one rank, at the points asked for.

    ``clocked_s`` is the part of the latency that a lower clock stretches, ``clocked_j`` the part of the energy that
    follows the voltage: all but what being awake takes, the DRAM and the links.
    """

    latency_s: Array
    low_s: Array
    high_s: Array
    energy_j: Array
    clocked_s: Array
    clocked_j: Array
    flop: Array
    io_bytes: Array

    def scaled(self, factor: Array) -> "OpCurve":
        """Return the curve with its time and energy times ``factor``, a number per point."""
        return replace(self, **{name: getattr(self, name) * factor for name in _TIMED})

    def repeated(self, times: int) -> "OpCurve":
        """Every point ``times`` over, one after the other: a quantity that does not change along a second axis."""
        return OpCurve(**{field.name: np.repeat(getattr(self, field.name), times) for field in fields(self)})


def label(op: Op) -> str:
    """Name an op's line in a time breakdown: its own name where its family has several, else the family's."""
    return str(getattr(op, "op", "") or getattr(op, "kind", "") or op.family)


class OpCurves:
    """Prices ops as a busy server runs them, through one cost model, and remembers every curve.

    ``weight_only_tile_rows``: the engine runs MXFP4 experts through a weight-only kernel of such tiles where the device
    has no FP4 units. ``sustained_slowdown_frac``: of arithmetic, on a server that never pauses.
    """

    def __init__(
        self, costs: CostModel, *, weight_only_tile_rows: int | None = None, sustained_slowdown_frac: float = 0.0
    ) -> None:
        self.costs = costs
        self._tile_rows = None if "fp4" in costs.cluster.device.peak_flop_per_s else weight_only_tile_rows
        self._streaming = AnalyticCosts(costs.cluster, costs.clock_mhz)
        self._sustained = SustainedClock(costs.cluster.device, costs.clock_mhz, sustained_slowdown_frac)
        self.power = costs.power
        self._awake_w = float(costs.power.awake_w_at(costs.clock_mhz))
        self._factors: PriceFactors | None = None  # None: every price is as fitted
        self._known: dict[tuple[object, ...], OpCurve] = {}
        self._names: dict[type, tuple[str, ...]] = {}  # of the fields of each kind of op
        # (op and its format, the wider one) -> points that the wider one bounds by far, and points.
        self._bounded: dict[tuple[str, str], tuple[int, int]] = {}
        self._pricing = RLock()  # threads that share curves ask for each once, so that the count of prices is one too

    def __len__(self) -> int:
        return len(self._known)

    def with_factors(self, factors: PriceFactors) -> "OpCurves":
        """Return the curves of a server that puts ``factors`` on the fitted prices; what was priced is shared."""
        if factors.are_as_fitted and self._factors is None:
            return self
        other = copy(self)
        other._factors = None if factors.are_as_fitted else factors  # noqa: SLF001 - a copy made by the class itself
        return other

    def notes(self) -> list[str]:
        """Say which formats were measured dearer than those they replace, and are priced as these."""
        return [
            f"{what}: {points:,} of {whole:,} prices are those of {other}, measured over a tenth faster"
            for (what, other), (points, whole) in sorted(self._bounded.items())
        ]

    def price(self, op: Op) -> OpCurve:
        """Return the curve of ``op`` on this server, one value per point of its array fields."""
        curve = self._fitted(op)
        return curve if self._factors is None else _scaled(curve, factor_of(op, self._factors))

    def _fitted(self, op: Op) -> OpCurve:
        """Return the curve of ``op`` as its family is fitted."""
        if isinstance(op, NormWithinAllReduce):
            return self._within_all_reduce(op)
        if isinstance(op, EvenedExperts):
            return self._evened(op)
        key = self._key_of(op)
        curve = self._known.get(key)
        if isinstance(op, ProductAlone):
            return self._alone(op)
        return self._asked_once(key, op) if curve is None else curve

    def _asked_once(self, key: tuple[object, ...], op: Op) -> OpCurve:
        with self._pricing:
            curve = self._known.get(key)
            if curve is None:
                found = self.costs.predict(op)
                curve = self._on_busy_server(op, found)
                if isinstance(op, Moe):
                    curve = self._as_served(op, curve)
                self._known[key] = curve = self._no_dearer(op, curve, found)
        return curve

    def _key_of(self, op: Op) -> tuple[object, ...]:
        kind = type(op)
        names = self._names.get(kind)
        if names is None:
            names = self._names[kind] = tuple(field.name for field in fields(kind))
        return (kind, *[_key(getattr(op, name)) for name in names])

    def _no_dearer(self, op: Op, curve: OpCurve, found: Prediction) -> OpCurve:
        """Bound a price by that of the format it replaces; see ``simulator.steps.wider_formats``."""
        other = wider(op, self.costs.cluster.device)
        if other is None:
            return curve
        if (found.source == _ANALYTIC).all():
            # MXFP8 beside MXFP4 is a choice of kernels: where none of it was measured, what was is the better answer.
            return self._fitted(other) if getattr(op, "dtype", "") == MXFP4_MXFP8 else curve
        bound = self._fitted(other)
        if not (bound.latency_s < curve.latency_s).any():
            return curve
        for rounding in added_rounding(
            op, other, includes_rounding=self.costs.includes_quantise(getattr(op, "dtype", ""))
        ):
            bound = _sum(bound, self._fitted(rounding))
        where = bound.latency_s < curve.latency_s
        told = int(np.count_nonzero(bound.latency_s < _TOLD_BELOW * curve.latency_s))
        if told:
            what = f"{label(op)} with {_format_of(op)}", _format_of(other)
            points, whole = self._bounded.get(what, (0, 0))
            self._bounded[what] = points + told, whole + where.size
        return _replaced(curve, bound, where)

    def _on_busy_server(self, op: Op, found: Prediction) -> OpCurve:
        shape = found.latency_s.shape
        moved = np.asarray(op.io_bytes() if hasattr(op, "io_bytes") else 0.0, dtype=np.float64)
        flop = np.asarray(op.flop(), dtype=np.float64)
        busy_frac = self._sustained.busy_frac(op, flop, found.latency_s)
        slower = self._sustained.factor(busy_frac)
        latency_s, energy_j = found.latency_s, found.energy_j
        clocked_s = latency_s * busy_frac
        low_s, high_s = latency_s - found.low_s, found.high_s - latency_s
        if slower is None:
            low_s, high_s = np.abs(low_s), np.abs(high_s)
        else:
            added_s = latency_s * (slower - 1.0)
            error_s = added_s * self._sustained.relative_error
            low_s, high_s = np.hypot(low_s * slower, error_s), np.hypot(high_s * slower, error_s)
            # The power cap holds for as long as it takes.
            latency_s, energy_j = latency_s * slower, energy_j * slower
            clocked_s = clocked_s + added_s
        return OpCurve(
            latency_s=latency_s,
            low_s=latency_s - low_s,
            high_s=latency_s + high_s,
            energy_j=energy_j,
            clocked_s=clocked_s,
            clocked_j=self._clocked_j(op, energy_j, latency_s, moved),
            flop=_spread_over(flop, shape),
            io_bytes=_spread_over(moved, shape),
        )

    def _clocked_j(self, op: Op, energy_j: Array, latency_s: Array, moved: Array) -> Array:
        """Joules that follow the voltage; at the power limit what the clock there leaves of them."""
        if isinstance(op, Collective):
            return np.zeros_like(energy_j)
        rest_j = self._awake_w * latency_s + self.power.dram_j_per_byte * moved
        return np.maximum(energy_j - rest_j, 0.0)

    def _alone(self, op: ProductAlone) -> OpCurve:
        """Take the rounding off a time that includes it; what is left is no shorter than the device allows."""
        whole = self._fitted(op.whole)
        if not self.costs.includes_quantise(op.dtype):
            return whole
        bound = roofline(op.whole, self.costs.cluster, self.costs.clock_mhz).floor_s
        least = np.minimum(bound, whole.latency_s)
        share = np.maximum(whole.latency_s - self._fitted(op.rounding).latency_s, least) / whole.latency_s
        return replace(whole, **{name: getattr(whole, name) * share for name in _TIMED})

    def _within_all_reduce(self, op: NormWithinAllReduce) -> OpCurve:
        """Price a norm where it is a kernel of its own, and at nothing where it is part of an all-reduce."""
        curve = self._fitted(op.alone)
        is_alone = np.asarray(op.rows) > op.rows_within
        return OpCurve(**{field.name: getattr(curve, field.name) * is_alone for field in fields(OpCurve)})

    def _evened(self, op: EvenedExperts) -> OpCurve:
        """Price experts of which some are held twice between even routing and the routing's own.

        Few tokens hit fewer experts where some are popular, whoever holds them: even routing is no bound there.
        """
        even, uneven = self._fitted(op.even), self._fitted(op.uneven)
        between = {
            name: getattr(even, name) + op.unevenness * (getattr(uneven, name) - getattr(even, name)) for name in _TIMED
        }
        return _replaced(uneven, replace(uneven, **between), even.latency_s < uneven.latency_s)

    def _as_served(self, op: Moe, curve: OpCurve) -> OpCurve:
        """Put the kernel the engine runs in the place of the measured one; see ``simulator.steps.expert_kernels``."""
        if op.dtype == "mxfp4" and self._tile_rows is not None:
            full = fills_tiles(op, self._tile_rows)
            other, streamed = self._fitted(weight_only_twin(op)), self._on_busy_server(op, self._streaming.predict(op))
            curve = _replaced(curve, other, full & (other.latency_s > curve.latency_s))
            return _replaced(curve, streamed, ~full & (streamed.latency_s < curve.latency_s))
        return curve


def _replaced(curve: OpCurve, other: OpCurve, where: NDArray[np.bool_]) -> OpCurve:
    """``curve``, with time and energy of ``other`` at the points of ``where``."""
    return replace(curve, **{name: np.where(where, getattr(other, name), getattr(curve, name)) for name in _TIMED})


def _scaled(curve: OpCurve, factor: float) -> OpCurve:
    """Return ``curve`` with its time and energy times ``factor``, whose error joins that of the price."""
    latency_s, error_s = curve.latency_s * factor, curve.latency_s * error_of(factor)
    return replace(
        curve,
        latency_s=latency_s,
        low_s=latency_s - np.hypot((curve.latency_s - curve.low_s) * factor, error_s),
        high_s=latency_s + np.hypot((curve.high_s - curve.latency_s) * factor, error_s),
        **{name: getattr(curve, name) * factor for name in ("energy_j", "clocked_s", "clocked_j")},
    )


def _sum(curve: OpCurve, other: OpCurve) -> OpCurve:
    return replace(curve, **{name: getattr(curve, name) + getattr(other, name) for name in _TIMED})


def _format_of(op: Op) -> str:
    """Name the format in which an op differs from its wider one."""
    return f"{op.kv_dtype} KV" if isinstance(op, Attention) else op.dtype


def _spread_over(values: Array, shape: tuple[int, ...]) -> Array:
    return values if values.shape == shape else np.full(shape, values)


def _key(value: object) -> object:
    return value.tobytes() if isinstance(value, np.ndarray) else value
