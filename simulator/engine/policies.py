"""The compiled engine of each policy: the event loop, one scheduling pass, one launch, over and over.

Each is compiled when first used and kept on disk. The entry closes over a hash of all engine sources, so that a change
to any of them is a cache miss (``jit``). The six loops below are nearly the same text on purpose: written once, by a
factory that closes over the functions of a policy, the loop would never be found on disk, because numba makes what an
entry closes over part of its key, and a compiled function has another identity in every process.
"""

from collections.abc import Callable
from functools import cache
from typing import Final

from simulator.engine.costs import Costs
from simulator.engine.drafts import finish_pass_with_drafts, launch_with_drafts
from simulator.engine.jit import cached_entry, source_fingerprint
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
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.steps.step_tables import StepTables

STUCK: Final = -2

Engine = Callable[[State, Costs], int]


def engine_for(tables: StepTables, limits: EngineLimits, attention_dp: int = 1) -> Engine:
    """Pick the engine of a policy and a layout; returns DONE, PAUSED, or STUCK which is a defect."""
    if limits.num_speculative_tokens:
        return _v1_with_drafts()
    if attention_dp > 1:
        return _lockstep()
    if tables.stages > 1:
        return _v1_pipeline()
    if limits.policy == "sglang":
        return _sglang()
    # With chunked prefill V0 walks like V1, and so does Orca.
    return _v0() if limits.policy == "vllm-v0" and not limits.enable_chunked_prefill else _v1()


@cache
def _v1() -> Engine:
    """V1, V0 with chunked prefill, and Orca, on one stage."""
    fingerprint = source_fingerprint()

    @cached_entry
    def run_v1(state: State, costs: Costs) -> int:
        number = len(fingerprint)
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

    return run_v1


@cache
def _v0() -> Engine:
    """V0 with whole prompts in steps of their own."""
    fingerprint = source_fingerprint()

    @cached_entry
    def run_v0(state: State, costs: Costs) -> int:
        number = len(fingerprint)
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

    return run_v0


@cache
def _sglang() -> Engine:
    """SGLang."""
    fingerprint = source_fingerprint()

    @cached_entry
    def run_sglang(state: State, costs: Costs) -> int:
        number = len(fingerprint)
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

    return run_sglang


@cache
def _v1_pipeline() -> Engine:
    """V1 on several pipeline stages."""
    fingerprint = source_fingerprint()

    @cached_entry
    def run_v1_pipeline(state: State, costs: Costs) -> int:
        number = len(fingerprint)
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

    return run_v1_pipeline


@cache
def _lockstep() -> Engine:
    """V1 or SGLang on attention-data-parallel ranks that step together."""
    fingerprint = source_fingerprint()

    @cached_entry
    def run_lockstep(state: State, costs: Costs) -> int:
        number = len(fingerprint)
        while True:
            number = run_to_next_pass(state, costs)
            if number < 0:
                return number
            rep = replica(state, number)
            before = preemptions(state, rep)
            has_work = step_together(state, costs, rep)
            if not finish_lockstep_pass(state, rep, has_work, preemptions(state, rep) > before):
                return STUCK

    return run_lockstep


@cache
def _v1_with_drafts() -> Engine:
    """V1 with speculative decoding, on one stage."""
    fingerprint = source_fingerprint()

    @cached_entry
    def run_v1_with_drafts(state: State, costs: Costs) -> int:
        number = len(fingerprint)
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

    return run_v1_with_drafts
