"""vLLM's V0 scheduler without chunked prefill: prompts first, in steps of their own.

Source: vLLM 0.6 ``Scheduler._schedule_default``. While the head of the waiting queue fits (budget, slots, blocks of its
whole prompt), a step takes whole prompts and nothing else; decoding requests wait. Otherwise all of them decode, and
where blocks run out the last one is preempted. With chunked prefill V0 walks like V1 (``scheduler_v1``), but takes the
blocks of the whole prompt at admission and admits in a preempting step as well.
"""

from simulator.engine.kernel import kernel
from simulator.engine.prefix_cache import allocate, free_blocks
from simulator.engine.replica import Group, Replica
from simulator.engine.scheduler_v1 import admit_waiting, begin_step, decode_growth, run_in_order
from simulator.engine.state import State


@kernel
def schedule_v0(state: State, rep: Replica, grp: Group) -> bool:
    """Plan one step, of prompts, or of decodes if there is none; False if there is nothing to run."""
    begin_step(state, rep)
    rep.is_blocked = False
    admit_waiting(state, rep)
    if rep.planned.prefills > 0:
        return True
    if grp.decoders > 0:
        growth = decode_growth(state, grp)
        if growth <= free_blocks(state, rep):
            allocate(state, rep, growth)
        else:
            run_in_order(state, rep, grp)
    rep.planned.decodes = grp.decoders
    return rep.planned.decodes > 0
