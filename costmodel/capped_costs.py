"""Prices of a device under a power limit below its TDP: what would draw more runs at a lower clock, and takes longer.

The clock settles where the power equation meets the limit,

    P(f) = energy(T(f), f) / T(f) = cap,    T(f) = T ((1 - c) + c / f),

with f the share of the clock the op would run at and c the share of its time that arithmetic takes. Work bound by
memory keeps its time and loses dynamic power alone, so decode hardly feels a limit that prompts do.
"""

from typing import Final, Protocol, cast

import numpy as np

from cluster_specs.cluster import ClusterSpec
from costmodel.cost_model import CostModel, Prediction, Source
from costmodel.ops.op_types import Op
from costmodel.ops.roofline import compute_dtype, peak_flop_per_s, roofline
from costmodel.pricing.power_model import PowerModel

# Shares of the clock in use that a driver steps down through.
_CLOCKS: Final = np.geomspace(1.0, 0.1, 93)


class Priced(CostModel, Protocol):
    """Prices of a device whose power is known."""

    @property
    def power(self) -> PowerModel:
        """Power of its ops."""


class CappedCosts:
    """Prices ops through ``inner`` and stretches those that would exceed the power limit of the device."""

    def __init__(self, inner: Priced, cap_w: float) -> None:
        self._inner: Priced = inner
        self._cap_w = cap_w
        self._efficiency = {
            str(name): item.value for name, item in inner.cluster.device.analytic.gemm_efficiency.items()
        }

    @property
    def cluster(self) -> ClusterSpec:
        """The cluster the ops run on."""
        return self._inner.cluster

    @property
    def clock_mhz(self) -> float | None:
        """Locked SM clock, None when unlocked."""
        return self._inner.clock_mhz

    @property
    def origin(self) -> str:
        """Say what the prices rest on, and under which limit."""
        return f"{self._inner.origin}; power capped at {self._cap_w:g} W"

    @property
    def frameworks(self) -> frozenset[str]:
        """Frameworks whose kernels were measured."""
        return self._inner.frameworks

    def outside(self) -> str:
        """Say how many prices were not interpolated from measurements."""
        return self._inner.outside()

    def includes_quantise(self, dtype: str) -> bool:
        """Whether GEMM prices of ``dtype`` include quantising the activations."""
        return self._inner.includes_quantise(dtype)

    def of_engine(self, engine: str) -> "CappedCosts":
        """Return the prices of an engine under the same limit."""
        return CappedCosts(cast(Priced, self._inner.of_engine(engine)), self._cap_w)

    def predict(self, op: Op) -> Prediction:
        """Price ``op`` at the clock the limit leaves."""
        found = self._inner.predict(op)
        work = roofline(op, self.cluster, self.clock_mhz)
        dtype = compute_dtype(op)
        efficiency = self._efficiency.get(dtype, max(self._efficiency.values()))
        compute_s = work.flop / (peak_flop_per_s(self.cluster.device, dtype, self.clock_mhz) * efficiency)
        share = np.clip(compute_s / found.latency_s, 0.0, 1.0)
        limit_w = self._cap_w * (1 + 1e-9)
        top_mhz = self.clock_mhz or self.cluster.device.clock.max_mhz
        factor, joules, is_settled = (
            np.ones_like(share),
            found.energy_j,
            found.energy_j <= limit_w * found.latency_s,
        )
        if is_settled.all():
            return found
        for clock in _CLOCKS[1:]:
            slower = np.where(is_settled, factor, (1.0 - share) + share / clock)
            seconds = found.latency_s * slower
            lower = self._inner.power.op_energy_j(op, work, seconds, clock * top_mhz)
            joules = np.where(is_settled, joules, lower)
            factor = slower
            is_settled = is_settled | (joules <= limit_w * seconds)
        # At the lowest clock what is left over the limit takes the time the limit needs.
        factor = np.maximum(factor, joules / (limit_w * found.latency_s))
        is_slowed = factor > 1.0
        return Prediction(
            latency_s=found.latency_s * factor,
            low_s=found.low_s * factor,
            high_s=found.high_s * factor,
            energy_j=joules,
            source=np.where(is_slowed, np.maximum(found.source, Source.FITTED), found.source).astype(np.int8),
        )
