"""Power and energy of a device while it runs an op.

P = P_awake(clock) + (e_flop flop/s + (e_byte - e_dram) B/s) v(clock) + e_dram B/s + e_link B/s, never above TDP;
energy = P x latency. ``v`` is the dynamic-energy factor of voltage scaling, a power of the clock above a floor; the
DRAM's own part of what a byte takes does not follow it. ``P_awake`` is what a device draws between kernels of a running
engine, well above idle; what it adds to idle power scales as dynamic power does, with v and the clock. Where no joules
were measured the constants follow from whole serving runs on other devices. All constants carry their errors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Self

import numpy as np

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.arrays import Array
from costmodel.ops.op_types import Collective, Op
from costmodel.ops.roofline import Roofline, compute_dtype

if TYPE_CHECKING:
    from cluster_specs.device import DeviceSpec


# Llama-2-70B on A100-80GB at tp 2, 4 and 8 (public logs of whole runs): decode streams 0.63, 0.40 and 0.20 of the
# stated bandwidth at 0.74, 0.59 and 0.43 of TDP, a line of 0.28 + 0.71 x; prompt phases draw 1.00 of TDP.
_AWAKE_SHARE_OF_TDP = 0.28
_STREAM_SHARE_OF_TDP = 0.71
_GEMM_SHARE_OF_TDP = 1.0
# SerDes plus switch, both ends: about 10 pJ per bit.
_LINK_J_PER_BYTE = 80e-12
# An access to HBM2 takes 3.9 pJ per bit (O'Connor et al., Fine-Grained DRAM, MICRO 2017); its supply is its own.
_DRAM_J_PER_BYTE = 8 * 3.9e-12
# Below this share of the top clock the supply sits at its lowest voltage.
_FLAT_VOLTAGE_FRAC = 0.55
# Energy per operation goes with the clock to this power: the square of a voltage that is linear in the clock. Recalled
# practice: nothing public has joules over clocks. A voltage that keeps an offset falls slower (V100: 0.68 of the top
# voltage at 0.59 of the clock is 1.5, a voltage of the clock's root is 1), and half a 90 % interval of 1 covers that.
_VOLTAGE_EXPONENT = 2.0
_VOLTAGE_EXPONENT_ERROR = 1.0
# Half the 90 % interval of each share of TDP above. 90 % of the watts of those A100 runs are as near with the runs of
# their tp left out (docs/accuracy.md). Other devices take over A100's shares: H100 that decodes one sequence is
# published at 300 W (ML.ENERGY benchmark 3.0) where they say up to 590, and at 600 W with 128 sequences, as they say.
_COMPARED_ERROR_FRAC = 0.11
_COMPARED_DEVICES = frozenset({"a100-sxm-40gb", "a100-sxm-80gb"})
_DERIVED_ERROR_FRAC = 0.5
# The lowest clock a driver steps down to, as a share of the top one: 210 of 1,410 MHz on A100.
LEAST_CLOCK_FRAC = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerModel:
    """Constants of the power equation for one device."""

    idle_w: float
    awake_w: float
    tdp_w: float
    j_per_flop: dict[str, float]
    j_per_byte: float
    j_per_link_byte: float
    max_mhz: float
    source: str
    voltage_exponent: float = _VOLTAGE_EXPONENT
    voltage_exponent_error: float = _VOLTAGE_EXPONENT_ERROR  # half its 90 % interval
    error_frac: float = _DERIVED_ERROR_FRAC  # likewise, of the awake power and of the energy of work

    @classmethod
    def from_device(cls, device: DeviceSpec) -> Self:
        """Derive the constants of an unmeasured device from its spec and the shares above."""
        efficiency = {str(name): constant.value for name, constant in device.analytic.gemm_efficiency.items()}
        lowest = min(efficiency.values(), default=0.7)
        awake_w = max(device.idle_w, _AWAKE_SHARE_OF_TDP * device.tdp_w)
        swing = _GEMM_SHARE_OF_TDP * device.tdp_w - awake_w
        return cls(
            idle_w=device.idle_w,
            awake_w=awake_w,
            tdp_w=device.tdp_w,
            j_per_flop={
                str(name): swing / (peak * efficiency.get(str(name), lowest))
                for name, peak in device.peak_flop_per_s.items()
            },
            j_per_byte=_STREAM_SHARE_OF_TDP * device.tdp_w / device.memory_bytes_per_s,
            j_per_link_byte=_LINK_J_PER_BYTE,
            max_mhz=device.clock.max_mhz,
            error_frac=_COMPARED_ERROR_FRAC if device.name in _COMPARED_DEVICES else _DERIVED_ERROR_FRAC,
            source="shares of TDP as in public A100 serving logs: awake 0.28, full stream 0.71 more, GEMM 1.00",
        )

    @property
    def dram_j_per_byte(self) -> float:
        """The part of the energy per byte that is the DRAM's own, whatever the SM clock."""
        return min(_DRAM_J_PER_BYTE, self.j_per_byte)

    @property
    def least_mhz(self) -> float:
        """Lowest clock the device steps down to."""
        return LEAST_CLOCK_FRAC * self.max_mhz

    def voltage_factor(self, clock_mhz: float | Array | None) -> Array:
        """Dynamic energy per operation relative to the top clock: (V / V_max)^2, a power of the clock above a floor."""
        if clock_mhz is None:
            return np.asarray(1.0)
        frac = np.clip(np.asarray(clock_mhz) / self.max_mhz, _FLAT_VOLTAGE_FRAC, 1.0)
        return np.asarray(frac**self.voltage_exponent)

    def awake_factor(self, clock_mhz: float | Array | None) -> Array:
        """Return what being awake adds to idle power, relative to the top clock."""
        if clock_mhz is None:
            return np.asarray(1.0)
        return np.asarray(self.voltage_factor(clock_mhz) * np.minimum(np.asarray(clock_mhz) / self.max_mhz, 1.0))

    def awake_w_at(self, clock_mhz: float | Array | None) -> Array:
        """Return what a device draws between the kernels of a running engine."""
        return np.asarray(self.idle_w + (self.awake_w - self.idle_w) * self.awake_factor(clock_mhz))

    def voltage_ends(self) -> tuple[PowerModel, PowerModel]:
        """Return the model at both ends of how energy may fall with the clock: where it falls most, and least."""
        exponent, error = self.voltage_exponent, self.voltage_exponent_error
        return (
            replace(self, voltage_exponent=exponent + error),
            replace(self, voltage_exponent=max(0.0, exponent - error)),
        )

    def op_energy_j(self, op: Op, work: Roofline, latency_s: Array, clock_mhz: float | None = None) -> Array:
        """Energy of one device per call of ``op``: its bytes cross a link, or else the device's memory."""
        is_link = isinstance(op, Collective)
        return self.energy_j(
            latency_s,
            dtype=compute_dtype(op),
            flop=work.flop,
            memory_bytes=0.0 if is_link else work.bytes,
            link_bytes=work.bytes if is_link else 0.0,
            clock_mhz=clock_mhz,
        )

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
        core_j_per_byte = self.j_per_byte - self.dram_j_per_byte
        dynamic = (per_flop * flop + core_j_per_byte * memory_bytes) * self.voltage_factor(clock_mhz)
        dynamic = dynamic + self.dram_j_per_byte * memory_bytes
        joules = self.awake_w_at(clock_mhz) * latency_s + dynamic + self.j_per_link_byte * link_bytes
        return np.minimum(joules, self.tdp_w * latency_s)
