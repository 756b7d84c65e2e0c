"""FLOPs, memory traffic, energy and cost of a simulated run, from what the engine counted and the compiled plan.

Each quantity is taken at the mean decode-only step and at the mean step with prefill, times their number: exact for
what is linear in tokens, pairs and KV reads, which FLOPs and bytes of dense models are. Between steps a device draws
its idle power.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from costmodel.roofline import peak_flop_per_s
from simulator.engine.result import EngineResult
from simulator.op_curves import StepSum
from simulator.plan import Plan
from simulator.step_cost import CompiledPlan, Knots, StageSums

Array = NDArray[np.float64]

_S_PER_PS: Final = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Sums over all devices of a plan and the whole run."""

    flop: float
    memory_bytes: float
    energy_j: float | None  # None where an op's energy is unknown
    busy_device_s: float
    total_device_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    """What one replica did, summed over its steps."""

    steps: int
    decode_steps: int
    tokens: int
    decode_tokens: int
    rows: int
    decode_kv: int
    pairs: int


def run_work(compiled: CompiledPlan, result: EngineResult, plan: Plan, cluster: ClusterSpec) -> Work:
    """Add up the work of every rank of every stage of every replica."""
    totals = result.replicas
    makespan_s = float(totals.last_end_ps.max()) * _S_PER_PS
    flop = moved = energy_j = 0.0
    for replica in range(totals.dp):
        counts = _Counts(
            steps=int(totals.steps[replica]),
            decode_steps=int(totals.decode_steps[replica]),
            tokens=int(totals.prefill_tokens[replica] + totals.decode_tokens[replica]),
            decode_tokens=int(totals.decode_tokens[replica]),
            rows=int(totals.sampled_rows[replica]),
            decode_kv=int(totals.decode_kv_reads[replica]),
            pairs=int(totals.prefill_pairs[replica]),
        )
        replica_flop, replica_bytes, replica_j = _replica_work(compiled, counts)
        flop += replica_flop * plan.stage_ranks
        moved += replica_bytes * plan.stage_ranks
        energy_j += replica_j * plan.stage_ranks
    busy_s = float(totals.busy_ps.sum()) * _S_PER_PS * plan.replica_devices
    total_s = makespan_s * plan.num_devices
    energy_j += cluster.device.idle_w * max(0.0, total_s - busy_s)
    return Work(
        flop=flop,
        memory_bytes=moved,
        energy_j=energy_j if np.isfinite(energy_j) else None,
        busy_device_s=busy_s,
        total_device_s=total_s,
    )


def work_metrics(work: Work, plan: Plan, cluster: ClusterSpec, output_tokens: int, dtype: str) -> dict[str, float]:
    """Name the utilisations, energy and price; what is unknown (no price stated) is left out.

    MFU and MBU relate to stated dense peaks of all devices over the whole run, idle time included.
    """
    device = cluster.device
    seconds = max(work.total_device_s, 1e-12)
    metrics = {
        "mfu_frac": work.flop / (seconds * peak_flop_per_s(device, dtype, plan.clock_mhz)),
        "mbu_frac": work.memory_bytes / (seconds * device.memory_bytes_per_s),
        "device_busy_frac": work.busy_device_s / seconds,
    }
    if work.energy_j is not None:
        metrics["energy_j"] = work.energy_j
        metrics["mean_power_w"] = work.energy_j / seconds
        metrics["energy_j_per_output_token"] = work.energy_j / max(1, output_tokens)
    if cluster.usd_per_device_hour is not None:
        usd = cluster.usd_per_device_hour * seconds / 3600
        metrics["usd_per_million_output_tokens"] = usd * 1e6 / max(1, output_tokens)
    return metrics


def _replica_work(compiled: CompiledPlan, counts: _Counts) -> tuple[float, float, float]:
    """FLOP, bytes and joules of one rank of each stage, summed over stages."""
    return (
        sum(_stage_sum(stage, compiled.knots, counts, lambda total: total.flop) for stage in compiled.stages),
        sum(_stage_sum(stage, compiled.knots, counts, lambda total: total.io_bytes) for stage in compiled.stages),
        sum(_stage_sum(stage, compiled.knots, counts, lambda total: total.energy_j) for stage in compiled.stages),
    )


def _stage_sum(stage: StageSums, knots: Knots, counts: _Counts, quantity: Callable[[StepSum], Array]) -> float:
    """Sum a quantity over all steps of one stage: decode-only steps and steps with prefill each at their mean."""
    steps, mixed = max(1, counts.steps), counts.steps - counts.decode_steps
    batch = counts.decode_tokens / steps
    mixed_tokens = (counts.tokens - batch * counts.decode_steps) / max(1, mixed)
    total = counts.decode_steps * _at(quantity(stage.tokens), knots.tokens, batch)
    total += mixed * _at(quantity(stage.tokens), knots.tokens, mixed_tokens)
    total += counts.steps * _at(quantity(stage.samples), knots.rows, counts.rows / steps)
    total += counts.steps * _at(quantity(stage.sends), knots.tokens, counts.tokens / steps)
    total += mixed * _at(quantity(stage.prefill), knots.pairs, counts.pairs / max(1, mixed))
    row = int(np.clip(np.searchsorted(knots.batch, batch), 0, len(knots.batch) - 1))
    for decode in (stage.decode, stage.windowed):
        at_batch = quantity(decode).reshape(len(knots.batch), len(knots.kv))[row]
        total += counts.steps * _at(at_batch, knots.kv, counts.decode_kv / steps)
    return total


def _at(values: Array, knots: NDArray[np.int64], point: float) -> float:
    return float(np.interp(point, knots, values)) if point > 0 else 0.0
