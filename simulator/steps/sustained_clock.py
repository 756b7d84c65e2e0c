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
        self._slowdown_frac = slowdown_frac if clock_mhz is None and device.kind == "gpu" else 0.0
        self.relative_error = error_of(slowdown_frac) / slowdown_frac if slowdown_frac else 0.0  # of the slowdown
        self._efficiency = {str(name): item.value for name, item in device.analytic.gemm_efficiency.items()}

    def factor(self, op: Op, flop: Array, latency_s: Array) -> Array | None:
        """Time of ``op`` on a busy server over its isolated ``latency_s``, of that shape; None: nothing slows down."""
        if not self._slowdown_frac or not flop.any():
            return None
        dtype = compute_dtype(op)
        efficiency = self._efficiency.get(dtype, max(self._efficiency.values(), default=1.0))
        needed_s = flop / (peak_flop_per_s(self._device, dtype) * efficiency)
        busy = np.divide(needed_s, latency_s, out=np.zeros_like(latency_s), where=latency_s > 0)
        return np.asarray(1.0 + self._slowdown_frac * np.minimum(busy, 1.0))
