"""One function per policy: the event loop, one scheduling pass, one launch, over and over.

Each runs until nothing is left before the horizon (DONE), until the budget of turns is used up (PAUSED), or until a
replica can never go on (STUCK), which is a defect. These are the functions the compiled engine exports (``native``).
Each loop is written out, since a kernel calls other kernels by name alone: one loop cannot be handed its scheduler.
"""

from collections.abc import Callable, Mapping
from typing import Final

from simulator.engine.bounds import CLOCK_END, DONE, STUCK
from simulator.engine.costs import Costs
from simulator.engine.drafts import finish_pass_with_drafts, launch_with_drafts
from simulator.engine.kernel import kernel
from simulator.engine.leap import finish_pass
from simulator.engine.lockstep import finish_lockstep_pass, preemptions, step_together
from simulator.engine.lockstep_pipeline import finish_stages_together, run_stages_together
from simulator.engine.loop import next_time, run_to_next_pass
from simulator.engine.native.abi import Entry
from simulator.engine.pipeline import begin_decision, finish_pipeline_pass, launch_stages
from simulator.engine.scheduler_drafts import schedule_with_drafts
from simulator.engine.scheduler_sglang import schedule_sglang
from simulator.engine.scheduler_v0 import schedule_v0
from simulator.engine.scheduler_v1 import schedule_v1
from simulator.engine.sglang_pipeline import begin_slot, finish_slot, schedule_slot
from simulator.engine.state import State
from simulator.engine.step import launch
from simulator.engine.tables import group, peer, peer_costs, replica

Kernel = Callable[[State, Costs], int]


@kernel
def run_v1(state: State, costs: Costs) -> int:
    """V1, V0 with chunked prefill, and Orca, on one stage."""
    while True:
        number = run_to_next_pass(state, costs)
        if number < 0:
            return number
        rep = replica(state, number)
        grp = group(state, rep.first_group)
        has_work = schedule_v1(state, rep, grp)
        if has_work:
            launch(state, costs, rep, grp)
        if not finish_pass(state, costs, rep, has_work):
            return STUCK


@kernel
def run_v0(state: State, costs: Costs) -> int:
    """V0 with whole prompts in steps of their own."""
    while True:
        number = run_to_next_pass(state, costs)
        if number < 0:
            return number
        rep = replica(state, number)
        grp = group(state, rep.first_group)
        has_work = schedule_v0(state, rep, grp)
        if has_work:
            launch(state, costs, rep, grp)
        if not finish_pass(state, costs, rep, has_work):
            return STUCK


@kernel
def run_sglang(state: State, costs: Costs) -> int:
    """SGLang."""
    while True:
        number = run_to_next_pass(state, costs)
        if number < 0:
            return number
        rep = replica(state, number)
        grp = group(state, rep.first_group)
        has_work = schedule_sglang(state, rep, grp)
        if has_work:
            launch(state, costs, rep, grp)
        if not finish_pass(state, costs, rep, has_work):
            return STUCK


@kernel
def run_v1_pipeline(state: State, costs: Costs) -> int:
    """V1 on several pipeline stages."""
    while True:
        number = run_to_next_pass(state, costs)
        if number < 0:
            return number
        rep = replica(state, number)
        grp = begin_decision(state, rep)
        has_work = schedule_v1(state, rep, grp)
        if has_work:
            launch_stages(state, costs, rep, grp)
        if not finish_pipeline_pass(state, rep, has_work):
            return STUCK


@kernel
def run_sglang_pipeline(state: State, costs: Costs) -> int:
    """SGLang on several pipeline stages."""
    while True:
        number = run_to_next_pass(state, costs)
        if number < 0:
            return number
        rep = replica(state, number)
        grp = begin_slot(state, rep)
        has_work = schedule_slot(state, rep, grp)
        if has_work:
            launch_stages(state, costs, rep, grp)
        if not finish_slot(state, rep, grp, has_work):
            return STUCK


@kernel
def run_lockstep(state: State, costs: Costs) -> int:
    """V1, with drafts or without, or SGLang on attention-data-parallel ranks that step together."""
    while True:
        number = run_to_next_pass(state, costs)
        if number < 0:
            return number
        rep = replica(state, number)
        before = preemptions(state, rep)
        has_work = step_together(state, costs, rep)
        if not finish_lockstep_pass(state, rep, has_work, preemptions(state, rep) > before):
            return STUCK


@kernel
def run_lockstep_pipeline(state: State, costs: Costs) -> int:
    """V1 on attention-data-parallel ranks and several pipeline stages."""
    while True:
        number = run_to_next_pass(state, costs)
        if number < 0:
            return number
        rep = replica(state, number)
        has_work = run_stages_together(state, costs, rep)
        if not finish_stages_together(state, rep, has_work):
            return STUCK


@kernel
def run_v1_with_drafts(state: State, costs: Costs) -> int:
    """V1 with speculative decoding, on one stage."""
    while True:
        number = run_to_next_pass(state, costs)
        if number < 0:
            return number
        rep = replica(state, number)
        has_work = schedule_with_drafts(state, rep)
        if has_work:
            launch_with_drafts(state, costs, rep)
        if not finish_pass_with_drafts(state, rep, has_work):
            return STUCK


@kernel
def _run_pool(state: State, costs: Costs) -> int:
    """Run one of two pools up to its horizon, on its own engine."""
    if state.entry == 0:
        return run_v1(state, costs)
    if state.entry == 1:
        return run_v0(state, costs)
    if state.entry == 2:
        return run_sglang(state, costs)
    if state.entry == 3:
        return run_v1_pipeline(state, costs)
    if state.entry == 4:
        return run_lockstep(state, costs)
    if state.entry == 5:
        return run_v1_with_drafts(state, costs)
    return run_lockstep_pipeline(state, costs)


@kernel
def run_two_pools(state: State, costs: Costs) -> int:
    """Two pools on one clock, from the prefill pool: whichever comes next runs up to where the other one acts."""
    decode = peer(state, 0)
    while True:
        first = next_time(state)
        second = next_time(decode)
        if min(first, second) >= CLOCK_END or state.full + decode.full > 0:
            state.next_time_ps = first
            decode.next_time_ps = second
            return DONE
        if first <= second:
            state.horizon_ps = min(second, CLOCK_END - 1) + 1
            code = _run_pool(state, costs)
        else:
            decode.horizon_ps = min(first, CLOCK_END)
            code = _run_pool(decode, peer_costs(state, 0))
        if code != DONE:
            return code


# By name, in the order of ``abi.ENTRIES``, which whoever calls compiled code goes by.
KERNELS: Final[Mapping[Entry, Kernel]] = {
    "run_v1": run_v1,
    "run_v0": run_v0,
    "run_sglang": run_sglang,
    "run_v1_pipeline": run_v1_pipeline,
    "run_lockstep": run_lockstep,
    "run_v1_with_drafts": run_v1_with_drafts,
    "run_lockstep_pipeline": run_lockstep_pipeline,
    "run_sglang_pipeline": run_sglang_pipeline,
    "run_two_pools": run_two_pools,
}
