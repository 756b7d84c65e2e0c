"""Power and energy of a device while it runs an op.

P = P_idle + (e_flop flop/s + e_byte B/s) v(clock) + e_link B/s, never above TDP; energy = P x latency. ``v`` is the
dynamic-energy factor of voltage scaling. Where no joules were measured the energies per unit follow from two anchors:
a GEMM at its calibrated efficiency and a stream at its calibrated bandwidth each draw a stated share of TDP.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cluster_specs.device import DeviceSpec

Array = NDArray[np.float64]

# Llama-2-70B on A100-80GB: prompt phases draw 1.00 of TDP, decode 0.74 while streaming 0.64 of the stated bandwidth
# (public logs of whole serving runs, 2023).
_GEMM_SHARE_OF_TDP = 1.0
_STREAM_SHARE_OF_TDP = 0.74
# SerDes plus switch, both ends: about 10 pJ per bit.
_LINK_J_PER_BYTE = 80e-12
# Below this share of the top clock the supply sits at its lowest voltage.
_FLAT_VOLTAGE_FRAC = 0.55


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerModel:
    """Constants of the power equation for one device."""

    idle_w: float
    tdp_w: float
    j_per_flop: dict[str, float]
    j_per_byte: float
    j_per_link_byte: float
    max_mhz: float
    source: str

    @classmethod
    def from_device(cls, device: DeviceSpec) -> Self:
        """Derive the constants of an unmeasured device from its spec and the two anchors."""
        efficiency = {str(name): constant.value for name, constant in device.analytic.gemm_efficiency.items()}
        lowest = min(efficiency.values(), default=0.7)
        stream = device.memory_bytes_per_s * device.analytic.memory_efficiency.value
        swing = max(device.tdp_w - device.idle_w, 0.0)
        return cls(
            idle_w=device.idle_w,
            tdp_w=device.tdp_w,
            j_per_flop={
                str(name): _GEMM_SHARE_OF_TDP * swing / (peak * efficiency.get(str(name), lowest))
                for name, peak in device.peak_flop_per_s.items()
            },
            j_per_byte=max(_STREAM_SHARE_OF_TDP * device.tdp_w - device.idle_w, 0.0) / stream,
            j_per_link_byte=_LINK_J_PER_BYTE,
            max_mhz=device.clock.max_mhz,
            source="anchors: GEMM at 1.00 and stream at 0.74 of TDP (public A100 serving logs)",
        )

    def voltage_factor(self, clock_mhz: float | None) -> float:
        """Dynamic energy per operation relative to the top clock: (V / V_max)^2 with V linear above its floor."""
        if clock_mhz is None:
            return 1.0
        frac = max(clock_mhz / self.max_mhz, _FLAT_VOLTAGE_FRAC)
        return min(frac, 1.0) ** 2

    def energy_j(
        self,
        latency_s: Array,
        *,
        dtype: str,
        flop: Array | float = 0.0,
        memory_bytes: Array | float = 0.0,
        link_bytes: Array | float = 0.0,
        clock_mhz: float | None = None,
    ) -> Array:
        """Energy of one device per call, in joules; the shape is that of ``latency_s``."""
        per_flop = self.j_per_flop.get(dtype, max(self.j_per_flop.values()))
        dynamic = (per_flop * flop + self.j_per_byte * memory_bytes) * self.voltage_factor(clock_mhz)
        joules = self.idle_w * latency_s + dynamic + self.j_per_link_byte * link_bytes
        return np.minimum(joules, self.tdp_w * latency_s)
