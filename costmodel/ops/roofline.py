"""The time no device can beat: floor = max(FLOP / peak at the clock, bytes / memory bandwidth, sent / link bandwidth).

Peaks scale linearly with the SM clock; memory and links do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.arrays import Array
from costmodel.ops.custom import Custom
from costmodel.ops.link_hierarchy import hops, level_share
from costmodel.ops.number_formats import SCHEMES
from costmodel.ops.op_types import Attention, Collective, Elementwise, Gemm, Moe, Op, Scan

if TYPE_CHECKING:
    from cluster_specs.cluster import ClusterSpec
    from cluster_specs.device import DeviceSpec


# Where a device has no unit for a compute type, kernels convert to the next one that it has.
_WIDER = {"fp4": "fp8", "fp8": "bf16", "int8": "bf16", "bf16": "fp16", "fp16": "fp32", "tf32": "fp32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """Work and lower bound of an op; arrays have the op's broadcast shape.

    ``bytes`` is memory traffic, or for a collective the bytes a rank sends over its links.
    """

    flop: Array
    bytes: Array
    floor_s: Array


def compute_dtype(op: Op) -> str:
    """Return the number format the op's arithmetic runs in."""
    if isinstance(op, Gemm | Moe):
        return SCHEMES[op.dtype].compute
    return op.dtype


def peak_flop_per_s(device: DeviceSpec, dtype: str, clock_mhz: float | None = None) -> float:
    """Dense peak for a compute type, or for the nearest wider one the device has, at the clock."""
    peaks: dict[str, float] = {str(name): peak for name, peak in device.peak_flop_per_s.items()}
    while dtype not in peaks and dtype in _WIDER:
        dtype = _WIDER[dtype]
    peak = peaks[dtype] if dtype in peaks else max(peaks.values())
    return peak if clock_mhz is None else peak * clock_mhz / device.clock.reference_mhz


def format_efficiency(cluster: ClusterSpec, dtype: str) -> tuple[float, float]:
    """Return the analytic compute and memory efficiency of a GEMM number format on the device."""
    constants = cluster.device.analytic
    known = {str(name): constant.value for name, constant in constants.gemm_efficiency.items()}
    return known.get(SCHEMES[dtype].compute, min(known.values())), constants.memory_efficiency.value


def roofline(op: Op, cluster: ClusterSpec, clock_mhz: float | None = None) -> Roofline:
    """Count the work of ``op`` and the time its device or links need at their stated peaks."""
    flop = np.asarray(op.flop(), dtype=np.float64)
    if isinstance(op, Collective):
        return _link_roofline(op, cluster, flop)
    return _device_roofline(op, cluster.device, flop, clock_mhz)


def _device_roofline(
    op: Gemm | Attention | Scan | Moe | Elementwise | Custom, device: DeviceSpec, flop: Array, clock_mhz: float | None
) -> Roofline:
    moved = np.asarray(op.io_bytes(), dtype=np.float64)
    seconds = flop / peak_flop_per_s(device, compute_dtype(op), clock_mhz)
    # Skewed routing reaches fewer experts than the uniform count in the bytes: only arithmetic bounds it.
    if not (isinstance(op, Moe) and op.routing != "balanced"):
        seconds = np.maximum(seconds, moved / device.memory_bytes_per_s)
    if not flop.shape == moved.shape == seconds.shape:
        flop, moved, seconds = np.broadcast_arrays(flop, moved, seconds)
    return Roofline(flop=flop, bytes=moved, floor_s=seconds)


def _link_roofline(op: Collective, cluster: ClusterSpec, flop: Array) -> Roofline:
    """Slowest level of the hierarchy; a switch that reduces in flight (NVLink SHARP) lets each rank send S once."""
    message = np.asarray(op.message_bytes, dtype=np.float64)
    per_byte_s, sent = 0.0, 0.0
    for hop in hops(cluster, op.ranks, op.group_stride):
        share = level_share(op.kind, hop, op.ranks)
        if op.kind == "all_reduce" and hop.link.kind == "nvlink":
            share = min(share, 1.0 / hop.inner)
        per_byte_s = max(per_byte_s, share / hop.link.bytes_per_s)
        sent += share
    return Roofline(flop=flop, bytes=message * sent, floor_s=message * per_byte_s)
