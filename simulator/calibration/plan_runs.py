"""Runs of a server that is not measured yet: candidates over plans, lengths and loads, and those worth making.

Candidates are closed loops, which every benchmark client can send: short and long prompts, from one request at a time
to as many as a server is often asked for, on the smallest and the largest tensor parallelism that starts.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from simulator.calibration.choose_runs import choose_runs
from simulator.calibration.estimate import slopes_at
from simulator.calibration.evidence import TPOT, TTFT, covariance
from simulator.calibration.posterior import whitened
from simulator.calibration.replays import Replayed, Replays
from simulator.calibration.told import told
from simulator.calibration.unknowns import Unknown, unknowns_of
from simulator.errors import EXIT_INFEASIBLE
from simulator.plan.plan import Plan
from simulator.serving import Refusal, Serving, StartedPlan
from simulator.workload.parse import parse_workload
from simulator.workload.workload import Workload

FEWEST_RUNS: Final = 3
MOST_RUNS: Final = 6
RANGE_RATIO: Final = 0.2  # lengths from four fifths to six fifths of the nominal one: no two requests march in step
PROMPTS_PER_SLOT: Final = 8
_LEAST_PROMPTS: Final = 32
_LENGTHS: Final = ((256, 128), (1024, 256), (8192, 256))
_CONCURRENCY: Final = (1, 4, 16, 64)
_METRICS: Final = (TTFT, TPOT)


class NoPlanStartsError(UserError):
    """None of the plans asked for can start."""

    exit_code = EXIT_INFEASIBLE


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """A run to make: the server to start, and what its client sends."""

    start: StartedPlan
    prompt_tokens: int
    output_tokens: int
    concurrency: int
    prompts: int
    workload: Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRuns:
    """The runs worth making, and the constants of the profile that they will tell."""

    runs: tuple[PlannedRun, ...]
    unknowns: tuple[Unknown, ...]
    told: tuple[int, ...]


def plan_runs(serving: Serving, plans: Sequence[Plan], count: int) -> PlannedRuns:
    """Choose ``count`` runs on ``plans``; of none, on the smallest and the largest that start.

    Raises ``UserError`` where no plan starts.
    """
    probe = _workload(*_LENGTHS[0], 1)
    wanted = list(plans) or _ends(serving, probe)
    started = [(plan, serving.start(plan, probe)) for plan in wanted]
    refused = [item for _, item in started if isinstance(item, Refusal)]
    if refused:
        raise NoPlanStartsError(f"plan {refused[0].plan} cannot start: {refused[0].reason}")
    candidates = [run for plan in wanted for run in _candidates(serving, plan)]
    unknowns = unknowns_of(serving.profile, serving.spread(None) if serving.profile.spread else None)
    replays = Replays(
        runs=[Replayed(serving=serving, layout=run.start.plan, workload=run.workload) for run in candidates],
        metrics=[_METRICS] * len(candidates),
        profile=serving.profile,
        unknowns=unknowns,
    )
    zero = np.zeros(len(unknowns))
    slopes = slopes_at(replays, zero, replays(zero), range(len(unknowns))).reshape(len(candidates), len(_METRICS), -1)
    names = [str(run.start.plan) for run in candidates]
    chosen = sorted(choose_runs(slopes, names, _METRICS, count, [_traits(run) for run in candidates]))
    wide = covariance(np.repeat(np.array(names)[chosen], 2), np.tile(np.array(_METRICS), len(chosen)))
    flat = slopes[chosen].reshape(len(chosen) * len(_METRICS), -1)
    white = whitened(np.zeros(len(flat)), flat, wide)[1]
    return PlannedRuns(
        runs=tuple(candidates[place] for place in chosen),
        unknowns=unknowns,
        told=tuple(told(white, most=len(flat))),
    )


def _ends(serving: Serving, probe: Workload) -> list[Plan]:
    """Return the smallest and the largest tensor parallelism of a node that start, on one replica."""
    most = serving.cluster.devices_per_node
    widths = [width for width in (1, 2, 4, 8, 16, 32, 64) if width <= most]
    found = [(plan, serving.start(plan, probe)) for plan in (Plan(tp=width) for width in widths)]
    starts = [plan for plan, start in found if not isinstance(start, Refusal)]
    if not starts:
        reasons = [start.reason for _, start in found if isinstance(start, Refusal)]
        raise NoPlanStartsError(
            f"no tensor parallelism up to {widths[-1]} starts: {reasons[-1]}",
            hint="name the plans to measure: --plans",
        )
    return list(dict.fromkeys([starts[0], starts[-1]]))


def _candidates(serving: Serving, plan: Plan) -> list[PlannedRun]:
    found = []
    for prompt, output in _LENGTHS:
        for concurrency in _CONCURRENCY:
            workload = _workload(prompt, output, concurrency)
            start = serving.start(plan, workload)
            if not isinstance(start, Refusal):
                found.append(
                    PlannedRun(
                        start=start,
                        prompt_tokens=prompt,
                        output_tokens=output,
                        concurrency=concurrency,
                        prompts=_prompts(concurrency),
                        workload=workload,
                    )
                )
    return found


def _traits(run: PlannedRun) -> frozenset[str]:
    """Return what the chosen runs must have between them: both plans, the ends of the load, and a long prompt."""
    ends = {_CONCURRENCY[0]: "alone", _CONCURRENCY[-1]: "crowded"}
    lengths = {_LENGTHS[-1][0]: "long"}
    told_apart = (str(run.start.plan), ends.get(run.concurrency), lengths.get(run.prompt_tokens))
    return frozenset(trait for trait in told_apart if trait is not None)


def _prompts(concurrency: int) -> int:
    return max(_LEAST_PROMPTS, PROMPTS_PER_SLOT * concurrency)


def _workload(prompt: int, output: int, concurrency: int) -> Workload:
    slots = _prompts(concurrency) // concurrency
    return parse_workload(
        f"closed:isl={prompt},osl={output},concurrency={concurrency},draw=vllm-bench,ratio={RANGE_RATIO},"
        f"prompts_per_slot={slots},warmup_per_slot=0"
    )
