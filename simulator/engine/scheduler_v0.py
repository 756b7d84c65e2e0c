"""vLLM's V0 scheduler without chunked prefill: prompts first, in steps of their own.

Source: vLLM 0.6 ``Scheduler._schedule_default``. While the head of the waiting queue fits (budget, slots, blocks of its
whole prompt), a step takes whole prompts and nothing else; decoding requests wait. Otherwise all of them decode, and
where blocks run out the last one is preempted. With chunked prefill V0 walks like V1 (``scheduler_v1``), but takes the
blocks of the whole prompt at admission and admits in a preempting step as well.
"""

from simulator.engine.jit import kernel
from simulator.engine.prefix_cache import allocate, free_blocks
from simulator.engine.replica import Group, Replica
from simulator.engine.scheduler_v1 import admission, admit_head, decode_growth, prefill_chunk, run_in_order
from simulator.engine.state import State


@kernel
def schedule_v0(state: State, rep: Replica, grp: Group) -> tuple[int, int, int, int]:
    """Take one decision: (prefill tokens, prefills, pairs, KV reads); sequences decode only if there is no prefill."""
    rep.is_blocked = False
    left = state.max_tokens
    tokens = 0
    prefills = 0
    pairs = 0
    reads = 0
    while left > 0 and rep.waiting.count > 0:
        chunk, found, blocks = admission(state, rep, left)
        if chunk == 0:
            break
        req = admit_head(state, rep, found, blocks)
        more_pairs, more_reads = prefill_chunk(state, rep, req, chunk)
        left -= chunk
        tokens += chunk
        prefills += 1
        pairs += more_pairs
        reads += more_reads
    if prefills == 0 and grp.decoders > 0:
        growth = decode_growth(state, grp)
        if growth <= free_blocks(state, rep):
            allocate(state, rep, growth)
        else:
            run_in_order(state, rep, grp)
    return tokens, prefills, pairs, reads
