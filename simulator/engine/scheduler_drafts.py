"""vLLM's V1 scheduler with speculative decoding: a decoding sequence asks for its token and its drafts.

Source: vLLM 0.33 ``Scheduler.schedule`` with ``num_spec_tokens`` K. Every decoding request is scheduled 1 + K tokens,
fewer only at the end of the budget or of the model's context, and needs KV slots for these and for K more that the
next drafts will write. Asynchronous scheduling decides while the step before is under way, so it takes that step's
drafts for accepted when it counts slots, and it schedules once more a request that ends because drafts were accepted:
that row is computed for nothing. Prompts go on as without drafts. Not modelled: the last matched block that draft heads
(EAGLE, MTP) give up in the prefix cache.
"""

from simulator.engine import layout
from simulator.engine.jit import kernel
from simulator.engine.layout import NONE, Cells
from simulator.engine.prefix_cache import allocate
from simulator.engine.scheduler_v1 import admit_waiting, chunk_limit, preempt_until_free, prefill_chunk
from simulator.engine.sequences import blocks_for


@kernel
def _reserve(state: Cells, rep: int, req: int, slots: int) -> bool:
    """Give a request blocks for ``slots`` tokens in all; False if it had to be preempted itself."""
    need = blocks_for(state, min(slots, state[layout.MAX_MODEL_LEN])) - state[req + layout.BLOCKS]
    if need <= 0:
        return True
    if not preempt_until_free(state, rep, req, need):
        return False
    allocate(state, rep, need)
    state[req + layout.BLOCKS] += need
    return True


@kernel
def _plan_decode(state: Cells, rep: int, req: int, queries: int) -> None:
    """Count one decoding sequence of ``queries`` tokens into the step."""
    computed = state[req + layout.COMPUTED]
    state[rep + layout.PLANNED_DECODES] += 1
    state[rep + layout.PLANNED_DECODE_TOKENS] += queries
    state[rep + layout.PLANNED_DECODE_KV] += computed + queries
    state[rep + layout.PLANNED_WINDOW_KV] += min(computed + 1, state[layout.WINDOW]) + queries - 1


@kernel
def _queries(state: Cells, rep: int, req: int, left: int) -> int:
    """Tokens one decoding request runs of the ``left`` in the budget; NONE if it was preempted."""
    drafts = state[layout.DRAFTS]
    if state[req + layout.STATUS] == layout.RELEASING:
        queries = min(state[req + layout.QUERIES], left)  # none where its end was known in time
        state[req + layout.QUERIES] = 0
        return queries
    queries = min(1 + drafts, left, state[layout.MAX_MODEL_LEN] - 1 - state[req + layout.COMPUTED])
    if not _reserve(state, rep, req, state[req + layout.EXPECTED] + queries + drafts):
        return NONE
    state[req + layout.QUERIES] = queries
    return queries


@kernel
def _run_running(state: Cells, rep: int) -> tuple[int, int, int, int, int]:
    """Pass 1 in list order: (prefill tokens, prefills, pairs, reads, budget left)."""
    left = state[layout.MAX_TOKENS]
    limit = chunk_limit(state, rep)
    tokens = 0
    prefills = 0
    pairs = 0
    reads = 0
    req = state[rep + layout.RUN_HEAD]
    while req != NONE and left > 0:
        if state[req + layout.STATUS] == layout.PREFILLING:
            done = state[req + layout.COMPUTED]
            chunk = min(state[req + layout.TARGET] - done, limit, left)
            if not _reserve(state, rep, req, done + chunk + state[layout.DRAFTS]):
                break
            more_pairs, more_reads = prefill_chunk(state, rep, req, chunk)
            left -= chunk
            tokens += chunk
            prefills += 1
            pairs += more_pairs
            reads += more_reads
        else:
            queries = _queries(state, rep, req, left)
            if queries == NONE:
                break
            if queries > 0:
                _plan_decode(state, rep, req, queries)
                left -= queries
        req = state[req + layout.NEXT]
    return tokens, prefills, pairs, reads, left


@kernel
def schedule_with_drafts(state: Cells, rep: int) -> tuple[int, int, int, int]:
    """Take one decision: (prefill tokens, prefills, pairs, KV reads); what decodes is in the ``PLANNED_`` columns."""
    state[rep + layout.PLANNED_DECODES] = 0
    state[rep + layout.PLANNED_DECODE_TOKENS] = 0
    state[rep + layout.PLANNED_DECODE_KV] = 0
    state[rep + layout.PLANNED_WINDOW_KV] = 0
    preempted = state[rep + layout.PREEMPTED]
    tokens, prefills, pairs, reads, left = _run_running(state, rep)
    state[rep + layout.BLOCKED] = 0
    if preempted == state[rep + layout.PREEMPTED]:
        more_tokens, admitted, more_pairs, more_reads = admit_waiting(state, rep, left)
        tokens += more_tokens
        prefills += admitted
        pairs += more_pairs
        reads += more_reads
    return tokens, prefills, pairs, reads
