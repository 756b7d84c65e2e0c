"""vLLM's V1 scheduler with speculative decoding: a decoding sequence asks for its token and its drafts.

Source: vLLM 0.33 ``Scheduler.schedule`` with ``num_spec_tokens`` K. Every decoding request is scheduled 1 + K tokens,
fewer only at the end of the budget or of the model's context, and needs KV slots for these and for K more that the
next drafts will write. Asynchronous scheduling decides while the step before is under way, so it takes that step's
drafts for accepted when it counts slots, and it schedules once more a request that ends because drafts were accepted:
that row is computed for nothing. Prompts go on as without drafts. Not modelled: the last matched block that draft heads
(EAGLE, MTP) give up in the prefix cache.
"""

from simulator.engine.blocks import blocks_for
from simulator.engine.bounds import NONE
from simulator.engine.items import chunk_before_items
from simulator.engine.kernel import kernel
from simulator.engine.prefix_cache import allocate
from simulator.engine.replica import Replica
from simulator.engine.request import PREFILLING, RELEASING, Request
from simulator.engine.scheduler_v1 import admit_waiting, begin_step, chunk_limit, plan_chunk, preempt_until_free
from simulator.engine.state import State
from simulator.engine.tables import request


@kernel
def _reserve(state: State, rep: Replica, req: Request, slots: int) -> bool:
    """Give a request blocks for ``slots`` tokens in all; False if it had to be preempted itself."""
    need = blocks_for(state, min(slots, state.max_model_len)) - req.blocks
    if need <= 0:
        return True
    if not preempt_until_free(state, rep, req, need):
        return False
    allocate(state, rep, need)
    req.blocks += need
    return True


@kernel
def _plan_decode(state: State, rep: Replica, req: Request, queries: int) -> None:
    """Count one decoding sequence of ``queries`` tokens into the step."""
    computed = req.computed
    planned = rep.planned
    planned.left -= queries
    planned.decodes += 1
    planned.decode_tokens += queries
    planned.decode_kv += computed + queries
    planned.window_kv += min(computed + 1, state.window) + queries - 1
    planned.needs_drafts = planned.needs_drafts or req.sure + 1 < req.output


@kernel
def _queries(state: State, rep: Replica, req: Request, left: int) -> int:
    """Tokens one decoding request runs of the ``left`` in the budget; NONE if it was preempted."""
    drafts = state.drafts
    if req.status == RELEASING:
        queries = min(req.queries, left)  # none where its end was known in time
        req.queries = 0
        return queries
    queries = min(1 + drafts, left, state.max_model_len - 1 - req.computed)
    if not _reserve(state, rep, req, req.expected + queries + drafts):
        return NONE
    req.queries = queries
    return queries


@kernel
def _run_running(state: State, rep: Replica) -> None:
    """Pass 1 in list order."""
    limit = chunk_limit(state, rep)
    at = rep.running.head
    while at != NONE and rep.planned.left > 0:
        req = request(state, at)
        if req.status == PREFILLING:
            done = req.computed
            chunk = chunk_before_items(state, rep, req, done, min(req.target - done, limit, rep.planned.left))
            if chunk == 0:
                at = req.next
                continue
            if not _reserve(state, rep, req, done + chunk + state.drafts):
                break
            plan_chunk(state, rep, req, chunk)
        else:
            queries = _queries(state, rep, req, rep.planned.left)
            if queries == NONE:
                break
            if queries > 0:
                _plan_decode(state, rep, req, queries)
        at = req.next


@kernel
def schedule_with_drafts(state: State, rep: Replica) -> bool:
    """Plan one step; False if there is nothing to run."""
    begin_step(state, rep)
    planned = rep.planned
    planned.decode_tokens = 0
    planned.decode_kv = 0
    planned.window_kv = 0
    planned.needs_drafts = False
    preempted = rep.preempted
    _run_running(state, rep)
    rep.is_blocked = False
    if preempted == rep.preempted:
        admit_waiting(state, rep)
    return planned.decodes + planned.prefills > 0
