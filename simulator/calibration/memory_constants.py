"""Memory constants of a profile from the KV blocks that servers log when they start.

    predicted blocks - logged blocks = sum over constants of (blocks per MiB) * (MiB that the constant is short of) + e

A log is exact, so that what is left per server, ``e``, is what the memory model gets wrong of a plan: activations,
workspaces. Constants are drawn to the profile's values by their errors; one plan alone moves what all plans share,
tensor parallelism and its absence together tell the communicators apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from cluster_specs.lazy_dataclass import dataclass
from simulator.calibration.learnt import rounded
from simulator.calibration.unknowns import HALF_WIDTH
from simulator.engine_profiles.constant import Constant, error_of
from simulator.feasible.server_setup import Overrides
from simulator.memory.plan_memory import MemoryBudget
from simulator.pools.layouts import start_layout
from simulator.serving import Serving, StartedPlan
from simulator.validation.measured_run import MeasuredRun

_KEYS: Final = ("runtime_mib", "communicator_mib", "slow_communicator_mib")
_STEP_MIB: Final = 512.0  # over which blocks are counted: many blocks, and still linear
# A version, driver or image allocates a few hundred MiB more or less than the ones whose logs a profile rests on.
_LEAST_SD_MIB: Final = 256.0
_PLAN_SD_MIB: Final = 128.0  # of what is special about a plan
_COUNTED: Final = 1.0  # block, to which a log is exact


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedBlocks:
    """KV blocks of one server: as its log has them, as the profile counts them, and with the constants learnt."""

    plan: str
    logged: int
    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LearntMemory:
    """Constants by key of the profile's ``[memory]``, and the logs they rest on; neither where no run has a log."""

    values: Mapping[str, float]
    blocks: tuple[LoggedBlocks, ...]


def counted_memory(run: MeasuredRun, serving: Serving) -> MemoryBudget | None:
    """Return the memory of a run's server as the profile counts it, whatever its log says; None where none starts."""
    stated = {**run.deployment.settings, "num_gpu_blocks": None}
    started = start_layout(replace(serving, overrides=Overrides(**stated)), run.deployment.layout(), run.workload)
    return started.memory if isinstance(started, StartedPlan) else None


def learn_memory(runs: Sequence[MeasuredRun], servings: Sequence[Serving]) -> LearntMemory:
    """Estimate memory constants from every run whose server logged its blocks, each kind of server once."""
    logs: dict[tuple[str, int, int], tuple[MeasuredRun, Serving]] = {}
    for run, serving in zip(runs, servings, strict=True):
        logged = run.server.num_gpu_blocks
        counted = None if logged is None else counted_memory(run, serving)
        if logged is not None and counted is not None:
            logs.setdefault((run.deployment.plan, logged, counted.num_gpu_blocks), (run, serving))
    if not logs:
        return LearntMemory(values={}, blocks=())
    memory = servings[0].profile.memory
    taken = {key: np.array([_blocks_per_mib(run, serving, key) for run, serving in logs.values()]) for key in _KEYS}
    keys = [key for key in _KEYS if taken[key].any()]
    if not keys:
        return LearntMemory(values={}, blocks=())
    slopes = np.stack([taken[key] for key in keys], axis=1)
    known = np.diag([max(_LEAST_SD_MIB, error_of(getattr(memory, key)) / HALF_WIDTH) ** 2 for key in keys])
    own = np.diag((_PLAN_SD_MIB * slopes.max(axis=1)) ** 2 + _COUNTED**2)
    weight = known @ slopes.T @ np.linalg.inv(slopes @ known @ slopes.T + own)
    moves = weight @ np.array([before - logged for _, logged, before in logs], dtype=np.float64)
    left = np.sqrt(np.diag(known - weight @ slopes @ known))
    found: dict[str, float] = {}
    for key, move, sd in zip(keys, moves.tolist(), left.tolist(), strict=True):
        value = max(0.0, float(getattr(memory, key)) + move)
        found[key] = Constant(rounded(value), rounded(min(value, HALF_WIDTH * sd)))
    return LearntMemory(
        values=found,
        blocks=tuple(
            LoggedBlocks(plan=plan, logged=logged, before=before, after=_counted(run, serving, found))
            for (plan, logged, before), (run, serving) in logs.items()
        ),
    )


def _blocks_per_mib(run: MeasuredRun, serving: Serving, key: str) -> float:
    """Return the blocks that a MiB of a constant takes; none where the profile has no such constant."""
    value = getattr(serving.profile.memory, key)
    if value is None:
        return 0.0
    fewer, more = (_counted(run, serving, {key: value + move}) for move in (_STEP_MIB, 0.0))
    return (more - fewer) / _STEP_MIB


def _counted(run: MeasuredRun, serving: Serving, changes: Mapping[str, float]) -> int:
    """Return the blocks of a run's server with other memory constants; none where it would not start."""
    memory = serving.profile.memory.model_copy(update=dict(changes))
    found = counted_memory(run, replace(serving, profile=serving.profile.model_copy(update={"memory": memory})))
    return 0 if found is None else found.num_gpu_blocks
