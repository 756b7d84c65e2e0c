"""What the prices of all families share: the knots, which clock's knots to use, and the points of a prepared curve."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from costmodel.cost_model import Prediction, Source
from costmodel.families.family import OpFamily, rest_of, siblings
from costmodel.families.lending import Lenders, curve_residual, lenders
from costmodel.fitted.knots import FamilyKnots, LabelFit
from costmodel.fitted.reference import REGIMES
from costmodel.ops.arrays import Array, distinct
from costmodel.ops.label import Label
from costmodel.ops.op_types import Op
from costmodel.pricing.curves import CurvePoints
from costmodel.pricing.domain import OutOfDomain
from costmodel.pricing.price_points import Pricing, half_width, octaves_outside, risen, with_sub_points

PREDICTION_FIELDS: Final = ("latency_s", "low_s", "high_s", "energy_j", "source")


class KnotPrices:
    """Prices ops of one family from its knots at the measured clock nearest to the one asked for."""

    def __init__(self, family: OpFamily, knots: FamilyKnots, pricing: Pricing) -> None:
        self.family = family
        self.knots = knots
        self._clock_mhz, measured_mhz = _nearest_clock(knots.labels, pricing)
        self.pricing = replace(pricing, measured_mhz=measured_mhz)
        self._shapes: dict[Label, dict[tuple[float, ...], int]] = {}

    def label_of(self, *parts: str) -> Label | None:
        """Return the label of these parts at the clock in use, or None when nothing of it was measured."""
        found = Label(parts, self._clock_mhz)
        return found if found in self.knots.labels else None

    def own_shape(self, label: Label, shape: tuple[float, ...]) -> int | None:
        """Return the number of a shape with knots of its own, else None."""
        if label not in self._shapes:
            own = self.knots.of_label(label)
            self._shapes[label] = dict(zip(map(tuple, self.knots.shape[own].tolist()), own.tolist(), strict=True))
        return self._shapes[label].get(shape)

    def lenders_of(self, label: Label, shape: tuple[float, ...]) -> tuple[Lenders, bool]:
        """Return the shape itself when it has knots, else its lenders, and whether nothing of it was measured."""
        own = self.own_shape(label, shape)
        if own is None:
            return lenders(self.family, self.knots, label, np.asarray(shape, dtype=np.float64)), True
        is_lent = not self.knots.is_measured(own)
        return Lenders(shapes=np.array([own]), weights=np.ones(1), log_shift=np.zeros(1)), is_lent

    def fit_of(self, label: Label, shape: tuple[float, ...], lent: Lenders) -> LabelFit:
        """Return a label's fit with the intervals of ``shape``: wider where nothing like it lends, or where it errs."""
        fit, wanted = self.knots.labels[label], np.asarray(shape, dtype=np.float64)
        factor = np.ones(fit.num_sizes)
        if fit.lent_factor > 1.0 and not np.any(siblings(self.family, self.knots.shape[lent.shapes], wanted)):
            factor *= fit.lent_factor
        if not fit.shape_factors.is_empty:
            factor *= fit.shape_factors.of(wanted[list(self.family.apart)], wanted[rest_of(self.family)])
        if np.all(factor == 1.0):
            return fit
        half_width = fit.log_half_width.copy()
        half_width[Source.BORROWED] *= np.tile(factor, len(REGIMES))
        return replace(fit, log_half_width=half_width)

    def curve_points(self, label: Label, shape: tuple[float, ...], op_at: Callable[[Array], Op]) -> CurvePoints:
        """Prepare one curve; ``op_at`` gives the op at an array of sizes."""
        knots = self.knots
        lent, is_lent = self.lenders_of(label, shape)
        fit = self.fit_of(label, shape, lent)
        lender_x = [
            knots.x[knots.rows(int(index))] / np.exp(shift)
            for index, shift in zip(lent.shapes, lent.log_shift, strict=True)
        ]
        knot_x = distinct(np.concatenate(lender_x))
        low, high = float(knot_x[0]), float(knot_x[-1])
        x = with_sub_points(knot_x, low=min(1.0, low))
        measured_s = np.full_like(x, np.nan)
        if not is_lent:
            measured_s[np.searchsorted(x, lender_x[0])] = knots.latency_s[knots.rows(int(lent.shapes[0]))]
        outside = octaves_outside(x, low, high)
        op = op_at(x)
        residual = curve_residual(knots, lent, np.log(x))
        priced = self.pricing.price(op, fit, residual, measured_s=measured_s, octaves_outside=outside, is_lent=is_lent)
        latency_s = priced.latency_s
        if self.pricing.policy is OutOfDomain.CLIP:
            latency_s = latency_s[np.clip(np.arange(len(x)), *np.searchsorted(x, (low, high)))]
        if self.pricing.is_monotone or self.family.is_monotone:
            latency_s = risen(latency_s, ~np.isnan(measured_s))
        between = np.maximum(priced.body, np.append(priced.body[1:], priced.body[-1]))
        return CurvePoints(
            position=x,
            x=x,
            latency_s=latency_s,
            power_w=priced.power_w,
            source=priced.source,
            log_half_width=priced.log_half_width,
            source_between=between,
            log_half_width_between=half_width(fit, between, priced.width_class, outside),
        )


def by_group(
    keys: Array, shape: tuple[int, ...], price: Callable[[tuple[float, ...], NDArray[np.bool_]], Prediction | None]
) -> Prediction | None:
    """Price the rows of each distinct key [rows, parts] together; None as soon as one key has no price."""
    different, which = np.unique(keys, axis=0, return_inverse=True)
    which = which.ravel()
    whole = empty_prediction(shape)
    for index, key in enumerate(different.tolist()):
        own = which == index
        part = price(tuple(key), own)
        if part is None:
            return None
        for name in PREDICTION_FIELDS:
            getattr(whole, name).ravel()[own] = getattr(part, name)
    return whole


def empty_prediction(shape: tuple[int, ...]) -> Prediction:
    """Return a prediction to be written into."""
    return Prediction(
        latency_s=np.empty(shape),
        low_s=np.empty(shape),
        high_s=np.empty(shape),
        energy_j=np.empty(shape),
        source=np.empty(shape, dtype=np.int8),
    )


def _nearest_clock(labels: Iterable[Label], pricing: Pricing) -> tuple[int | None, float]:
    """Choose the labels' clock nearest to the one asked for, and its MHz; unlocked rows count as the top clock."""
    top = pricing.measured_mhz
    clocks = {label.clock_mhz: top if label.clock_mhz is None else float(label.clock_mhz) for label in labels}
    wanted = pricing.clock_mhz if pricing.clock_mhz is not None else top
    chosen = min(clocks, key=lambda found: (abs(np.log(clocks[found] / wanted)), found is not None, str(found)))
    return chosen, clocks[chosen]
