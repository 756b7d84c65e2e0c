"""Attention: a surface over (sequences, length) per heads, head size and window; one for prefill, one for decode.

Prefill is measured over whole prompts. A chunk of q tokens behind a prefix counts as a prompt of equal causal
(query, key) pairs, and never takes less than reading its keys and values. Decode with unequal lengths costs its
total, but no less than its longest sequence alone. A mixed call pays its launch once. Where such calls were measured,
each kind is corrected by their median ratio to this.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from costmodel.cost_model import Prediction, Source
from costmodel.families.family import OpFamily, knot_op
from costmodel.families.knot_prices import KnotPrices, by_group
from costmodel.families.lending import grid_residual
from costmodel.fitted.knots import FamilyKnots
from costmodel.ops.arrays import Array, distinct
from costmodel.ops.label import Label
from costmodel.ops.op_types import Attention, Op
from costmodel.pricing.domain import OutOfDomain
from costmodel.pricing.price_points import Pricing, half_width, octaves_outside, risen, with_sub_points, work_sides
from costmodel.pricing.surfaces import Surface, SurfaceGrid

# Beyond the measured grid; further out the last slope goes on.
_OCTAVES_BEYOND = 5


class AttentionPrices(KnotPrices):
    """Prices attention calls; head counts are usually plain integers, so that one op is one surface."""

    def __init__(self, family: OpFamily, knots: FamilyKnots, pricing: Pricing) -> None:
        super().__init__(family, knots, pricing)
        self._surfaces: dict[tuple[object, ...], tuple[Surface, Label] | None] = {}

    def predict(self, op: Op) -> Prediction | None:
        """Price an attention call; None when its variant was not measured in a phase it has."""
        assert isinstance(op, Attention)
        if np.ndim(op.num_heads) == 0 and np.ndim(op.num_kv_heads) == 0:
            return self._call(op)
        heads, kv_heads, *sizes = np.broadcast_arrays(
            op.num_heads,
            op.num_kv_heads,
            op.num_prefill,
            op.prefill_q,
            op.prefill_kv,
            op.num_decode,
            op.decode_q,
            op.decode_kv,
            op.decode_kv_max,
        )

        def price(key: tuple[float, ...], own: NDArray[np.bool_]) -> Prediction | None:
            num_prefill, prefill_q, prefill_kv, num_decode, decode_q, decode_kv, longest = (
                size.ravel()[own] for size in sizes
            )
            part = replace(
                op,
                num_heads=int(key[0]),
                num_kv_heads=int(key[1]),
                num_prefill=num_prefill,
                prefill_q=prefill_q,
                prefill_kv=prefill_kv,
                num_decode=num_decode,
                decode_q=decode_q,
                decode_kv=decode_kv,
                decode_kv_max=longest,
            )
            return self._call(part)

        return by_group(np.column_stack([heads.ravel(), kv_heads.ravel()]).astype(np.float64), heads.shape, price)

    def _call(self, op: Attention) -> Prediction | None:
        has_prefill, has_decode = bool(np.any(op.num_prefill)), bool(np.any(op.num_decode))
        prefill = self._prefill(op) if has_prefill else None
        decode = self._decode(op) if has_decode or not has_prefill else None
        if (has_prefill and prefill is None) or (has_decode and decode is None):
            return None
        if prefill is None or decode is None:
            return prefill or decode
        return self._mixed(op, prefill, decode)

    def _mixed(self, op: Attention, prefill: Prediction, decode: Prediction) -> Prediction:
        """Add both phases of one call, less the launch that would be paid twice."""
        fits = self.knots.labels
        floors = [fits[found[1]].reference.floor_s for found in self._surfaces.values() if found is not None]
        both = (np.asarray(op.num_prefill) > 0) & (np.asarray(op.num_decode) > 0)
        launch_s = np.minimum(min(floors), 0.9 * np.minimum(prefill.latency_s, decode.latency_s)) * both
        latency_s = prefill.latency_s + decode.latency_s - launch_s
        total_s = prefill.latency_s + decode.latency_s
        ratio = np.divide(latency_s, total_s, out=np.ones_like(total_s), where=both)
        worst = np.maximum(np.maximum(prefill.source, decode.source), Source.BORROWED)
        single = np.where(np.asarray(op.num_prefill) > 0, prefill.source, decode.source)
        whole = Prediction(
            latency_s=latency_s,
            low_s=(prefill.low_s + decode.low_s) * ratio,
            high_s=(prefill.high_s + decode.high_s) * ratio,
            energy_j=(prefill.energy_j + decode.energy_j) * ratio,
            source=np.where(both, worst, single).astype(np.int8),
        )
        return self._corrected(whole, "mixed", both, half_width=0.0)

    def _prefill(self, op: Attention) -> Prediction | None:
        found = self._surface("prefill", op)
        if found is None:
            return None
        surface, label = found
        count, q, kv = np.broadcast_arrays(
            *(np.asarray(size, dtype=np.float64) for size in (op.num_prefill, op.prefill_q, op.prefill_kv))
        )
        prefix = kv > q
        if not prefix.any():
            return _masked(surface.predict(count, np.maximum(q, 1.0)), count > 0)
        pairs = np.asarray(op.prefill_pairs()) / np.maximum(count, 1.0)
        whole = surface.predict(count, np.where(prefix, equal_work_length(pairs, op.window), np.maximum(q, 1.0)))
        fit = self.knots.labels[label]
        chunk = replace(op, num_decode=0)
        # Reading the prefix bounds short chunks behind long ones.
        _, bytes_s = work_sides(chunk, self.pricing.cluster)
        reading_s = fit.reference.floor_s + bytes_s / fit.reference.memory_efficiency
        latency_s = np.where(prefix, np.maximum(whole.latency_s, reading_s), whole.latency_s)
        derived = replace(
            _scaled(whole, latency_s / whole.latency_s),
            source=np.where(prefix, np.maximum(whole.source, Source.BORROWED), whole.source).astype(np.int8),
        )
        unknown = float(fit.log_half_width[Source.BORROWED].max())
        return _masked(self._corrected(derived, "prefix", prefix, half_width=unknown), count > 0)

    def _decode(self, op: Attention) -> Prediction | None:
        found = self._surface("decode", op)
        if found is None:
            return None
        surface, label = found
        count, kv, longest = np.broadcast_arrays(
            *(np.asarray(size, dtype=np.float64) for size in (op.num_decode, op.decode_kv, op.decode_kv_max))
        )
        total = surface.predict(count, np.maximum(kv, 1.0))
        if np.any(longest > kv):
            alone = surface.predict(np.ones_like(longest), np.maximum(longest, 1.0))
            total = self._corrected(_slower(total, alone), "unequal", longest > kv, half_width=0.0)
        several = np.asarray(op.decode_q) > 1
        if np.any(several):
            reference = self.knots.labels[label].reference
            single = replace(op, num_prefill=0, decode_q=1)
            sides = (work_sides(replace(single, decode_q=op.decode_q), self.pricing.cluster),)
            ratio = reference.seconds(*sides[0]) / reference.seconds(*work_sides(single, self.pricing.cluster))
            total = self._corrected(_scaled(total, ratio), "several", several, half_width=0.0)
        return _masked(total, count > 0)

    def _corrected(
        self, prediction: Prediction, kind: str, where: NDArray[np.bool_], *, half_width: float
    ) -> Prediction:
        """Apply the measured correction of a derived kind; without one the interval widens by ``half_width``."""
        found = self.knots.derived.get(kind)
        factor = np.where(where, 1.0 if found is None else found.factor, 1.0)
        spread = np.exp(np.where(where, half_width if found is None else found.log_half_width, 0.0))
        latency_s = prediction.latency_s * factor
        return Prediction(
            latency_s=latency_s,
            low_s=np.minimum(prediction.low_s * factor / spread, latency_s),
            high_s=np.maximum(prediction.high_s * factor * spread, latency_s),
            energy_j=prediction.energy_j * factor,
            source=np.where(where, np.maximum(prediction.source, Source.BORROWED), prediction.source).astype(np.int8),
        )

    def _surface(self, phase: str, op: Attention) -> tuple[Surface, Label] | None:
        heads = int(np.asarray(op.num_heads)), int(np.asarray(op.num_kv_heads))
        shape = (*heads, op.head_dim, op.v_head_dim, op.window)
        key = (phase, op.variant, op.dtype, op.kv_dtype, *shape)
        if key not in self._surfaces:
            self._surfaces[key] = self._prepare(phase, op)
        return self._surfaces[key]

    def _prepare(self, phase: str, op: Attention) -> tuple[Surface, Label] | None:
        wanted = Label((phase, op.variant, op.dtype, op.kv_dtype))
        label = self.label_of(*wanted.parts) or self._other_format(phase, op.variant)
        if label is None:
            return None
        knots = self.knots
        shape = tuple(
            float(np.asarray(value)) for value in (op.num_heads, op.num_kv_heads, op.head_dim, op.v_head_dim, op.window)
        )
        lent, is_lent = self.lenders_of(label, shape)
        fit = self.fit_of(label, shape, lent)
        is_lent = is_lent or label.parts != wanted.parts
        rows = np.concatenate([np.arange(*knots.rows(int(index)).indices(len(knots.x))) for index in lent.shapes])
        knot_x, knot_y = distinct(knots.x[rows]), distinct(knots.y[rows])
        x = with_sub_points(knot_x, low=1.0, octaves_beyond=_OCTAVES_BEYOND)
        y = with_sub_points(knot_y, low=1.0, octaves_beyond=_OCTAVES_BEYOND)
        measured_s = np.full((len(x), len(y)), np.nan)
        if not is_lent:
            own = knots.rows(int(lent.shapes[0]))
            measured_s[np.searchsorted(x, knots.x[own]), np.searchsorted(y, knots.y[own])] = knots.latency_s[own]
        outside = np.maximum(
            octaves_outside(x, knot_x[0], knot_x[-1])[:, None], octaves_outside(y, knot_y[0], knot_y[-1])[None, :]
        )
        grid_op = knot_op(self.family, wanted, shape, x[:, None], y[None, :], cluster=self.pricing.cluster)
        residual = grid_residual(knots, lent, np.log(x), np.log(y))
        priced = self.pricing.price(
            grid_op, fit, residual, measured_s=measured_s, octaves_outside=outside, is_lent=is_lent
        )
        latency_s = priced.latency_s
        if self.pricing.policy is OutOfDomain.CLIP:
            edge_x = np.clip(np.arange(len(x)), *np.searchsorted(x, knot_x[[0, -1]]))
            edge_y = np.clip(np.arange(len(y)), *np.searchsorted(y, knot_y[[0, -1]]))
            latency_s = latency_s[np.ix_(edge_x, edge_y)]
        if self.pricing.is_monotone:
            latency_s = risen(latency_s, ~np.isnan(measured_s))
        between = priced.body.copy()
        between[:-1] = np.maximum(between[:-1], priced.body[1:])
        between[:, :-1] = np.maximum(between[:, :-1], priced.body[:, 1:])
        grid = SurfaceGrid(
            x=x,
            y=y,
            latency_s=latency_s,
            power_w=priced.power_w,
            source=priced.source,
            log_half_width=priced.log_half_width,
            source_between=between,
            log_half_width_between=half_width(fit, between, priced.width_class, outside),
        )
        return Surface(grid), label

    def _other_format(self, phase: str, variant: str) -> Label | None:
        """Return another number format of the same phase and variant, to borrow from."""
        known = sorted(label for label in self.knots.labels if label.parts[:2] == (phase, variant))
        return known[0] if known else None


def equal_work_length(pairs: Array, window: int) -> Array:
    """Length of the whole prompt that holds ``pairs`` causal (query, key) pairs under the window."""
    triangle = (np.sqrt(1.0 + 8.0 * pairs) - 1.0) / 2.0
    if not window:
        return np.asarray(np.maximum(triangle, 1.0))
    band = pairs / window + (window - 1.0) / 2.0
    return np.asarray(np.maximum(np.where(triangle <= window, triangle, band), 1.0))


def _masked(prediction: Prediction, keep: NDArray[np.bool_]) -> Prediction:
    """Zero cost where there are no sequences."""
    return prediction if keep.all() else _scaled(prediction, keep.astype(np.float64))


def _scaled(prediction: Prediction, ratio: Array) -> Prediction:
    return replace(
        prediction,
        latency_s=prediction.latency_s * ratio,
        low_s=prediction.low_s * ratio,
        high_s=prediction.high_s * ratio,
        energy_j=prediction.energy_j * ratio,
    )


def _slower(a: Prediction, b: Prediction) -> Prediction:
    """Take the slower of two, point by point."""
    first = a.latency_s >= b.latency_s
    return Prediction(
        latency_s=np.where(first, a.latency_s, b.latency_s),
        low_s=np.where(first, a.low_s, b.low_s),
        high_s=np.where(first, a.high_s, b.high_s),
        energy_j=np.where(first, a.energy_j, b.energy_j),
        source=np.where(first, a.source, b.source),
    )
