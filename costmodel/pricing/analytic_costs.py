"""Op costs with no measurement at all: roofline times calibrated efficiencies, plus launch floors.

Compute and memory times join as a p-norm (p = 4), which rounds the knee of the roofline as measured kernels do. A
collective is alpha-beta per level of its hierarchy; on NVLink every peer is one hop away, as in one- and two-shot
all-reduce kernels. The constants and their sources stand in the device's TOML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from costmodel.cost_model import Prediction, Source
from costmodel.ops.arrays import Array
from costmodel.ops.custom import Custom
from costmodel.ops.link_hierarchy import hop_latency_s, hops, level_share
from costmodel.ops.number_formats import DTYPE_BYTES, SCHEMES
from costmodel.ops.op_types import Attention, Collective, Elementwise, Gemm, Moe, Op, Scan
from costmodel.ops.roofline import compute_dtype, peak_flop_per_s, roofline
from costmodel.power_model import PowerModel

if TYPE_CHECKING:
    from cluster_specs.cluster import ClusterSpec


_KNEE = 4.0
# Of a kernel's floor, the part that stays when it has work to do: 1.5 us of 2.4 us inside CUDA graphs.
_RAMP_FRAC = 0.625
# Launch floors of composite calls, in kernel floors: what the smallest calls take in the imported tables of A100,
# H100, H200, B200 and L40S (attention 3.4 to 4.1: cache write, scheduling, kernel, combine; routed experts 8 to 22).
_ATTENTION_FLOORS = 4.0
_MOE_FLOORS = 12.0
# Half-width of the 90 % interval in natural log: the 90th percentile of |ln(analytic / measured)| over the same tables
# (0.6 million rows; bf16 for GEMM and experts, formats with activation quantisation inside the timing lie further out).
LOG_HALF_WIDTH: Final[Mapping[type[Op], float]] = {
    Gemm: 0.6,
    Attention: 1.2,
    Scan: 1.4,
    Moe: 1.0,
    Elementwise: 0.9,
    Custom: 1.4,  # nothing is known of the kernel: as wide as the widest
    Collective: 1.0,
}
# Grouped GEMMs reach about half of the plain GEMM's compute efficiency in the same tables, once the rows in between are
# counted: hidden is gathered, written and summed, inter written twice and read twice before and written after the
# activation, all in 16 bits. The median of 1,024 to 16,384 tokens is then 0.7 to 0.9 of the measured time.
_GROUPED_SHARE = 0.5
_ROW_BYTES = 2.0
# A prefill's efficiency rises with its keys, as masked halves of diagonal tiles and idle processors weigh less: it is
# 1.4 k / (k + 1000) of the device's median at k keys, over the eight devices with tables.
_LONG_PREFILL = 1.4
_HALF_KEYS = 1000.0
# A scan of whole prompts is several kernels with intermediates in memory: its compulsory bytes pass at this share of
# the stated bandwidth, behind so many kernel floors. vLLM's gated delta kernels on seven devices reach 0.13 (Triton) to
# 0.50 (FlashInfer on H100), SGLang's and TensorRT-LLM's 0.04 to 0.16, behind 4 to 12 floors (69,000 rows of the
# imported tables, of which vLLM's prefill comes out at a median ratio of 1.0). One-token steps stream the state at the
# device's memory efficiency (0.77 to 0.90 there), behind 1.5 to 2 floors. No table has state-space scans: they are
# taken to do as well.
_SCAN_PREFILL_EFFICIENCY = 0.25
_SCAN_PREFILL_FLOORS = 7.0
_SCAN_DECODE_FLOORS = 1.75


class AnalyticCosts:
    """Prices ops from ``DeviceSpec.analytic`` alone; every answer is labelled ``Source.ANALYTIC``."""

    def __init__(self, cluster: ClusterSpec, clock_mhz: float | None = None) -> None:
        self.cluster = cluster
        self.clock_mhz = clock_mhz
        self.power = PowerModel.from_device(cluster.device)
        constants = cluster.device.analytic
        self._floor_s = constants.kernel_floor_s.value
        self._ramp_s = _RAMP_FRAC * self._floor_s
        self._stream = cluster.device.memory_bytes_per_s * constants.memory_efficiency.value
        self._gemm_efficiency = {str(name): constant.value for name, constant in constants.gemm_efficiency.items()}

    def predict(self, op: Op) -> Prediction:
        """Price ``op``; sizes outside any data are no error here, there is no domain to leave."""
        match op:
            case Gemm():
                latency_s = self._gemm(op)
            case Attention():
                latency_s = self._attention(op)
            case Scan():
                latency_s = self._scan(op)
            case Moe():
                latency_s = self._moe(op)
            case Elementwise():
                ramp_s = self._ramp_s + np.asarray(op.io_bytes()) / self._stream
                latency_s = np.maximum(self._floor_s, ramp_s)
            case Custom():
                latency_s = self._custom(op)
            case Collective():
                latency_s = self._collective(op)
        return self._prediction(op, np.asarray(latency_s, dtype=np.float64))

    @property
    def origin(self) -> str:
        """Say that no op was measured, and where the constants come from."""
        device = self.cluster.device
        return f"analytic constants of {device.name} ({device.constants_text})"

    @property
    def frameworks(self) -> frozenset[str]:
        """None: no op was measured."""
        return frozenset()

    def outside(self) -> str:
        """Nothing to add: the origin says that no price is measured."""
        return ""

    def includes_quantise(self, dtype: str) -> bool:
        """Whether GEMM times include quantising the activations, as those of measured kernels do."""
        return _rounds_activations(dtype)

    def of_engine(self, engine: str) -> AnalyticCosts:  # noqa: ARG002 - same question as to a fitted model
        """Return the same constants: no engine has its own."""
        return self

    def _prediction(self, op: Op, latency_s: Array) -> Prediction:
        work = roofline(op, self.cluster, self.clock_mhz)
        spread = np.exp(LOG_HALF_WIDTH[type(op)])
        energy_j = self.power.op_energy_j(op, work, latency_s, self.clock_mhz)
        return Prediction(
            latency_s=latency_s,
            low_s=np.minimum(np.maximum(latency_s / spread, work.floor_s), latency_s),
            high_s=latency_s * spread,
            energy_j=energy_j,
            source=np.full(latency_s.shape, Source.ANALYTIC, dtype=np.int8),
        )

    def _compute_rate(self, dtype: str, efficiency: float | None = None) -> float:
        if efficiency is None:
            efficiency = self._gemm_efficiency.get(dtype, min(self._gemm_efficiency.values()))
        return efficiency * peak_flop_per_s(self.cluster.device, dtype, self.clock_mhz)

    def _gemm(self, op: Gemm) -> Array:
        compute_s = op.flop() / self._compute_rate(compute_dtype(op))
        product_s = np.maximum(self._floor_s, self._ramp_s + _knee(compute_s, op.io_bytes() / self._stream))
        if not _rounds_activations(op.dtype):
            return product_s
        # A kernel of its own reads the activations in 16 bits and writes them as the product reads them.
        moved = _ROW_BYTES + DTYPE_BYTES[SCHEMES[op.dtype].activation]
        rounded_s = moved * np.asarray(op.m, dtype=np.float64) * op.k / self._stream
        return np.asarray(product_s + np.maximum(self._floor_s, self._ramp_s + rounded_s))

    def _moe(self, op: Moe) -> Array:
        """Price grouped GEMMs, and the rows that travel through memory between them: gather, activation, sum."""
        rows = op.routed_tokens()
        compute_s = op.flop_of(rows) / self._compute_rate(compute_dtype(op))
        between_s = rows * _ROW_BYTES * (3 * op.hidden + 2 * op.up_width + op.local_inter) / self._stream
        products_s = _knee(compute_s / _GROUPED_SHARE, op.bytes_of(rows, op.active_experts()) / self._stream)
        return np.asarray(_MOE_FLOORS * self._floor_s + products_s + between_s)

    def _attention(self, op: Attention) -> Array:
        """Price prefill and decode tokens of one call: their work adds up, the launch is paid once."""
        constants = self.cluster.device.analytic
        rate = self._compute_rate(op.dtype, constants.attention_efficiency.value)
        decode_stream = self.cluster.device.memory_bytes_per_s * constants.decode_attention_efficiency.value
        seconds = np.asarray(0.0)
        if np.any(op.num_prefill):
            part = _phase(op, prefill=True)
            keys = np.maximum(np.asarray(op.prefill_kv, dtype=np.float64), 1.0)  # none where a batch only decodes
            long_rate = rate * _LONG_PREFILL * keys / (keys + _HALF_KEYS)
            seconds = seconds + _knee(part.flop() / long_rate, part.io_bytes() / self._stream)
        if np.any(op.num_decode):
            part = _phase(op, prefill=False)
            seconds = seconds + _knee(part.flop() / rate, part.io_bytes() / decode_stream)
        return np.asarray(_ATTENTION_FLOORS * self._floor_s + seconds)

    def _scan(self, op: Scan) -> Array:
        """Price prefill and decode as two calls, as engines run them."""
        floors, memory_s = 0.0 * op.tokens(), 0.0 * op.tokens()
        prefill_rate = _SCAN_PREFILL_EFFICIENCY * self.cluster.device.memory_bytes_per_s
        for part, floor, rate in (
            (replace(op, num_decode=0), _SCAN_PREFILL_FLOORS, prefill_rate),
            (replace(op, num_prefill=0), _SCAN_DECODE_FLOORS, self._stream),
        ):
            floors = floors + floor * self._floor_s * (part.tokens() > 0)
            memory_s = memory_s + part.io_bytes() / rate
        compute_s = op.flop() / self._compute_rate(op.dtype, self.cluster.device.analytic.attention_efficiency.value)
        return np.asarray(floors + _knee(compute_s, memory_s))

    def _custom(self, op: Custom) -> Array:
        """Price a kernel known by its counts alone: arithmetic as attention reaches it, bytes as they stream."""
        rate = self._compute_rate(op.dtype, self.cluster.device.analytic.attention_efficiency.value)
        work_s = _knee(np.asarray(op.flop()) / rate, np.asarray(op.io_bytes()) / self._stream)
        return np.maximum(self._floor_s, self._ramp_s + work_s)

    def _collective(self, op: Collective) -> Array:
        constants = self.cluster.device.analytic
        message = np.asarray(op.message_bytes, dtype=np.float64)
        path = hops(self.cluster, op.ranks, op.group_stride)
        if not path:
            return 0.0 * message
        seconds = constants.collective_floor_s.value + 0.0 * message
        seconds = seconds + sum(hop_latency_s(op.kind, hop) for hop in path)
        return np.asarray(seconds + sent_s(op, self.cluster) / constants.link_efficiency.value)


def _rounds_activations(dtype: str) -> bool:
    return SCHEMES[dtype].activation not in {"fp32", "bf16", "fp16"}


def sent_s(op: Collective, cluster: ClusterSpec) -> Array:
    """Seconds a rank's bytes need on the links of each level at their stated bandwidth, one level after the other."""
    per_byte_s = sum(
        level_share(op.kind, hop, op.ranks) / hop.link.bytes_per_s for hop in hops(cluster, op.ranks, op.group_stride)
    )
    return np.asarray(op.message_bytes, dtype=np.float64) * per_byte_s


def _knee(compute_s: Array, memory_s: Array) -> Array:
    """Join two bounds; the p-norm is scaled by the larger so that small times keep their precision."""
    larger = np.maximum(np.maximum(compute_s, memory_s), 1e-30)
    smaller = np.minimum(compute_s, memory_s)
    return np.asarray(larger * (1.0 + (smaller / larger) ** _KNEE) ** (1.0 / _KNEE))


def _phase(op: Attention, *, prefill: bool) -> Attention:
    """Keep the prefill chunks or the decode sequences of a call."""
    return Attention(
        num_heads=op.num_heads,
        num_kv_heads=op.num_kv_heads,
        head_dim=op.head_dim,
        v_head_dim=op.v_head_dim,
        dtype=op.dtype,
        kv_dtype=op.kv_dtype,
        variant=op.variant,
        window=op.window,
        num_prefill=op.num_prefill if prefill else 0,
        prefill_q=op.prefill_q,
        prefill_kv=op.prefill_kv,
        num_decode=0 if prefill else op.num_decode,
        decode_q=op.decode_q,
        decode_kv=op.decode_kv,
        decode_kv_max=op.decode_kv_max,
    )
