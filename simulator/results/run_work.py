"""FLOPs, memory traffic, energy and cost of a simulated run, from what the engine counted and the compiled plan.

Each quantity is summed at the run's mean steps (see ``simulator.results.mean_step``). An op that takes longer than its
best estimate (an end of the interval) draws the device's idle power for the difference. Between steps a device draws
its idle power.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from cluster_specs.cluster import ClusterSpec
from costmodel.ops.arrays import Array
from costmodel.ops.roofline import peak_flop_per_s
from simulator.engine.result import EngineResult, over_replicas
from simulator.plan.plan import Plan
from simulator.results.mean_step import Quantity, StepCounts, stage_totals
from simulator.steps.compiled_plan import CompiledPlan
from simulator.steps.step_sum import IntervalEnd, StepSum

_S_PER_PS: Final = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWork:
    """Sums over all devices of a plan and the whole run."""

    flop: float
    memory_bytes: float
    energy_j: float | None  # None where an op's energy is unknown
    busy_device_s: float
    total_device_s: float


def run_work(
    compiled: CompiledPlan, result: EngineResult, plan: Plan, cluster: ClusterSpec, *, end: IntervalEnd = "middle"
) -> RunWork:
    """Add up the work of every rank of every stage of every replica; ``end`` is the one ``result`` was run with."""
    totals = result.replicas
    idle_w = cluster.device.idle_w
    makespan_s = float(totals.last_end_ps.max()) * _S_PER_PS

    def energy(total: StepSum) -> Array:
        return total.energy_j + idle_w * (compiled.seconds(total, end) - total.latency_s)

    # The engine counts schedulers: a replica, or each attention-data rank of one. Either drives tp devices per stage.
    flop = moved = energy_j = 0.0
    for replica in range(totals.dp):
        counts = StepCounts.of_replica(totals, replica)
        flop += plan.tp * _rank_sum(compiled, counts, lambda total: total.flop)
        moved += plan.tp * _rank_sum(compiled, counts, lambda total: total.io_bytes)
        energy_j += plan.tp * _rank_sum(compiled, counts, energy)
    busy_s = over_replicas(totals.busy_ps) * _S_PER_PS * plan.tp  # the engine sums over stages
    total_s = makespan_s * plan.num_devices
    # What the draft model draws is not known: at least what an idle device does.
    draft_s = over_replicas(totals.draft_ps) * _S_PER_PS * plan.tp
    energy_j += idle_w * (max(0.0, total_s - busy_s) + draft_s)
    return RunWork(
        flop=flop,
        memory_bytes=moved,
        energy_j=energy_j if np.isfinite(energy_j) else None,
        busy_device_s=busy_s,
        total_device_s=total_s,
    )


def work_metrics(work: RunWork, plan: Plan, cluster: ClusterSpec, output_tokens: int, dtype: str) -> dict[str, float]:
    """Name the utilisations, energy and price; what is unknown (no price stated, no token to charge) is left out.

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
        if output_tokens:
            metrics["energy_j_per_output_token"] = work.energy_j / output_tokens
    if cluster.usd_per_device_hour is not None and output_tokens:
        usd = cluster.usd_per_device_hour * seconds / 3600
        metrics["usd_per_million_output_tokens"] = usd * 1e6 / output_tokens
    return metrics


def _rank_sum(compiled: CompiledPlan, counts: StepCounts, quantity: Quantity) -> float:
    """Sum a quantity of one rank of each stage over all stages and steps."""
    return sum(stage_totals(stage, compiled.knots, counts, quantity).work for stage in compiled.stages)
