"""How much longer arithmetic takes on a busy server than in an isolated benchmark: clocks at the power cap.

A kernel timed by itself runs for milliseconds at the boost clock; a server that computes without pause runs at the
power cap, where the clock falls. An op slows down by

    1 + slowdown * u,   u = FLOP / (time * dense peak * GEMM efficiency), at most 1

so that memory-bound ops and transfers keep their time. A locked clock is below the cap: nothing slows down there. The
slowdown is a figure of the engine's profile (``sustained_load``).
"""

import numpy as np

from cluster_specs.device import DeviceSpec
from costmodel.ops.arrays import Array
from costmodel.ops.op_types import Op
from costmodel.ops.roofline import compute_dtype, peak_flop_per_s
from simulator.engine_profiles.constant import error_of


class SustainedClock:
    """What a device's clock does under load; ``clock_mhz`` = locked clock, None when unlocked."""

    def __init__(self, device: DeviceSpec, clock_mhz: float | None, slowdown_frac: float) -> None:
        self._device = device
        self._clock_mhz = clock_mhz
        self._slowdown_frac = slowdown_frac if clock_mhz is None and device.kind == "gpu" else 0.0
        self.relative_error = error_of(slowdown_frac) / slowdown_frac if slowdown_frac else 0.0  # of the slowdown
        self._efficiency = {str(name): item.value for name, item in device.analytic.gemm_efficiency.items()}

    def busy_frac(self, op: Op, flop: Array, latency_s: Array) -> Array:
        """Share of the isolated ``latency_s`` that the arithmetic of ``op`` takes, of that shape."""
        if not flop.any():
            return np.zeros_like(latency_s)
        dtype = compute_dtype(op)
        efficiency = self._efficiency.get(dtype, max(self._efficiency.values(), default=1.0))
        needed_s = flop / (peak_flop_per_s(self._device, dtype, self._clock_mhz) * efficiency)
        busy = np.divide(needed_s, latency_s, out=np.zeros_like(latency_s), where=latency_s > 0)
        return np.minimum(busy, 1.0)

    def factor(self, busy_frac: Array) -> Array | None:
        """Time of an op on a busy server over its isolated time, of that shape; None: nothing slows down."""
        if not self._slowdown_frac or not busy_frac.any():
            return None
        return np.asarray(1.0 + self._slowdown_frac * busy_frac)
