"""Whether runs can be calibrated on: of one server, answered, enough, and with the memory that the model says."""

from collections.abc import Sequence
from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.load import load_cluster
from simulator.calibration.memory_constants import counted_memory
from simulator.serving import Serving
from simulator.validation.measured_run import MeasuredRun, UnusableRun

LEAST_RUNS: Final = 3  # with fewer, leaving one out says nothing
# Block counts further off than the memory model's error and this are another server's: another model, share of memory
# or cache format than was stated.
_BLOCKS_FRAC: Final = 0.10


def refuse_unusable(runs: Sequence[MeasuredRun | UnusableRun]) -> list[MeasuredRun]:
    """Return the runs, all of one server; raises ``UserError`` for the first reason not to."""
    measured = []
    for run in runs:
        if isinstance(run, UnusableRun):
            raise UserError(f"{run.place}: cannot be calibrated on: {run.reason}", hint="leave the run out")
        if run.failed:
            raise UserError(
                f"{run.place}: {run.failed} of its requests failed, so that its load is not the one stated",
                hint="leave the run out, or make it again at a load that the server bears",
            )
        measured.append(run)
    if len(measured) < LEAST_RUNS:
        raise UserError(
            f"{len(measured)} runs are too few to calibrate on, at least {LEAST_RUNS} are needed",
            hint="apex calibrate --plan-runs says which runs tell most",
        )
    _refuse_two_servers(measured)
    return measured


def _refuse_two_servers(runs: Sequence[MeasuredRun]) -> None:
    first = runs[0]
    for run in runs[1:]:
        own, other = first.deployment, run.deployment
        for what, one, two in (
            ("model", own.model, other.model),
            ("engine", own.engine, other.engine),
            ("device", _device(own.cluster), _device(other.cluster)),
            ("fitted prices", own.costs, other.costs),
            ("engine", first.server.engine, run.server.engine),
            ("engine version", first.server.version, run.server.version),
        ):
            if one is not None and two is not None and one != two:
                raise UserError(
                    f"{run.place}: was measured with {what} {two}, and {first.place} with {one}: runs of two servers",
                    hint="calibrate each server on runs of its own",
                )


def _device(cluster: str) -> str:
    return load_cluster(cluster).device.name


def refuse_other_blocks(run: MeasuredRun, serving: Serving) -> None:
    """Hold the KV blocks that a server logged against what its model, plan and share of memory leave room for."""
    logged = run.server.num_gpu_blocks
    if logged is None:
        return
    memory = counted_memory(run, serving)
    if memory is None:
        return
    allowed = memory.blocks_error + _BLOCKS_FRAC * memory.num_gpu_blocks
    if abs(logged - memory.num_gpu_blocks) > allowed:
        raise UserError(
            f"{run.place}: its server had {logged:,} KV blocks of {memory.block_size} tokens, where "
            f"{run.deployment.model} as {run.deployment.plan} leaves room for {memory.num_gpu_blocks:,} (give or take "
            f"{round(allowed):,})",
            hint="state what the server was started with: --gpu-memory-utilization, --block-size, a plan with kv.fp8",
        )
