"""FLOPs, memory traffic, energy and cost of a simulated run, from what the engine counted and the compiled plan.

Each quantity is summed at the run's mean steps (see ``simulator.results.mean_step``). Where a step waits for its host
(launches, serial work, gaps between pieces of graphs) its devices draw what they do between kernels, the awake power.
An op that takes longer than its best estimate (an end of the interval) draws the device's idle power for the
difference. Between steps a device draws its idle power.

Joules are off by their own constants too: awake power, energy of work, and how both fall with the clock, each by its
error, in quadrature. A run at an end of its steps' times says by how much; its joules are those of the best constants,
since slower steps may well take less energy (fewer of them, of more sequences each).
"""

import math
from collections.abc import Callable, Container
from typing import Final

import numpy as np

from cluster_specs.cluster import ClusterSpec
from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.arrays import Array
from costmodel.ops.roofline import peak_flop_per_s
from simulator.engine.result import EngineResult, over_replicas
from simulator.plan.plan import Plan
from simulator.results.mean_step import MeanSteps, Quantity, StepCounts, Tabled, encoder_total
from simulator.steps.compiled_plan import CompiledPlan, StageSums, once_each
from simulator.steps.step_ends import AWAKE_POWER, VOLTAGE, WORK_ENERGY
from simulator.steps.step_sum import EnergyParts, IntervalEnd, StepSum

_S_PER_PS: Final = 1e-12
# Among the figures of a run at an end alone, for `simulator.results.interval`.
POWER_LOG_WIDTH: Final = "power_log_width"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWork:
    """Sums over all devices of a plan and the whole run."""

    flop: float
    memory_bytes: float
    energy_j: float | None  # None where an op's energy is unknown
    busy_device_s: float
    total_device_s: float
    power_log_width: float = 0.0  # half the 90 % interval of ln ``energy_j`` on the run's side, of power's constants


def run_work(
    compiled: CompiledPlan,
    result: EngineResult,
    plan: Plan,
    cluster: ClusterSpec,
    *,
    end: IntervalEnd = "middle",
    only: Container[str] | None = None,
) -> RunWork:
    """Add up the work of every rank of every stage of every replica; ``end`` is the one ``result`` was run with.

    ``only`` holds the sources of error that are at it (`step_ends`).
    """
    totals = result.replicas
    power, clock_mhz = compiled.power, compiled.clock_mhz
    idle_w = cluster.device.idle_w
    makespan_s = float(totals.last_end_ps.max()) * _S_PER_PS

    awake_w = float(power.awake_w_at(clock_mhz))

    def beyond_awake(total: StepSum) -> Array:
        """Joules of ops without what an awake device draws meanwhile: that goes with the time the engine counted."""
        seconds = compiled.seconds(total, end, only)
        return total.energy_j + idle_w * (seconds - total.latency_s) - awake_w * seconds

    # The engine counts schedulers: a replica, or each attention-data rank of one. Either drives tp devices per stage.
    counted = [StepCounts.of_replica(totals, replica) for replica in range(totals.dp)]
    every = [MeanSteps(compiled.knots, counts) for counts in counted]

    def whole(quantity: Quantity, kept_as: str | None = None) -> float:
        """Add a quantity up; what is tabled of it is kept with the stages where it has a name."""

        def works_of(steps: MeanSteps) -> Callable[[Tabled], float]:
            return lambda tables: steps.totals(tables).work

        def tabled(stage: StageSums) -> Tabled:
            if kept_as is None:
                return Tabled.of(stage, quantity)
            return stage.kept(kept_as, lambda: Tabled.of(stage, quantity))

        stages = once_each(compiled.stages, tabled)
        work = sum(plan.tp * sum(once_each(stages, works_of(steps))) for steps in every)
        return work + sum(plan.tp * encoder_total(compiled.encoder, counts, quantity) for counts in counted)

    busy_s = over_replicas(totals.busy_ps) * _S_PER_PS * plan.tp  # the engine sums over stages
    total_s = makespan_s * plan.num_devices
    # What the draft model draws is not known: at least what an idle device does.
    draft_s = over_replicas(totals.draft_ps) * _S_PER_PS * plan.tp
    price = f"{end}, {compiled.spread.step_frac}, {idle_w}, {awake_w}"
    beyond_j = whole(beyond_awake, f"joules beyond awake, {price}" if only is None else None)
    energy_j = beyond_j + awake_w * (busy_s - draft_s)
    energy_j += idle_w * (max(0.0, total_s - busy_s) + draft_s)
    log_width = 0.0
    if end != "middle":
        waiting_s = max(0.0, busy_s - draft_s - whole(lambda total: compiled.seconds(total, end, only)))
        shift_j = _shift_j(compiled, whole, (awake_w - idle_w) * waiting_s, end, only)
        most_j = max(0.0, power.tdp_w * total_s - energy_j)
        log_width = math.log1p(min(shift_j, most_j) / energy_j) if energy_j > 0 else 0.0
    if only is not None:
        energy_j, log_width = energy_j * math.exp(log_width), 0.0
    return RunWork(
        flop=whole(lambda total: total.flop, "flop"),
        memory_bytes=whole(lambda total: total.io_bytes, "io_bytes"),
        energy_j=energy_j if np.isfinite(energy_j) else None,
        busy_device_s=busy_s,
        total_device_s=total_s,
        power_log_width=abs(log_width),
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
    if work.power_log_width:
        metrics[POWER_LOG_WIDTH] = work.power_log_width
    if work.energy_j is not None:
        metrics["energy_j"] = work.energy_j
        metrics["mean_power_w"] = work.energy_j / seconds
        if output_tokens:
            metrics["energy_j_per_output_token"] = work.energy_j / output_tokens
    if cluster.usd_per_device_hour is not None and output_tokens:
        usd = cluster.usd_per_device_hour * seconds / 3600
        metrics["usd_per_million_output_tokens"] = usd * 1e6 / output_tokens
    return metrics


def _shift_j(
    compiled: CompiledPlan,
    whole: Callable[[Quantity], float],
    waiting_j: float,
    end: IntervalEnd,
    only: Container[str] | None,
) -> float:
    """Return what the errors of the power model at an end add to the joules of a run.

    ``waiting_j`` is what being awake adds to idle power while steps wait for their host.
    """
    power, clock_mhz = compiled.power, compiled.clock_mhz
    sign, law = (-1.0, power.voltage_ends()[0]) if end == "low" else (1.0, power.voltage_ends()[1])

    def parts(total: StepSum) -> EnergyParts:
        return total.energy_parts(power, clock_mhz)

    def at_law(total: StepSum) -> Array:
        return parts(total).voltage_low_j if end == "low" else parts(total).voltage_high_j

    ops_j = whole(lambda total: total.energy_j)
    awake_j = whole(lambda total: parts(total).awake_j)
    idle_j = power.idle_w * whole(lambda total: total.latency_s)
    waits = float(law.awake_factor(clock_mhz) / power.awake_factor(clock_mhz)) - 1.0
    shifts_j = {
        AWAKE_POWER: power.error_frac * (awake_j + waiting_j),
        WORK_ENERGY: power.error_frac * (ops_j - awake_j - idle_j),
        VOLTAGE: whole(at_law) - ops_j + waits * waiting_j,
    }
    return sign * math.hypot(*(shift_j for name, shift_j in shifts_j.items() if only is None or name in only))
