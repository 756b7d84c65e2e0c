"""The parts of a server that a difference may sit in, and what each does to a simulated run when it alone is changed.

A part is changed in the compiled plan or in the engine's limits, and the same requests are replayed: what waits behind
a slower step waits in the replay too, so that a part's effect is never guessed from shares of time.
"""

import math
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np

from cluster_specs.lazy_dataclass import dataclass
from profiles_db.collective_kinds import COLLECTIVE_KINDS
from simulator.engine.bounds import MOST_BLOCKS
from simulator.engine.result import EngineResult
from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.serving import StartedPlan
from simulator.steps.compiled_plan import CompiledPlan, StageSums
from simulator.steps.step_sum import StepSum
from simulator.steps.step_tables import StepTables
from simulator.workload.workload import Workload

Area = Literal["queue", "prefill", "decode", "host", "frontend", "kernel family"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A started plan with some parts changed; ``prompts`` and ``decodes`` are factors on the two kinds of steps."""

    compiled: CompiledPlan
    limits: EngineLimits
    prompts: float = 1.0
    decodes: float = 1.0

    @classmethod
    def of(cls, start: StartedPlan) -> "Trial":
        """Return a plan as it was started."""
        return cls(compiled=start.compiled, limits=start.limits)

    def tables(self) -> StepTables:
        """Return the step tables of what was changed."""
        tables = self.compiled.tables()
        factors = {**dict.fromkeys(_WITH_PROMPTS, self.prompts), **dict.fromkeys(_WITHOUT, self.decodes)}
        scaled = {
            name: np.rint(getattr(tables, name) * factor).astype(np.int64)
            for name, factor in factors.items()
            if factor != 1.0
        }
        return replace(tables, **scaled)


Change = Callable[[Trial, float], Trial]

# Labels of ops by family of kernels, with the tables of a stage they are looked for in; None: whatever is left.
_ATTENTION_PREFILL: Final = ("prefill", "reads", "tokens")
_ATTENTION_DECODE: Final = ("decode", "windowed")
_MOST_FACTOR: Final = math.log(4)
_EVERYWHERE: Final = (*_ATTENTION_PREFILL, *_ATTENTION_DECODE, "pooled", "samples", "sends", "context", "scans")
_WITH_PROMPTS: Final = ("token_mixed_ps", "prefill_pair_ps", "prefill_kv_ps", "attention_start_ps", "context_ps")
_WITHOUT: Final = ("token_decode_ps", "decode_ps", "windowed_ps")
_LABELS: Final[Mapping[str, tuple[str, ...]]] = {
    "gemm": ("gemm",),
    "attention": ("attention",),
    "experts": ("moe",),
    "scan": ("scan",),
    "collective": tuple(COLLECTIVE_KINDS),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part; ``step`` and ``prior`` are sizes of a change: the one tried, and one that would not surprise.

    A size is the logarithm of a factor, or seconds that are added.
    """

    name: str
    area: Area
    means: str  # what is true of the server if the difference sits here, with {size}
    change: Change
    is_factor: bool
    prior: float
    step: float
    now_s: Callable[[Trial], float] | None = None  # what is there to be taken away of seconds that are added

    def lowest(self, start: StartedPlan) -> float:
        """Return the smallest size there can be: nothing takes less than no time."""
        return -_MOST_FACTOR if self.now_s is None else -self.now_s(Trial.of(start))

    @property
    def highest(self) -> float:
        """The largest size there can be."""
        return _MOST_FACTOR if self.is_factor else math.inf

    def amount(self, size: float) -> str:
        """Return a size as people write it."""
        if self.is_factor:
            return f"{math.exp(size):.2f}"
        return f"{size * 1e3:+.3g}" if abs(size) >= 1e-3 else f"{size * 1e6:+.3g}"

    def sized(self, size: float) -> str:
        """Say what a change of ``size`` means."""
        unit = "times" if self.is_factor else "ms" if abs(size) >= 1e-3 else "us"
        return self.means.replace("{size}", f"{self.amount(size)} {unit}")


def parts() -> tuple[Part, ...]:
    """Return every part that is told apart."""
    return (
        _factor(
            "KV blocks", "queue", "it holds {size} the KV blocks", _kv_blocks, prior=math.log(1.5), step=math.log(2)
        ),
        _factor("steps with prompts", "prefill", "steps that carry prompts take {size} as long", _steps_with_prompts),
        _factor("steps without prompts", "decode", "steps without prompts take {size} as long", _steps_without_prompts),
        _factor(
            "attention of prompts",
            "prefill",
            "attention of prompts takes {size} as long",
            _family("attention", _ATTENTION_PREFILL),
        ),
        _factor(
            "attention of decoding",
            "decode",
            "attention of decoding sequences takes {size} as long",
            _family("attention", _ATTENTION_DECODE),
        ),
        _factor("products", "kernel family", "matrix products take {size} as long", _family("gemm")),
        _factor("experts", "kernel family", "fused experts take {size} as long", _family("experts")),
        _factor("scans", "kernel family", "scans take {size} as long", _family("scan")),
        _factor("transfers", "kernel family", "transfers between devices take {size} as long", _family("collective")),
        _factor("small ops", "kernel family", "small ops take {size} as long", _family(None)),
        _factor(
            "launches", "host", "launches of kernels take {size} as long", _host_factor("launch_s"), prior=math.log(1.6)
        ),
        _seconds(
            "host per step",
            "host",
            "the host adds {size} to every step",
            _host("serial_step_s"),
            _host_s("serial_step_s"),
            prior=2e-3,
            step=1e-3,
        ),
        _seconds(
            "host per sequence",
            "host",
            "the host adds {size} to every step for each sequence in it",
            _host("serial_sequence_s"),
            _host_s("serial_sequence_s"),
            prior=20e-6,
            step=20e-6,
        ),
        _seconds(
            "frontend",
            "frontend",
            "the frontend adds {size} to every request",
            _frontend,
            _frontend_s,
            prior=20e-3,
            step=10e-3,
        ),
    )


def replayed(start: StartedPlan, workload: Workload, trial: Trial) -> EngineResult:
    """Replay a workload on a started plan of which parts are changed."""
    plan = start.plan
    return run_replicas(
        trial.tables(), trial.limits, workload, dp=plan.dp, attention_dp=plan.attention_dp, router=start.router
    )


def _factor(
    name: str, area: Area, means: str, change: Change, *, prior: float = math.log(1.4), step: float = math.log(1.25)
) -> Part:
    return Part(name=name, area=area, means=means, change=change, is_factor=True, prior=prior, step=step)


def _seconds(
    name: str, area: Area, means: str, change: Change, now_s: Callable[[Trial], float], *, prior: float, step: float
) -> Part:
    return Part(name=name, area=area, means=means, change=change, is_factor=False, prior=prior, step=step, now_s=now_s)


def _kv_blocks(trial: Trial, size: float) -> Trial:
    """Fewer blocks, but at least those of one request, or more."""
    limits = trial.limits
    one_request = min(limits.num_gpu_blocks, math.ceil(limits.max_model_len / limits.block_size))
    blocks = min(MOST_BLOCKS, max(one_request, round(limits.num_gpu_blocks * math.exp(size))))
    return replace(trial, limits=replace(limits, num_gpu_blocks=blocks))


def _steps_with_prompts(trial: Trial, size: float) -> Trial:
    return replace(trial, prompts=trial.prompts * math.exp(size))


def _steps_without_prompts(trial: Trial, size: float) -> Trial:
    return replace(trial, decodes=trial.decodes * math.exp(size))


def _frontend(trial: Trial, size: float) -> Trial:
    return replace(trial, limits=replace(trial.limits, frontend_s=_frontend_s(trial) + size))


def _frontend_s(trial: Trial) -> float:
    return trial.limits.frontend_s


def _host_s(key: str) -> Callable[[Trial], float]:
    return lambda trial: float(getattr(trial.compiled.profile.host, key))


def _host(key: str) -> Change:
    return lambda trial, size: _with_host(trial, key, max(0.0, _host_s(key)(trial) + size))


def _host_factor(key: str) -> Change:
    return lambda trial, size: _with_host(trial, key, _host_s(key)(trial) * math.exp(size))


def _with_host(trial: Trial, key: str, value: float) -> Trial:
    profile = trial.compiled.profile
    changed = profile.model_copy(update={"host": profile.host.model_copy(update={key: value})})
    return replace(trial, compiled=replace(trial.compiled, profile=changed))


def _family(family: str | None, sums: tuple[str, ...] = _EVERYWHERE) -> Change:
    """Scale the ops of one family, in some of a stage's sums; None: those of no family that is named."""

    def change(trial: Trial, size: float) -> Trial:
        stages = tuple(_scaled_stage(stage, family, sums, math.exp(size)) for stage in trial.compiled.stages)
        return replace(trial, compiled=replace(trial.compiled, stages=stages))

    return change


def _scaled_stage(stage: StageSums, family: str | None, sums: tuple[str, ...], factor: float) -> StageSums:
    scaled: dict[str, Any] = {name: _scaled(getattr(stage, name), family, factor) for name in sums}
    return replace(stage, **scaled)


def _scaled(total: StepSum, family: str | None, factor: float) -> StepSum:
    named = {label for labels in _LABELS.values() for label in labels}
    own = [label for label in total.by_label if (label not in named if family is None else label in _LABELS[family])]
    if not own:
        return total
    scaled = copy(total)
    moved_s = (factor - 1.0) * sum(total.by_label[label] for label in own)
    scaled.latency_s = total.latency_s + moved_s
    scaled.by_label = {label: value * factor if label in own else value for label, value in total.by_label.items()}
    return scaled
