"""How much longer arithmetic takes on a busy server than in an isolated benchmark: clocks at the power cap.

A kernel timed by itself runs for milliseconds at the boost clock; a server that computes without pause runs at the
power cap, where the clock falls. An op slows down by

    1 + SUSTAINED_SLOWDOWN * u,   u = FLOP / (time * dense peak * GEMM efficiency), at most 1

so that memory-bound ops and transfers keep their time. A locked clock is below the cap: nothing slows down there.
Source of the constant: prefill of public vLLM servings on H100 takes 1.14 times as long as its kernels one by one.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.device import DeviceSpec
from costmodel.ops import Collective, Op
from costmodel.roofline import compute_dtype, peak_flop_per_s

Array = NDArray[np.float64]

SUSTAINED_SLOWDOWN: Final = 0.14


def sustained_factor(op: Op, latency_s: Array, device: DeviceSpec, clock_mhz: float | None) -> Array:
    """Time of ``op`` on a busy server over its isolated ``latency_s``; has the shape of ``latency_s``."""
    if isinstance(op, Collective) or clock_mhz is not None or device.kind != "gpu":
        return np.ones_like(latency_s)
    dtype = compute_dtype(op)
    efficiency = {str(name): constant.value for name, constant in device.analytic.gemm_efficiency.items()}
    reachable = peak_flop_per_s(device, dtype) * efficiency.get(dtype, max(efficiency.values(), default=1.0))
    needed_s = np.asarray(op.flop(), dtype=np.float64) / reachable
    busy = np.divide(needed_s, latency_s, out=np.zeros_like(latency_s), where=latency_s > 0)
    return 1.0 + SUSTAINED_SLOWDOWN * np.minimum(busy, 1.0)
