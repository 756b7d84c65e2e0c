"""One function per policy: the event loop, one scheduling pass, one launch, over and over.

Each runs until nothing is left before the horizon (DONE), until the budget of turns is used up (PAUSED), or until a
replica can never go on (STUCK), which is a defect. These are the functions the compiled engine exports (``native``).
Each loop is written out, since a kernel calls other kernels by name alone: one loop cannot be handed its scheduler.
"""

from collections.abc import Callable
from typing import Final

from simulator.engine.costs import Costs
from simulator.engine.drafts import finish_pass_with_drafts, launch_with_drafts
from simulator.engine.kernel import kernel
from simulator.engine.leap import finish_pass
from simulator.engine.lockstep import finish_lockstep_pass, preemptions, step_together
from simulator.engine.loop import run_to_next_pass
from simulator.engine.pipeline import begin_decision, finish_pipeline_pass, launch_stages
from simulator.engine.scheduler_drafts import schedule_with_drafts
from simulator.engine.scheduler_sglang import schedule_sglang
from simulator.engine.scheduler_v0 import schedule_v0
from simulator.engine.scheduler_v1 import schedule_v1
from simulator.engine.state import State
from simulator.engine.step import launch
from simulator.engine.tables import group, replica

STUCK: Final = -2

Entry = Callable[[State, Costs], int]


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
def run_lockstep(state: State, costs: Costs) -> int:
    """V1 or SGLang on attention-data-parallel ranks that step together."""
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


ENTRIES: Final[tuple[Entry, ...]] = (run_v1, run_v0, run_sglang, run_v1_pipeline, run_lockstep, run_v1_with_drafts)
