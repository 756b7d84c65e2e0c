"""vLLM's V1 scheduler: one token budget, running requests first, then the waiting queue in order.

Source: vLLM 0.33 ``Scheduler.schedule``. Pass 1 walks the running list in admission order; every request asks for the
tokens it lacks, capped by the long-prefill threshold and the budget; where blocks run out the last running request is
preempted and starts over at the front of the queue. Pass 2 runs only if nobody was preempted; it admits from the head
until budget, slots or blocks are used up and never skips one that does not fit. ``orca`` is the same walk with whole
prompts and with blocks reserved for the whole answer, which TensorRT-LLM reserves too (``GUARANTEED_NO_EVICT``).
"""

from simulator.engine.blocks import blocks_for, phase
from simulator.engine.bounds import NONE
from simulator.engine.decoding import kv_tokens, stop_decoding
from simulator.engine.items import begin_items, chunk_before_items, plan_items
from simulator.engine.kernel import kernel
from simulator.engine.prefix_cache import allocate, free_blocks, match, publish, take, used_blocks
from simulator.engine.received import blocks_of_prompt, join_received
from simulator.engine.replica import Group, Replica
from simulator.engine.request import DECODING, PREFILLING, RELEASING, Request
from simulator.engine.sequences import admit, blocks_at_admission, has_unseen_results, preempt
from simulator.engine.state import State
from simulator.engine.tables import list_at, request
from simulator.engine.waiting import waits_for_company


@kernel
def chunk_limit(state: State, rep: Replica) -> int:
    """Longest chunk one prefill may take; the threshold is ignored for a request on its own."""
    if state.long_prefill > 0 and rep.running.count + rep.waiting.count > 1:
        return state.long_prefill
    return state.max_tokens


@kernel
def _growth(state: State, req: Request, before: int, after: int) -> int:
    """Blocks a request needs on top of those it holds to go from ``before`` to ``after`` tokens."""
    if state.reserves_output:
        return 0
    if state.reserves_prompt and req.status == PREFILLING:
        return 0
    return blocks_for(state, after) - blocks_for(state, before)


@kernel
def decode_growth(state: State, grp: Group) -> int:
    """Blocks the decoding sequences of a group need for their next step."""
    if state.reserves_output:
        return 0
    return list_at(state, grp.residue)[phase(state, grp.epoch)]


@kernel
def _fits_in_any_order(state: State, rep: Replica, grp: Group) -> bool:
    """Whether every running request gets what it asks for, so that the order of the walk does not matter."""
    left = state.max_tokens - grp.decoders
    if left < 0 or (state.encoder_budget > 0 and rep.num_partials > 0):
        return False
    need = decode_growth(state, grp)
    limit = chunk_limit(state, rep)
    for at in range(rep.num_partials):
        req = request(state, list_at(state, rep.partials)[at])
        done = req.computed
        chunk = min(req.target - done, limit)
        if chunk > left:
            if req.number != rep.running.tail:
                return False
            chunk = left
        left -= chunk
        need += _growth(state, req, done, done + chunk)
    return need <= free_blocks(state, rep)


@kernel
def begin_step(state: State, rep: Replica) -> None:
    """Start the plan of a step: nothing in it yet, and the whole token budget left."""
    planned = rep.planned
    planned.left = state.max_tokens
    planned.used = used_blocks(state, rep)
    planned.tokens = 0
    planned.prefills = 0
    planned.pairs = 0
    planned.reads = 0
    planned.decodes = 0
    if state.has_items:
        begin_items(state, rep)


@kernel
def plan_chunk(state: State, rep: Replica, req: Request, chunk: int) -> None:
    """Plan the next ``chunk`` tokens of the prompt of a request whose blocks are there."""
    done = req.computed
    req.chunk_start = done
    req.computed = done + chunk
    req.last_decision = rep.decisions
    if state.is_caching:
        publish(state, rep, req, done, done + chunk)
    if state.has_items:
        plan_items(state, rep, req, done, chunk)
    planned = rep.planned
    planned.left -= chunk
    planned.tokens += chunk
    planned.prefills += 1
    planned.pairs += chunk * done + chunk * (chunk + 1) // 2
    planned.reads += done + chunk


@kernel
def _run_in_any_order(state: State, rep: Replica, grp: Group) -> None:
    """Pass 1 when everything fits."""
    allocate(state, rep, decode_growth(state, grp))
    rep.planned.left -= grp.decoders
    limit = chunk_limit(state, rep)
    for at in range(rep.num_partials):
        req = request(state, list_at(state, rep.partials)[at])
        done = req.computed
        chunk = min(req.target - done, limit, rep.planned.left)
        if chunk > 0:
            allocate(state, rep, _growth(state, req, done, done + chunk))
            plan_chunk(state, rep, req, chunk)


@kernel
def _starve(state: State, rep: Replica, grp: Group, first: int) -> None:
    """Take the decoding requests from ``first`` on out of this step: the budget does not reach them."""
    at = first
    while at != NONE:
        req = request(state, at)
        if req.status == DECODING and req.group == grp.number:
            stop_decoding(state, req)
            req.next_releasing = rep.starved_head
            rep.starved_head = at
        at = req.next


@kernel
def preempt_until_free(state: State, rep: Replica, req: Request, need: int) -> bool:
    """Preempt from the tail until ``need`` blocks are free; False if ``req`` itself had to go."""
    while need > free_blocks(state, rep):
        victim = request(state, rep.running.tail)
        preempt(state, rep, victim)
        if victim.number == req.number:
            return False
    return True


@kernel
def run_in_order(state: State, rep: Replica, grp: Group) -> None:
    """Pass 1 request by request; it ends when one has to be preempted itself."""
    limit = chunk_limit(state, rep)
    at = rep.running.head
    while at != NONE and rep.planned.left > 0:
        req = request(state, at)
        is_decoding = req.status == DECODING
        if req.status == RELEASING or (is_decoding and req.group != grp.number):
            at = req.next
            continue
        done = kv_tokens(state, req)
        chunk = 1
        if not is_decoding:
            chunk = chunk_before_items(state, rep, req, done, min(req.target - done, limit, rep.planned.left))
            if chunk == 0:
                at = req.next
                continue
        need = _growth(state, req, done, done + chunk)
        if not preempt_until_free(state, rep, req, need):
            return
        allocate(state, rep, need)
        if is_decoding:
            rep.planned.left -= 1
        else:
            plan_chunk(state, rep, req, chunk)
        at = req.next
    _starve(state, rep, grp, at)


@kernel
def admission(state: State, rep: Replica, req: Request) -> tuple[int, int, int]:
    """Decide what a waiting request whose turn it is may run: (chunk, cached blocks found, new blocks).

    A chunk of 0 means that it cannot be admitted now, and ``is_blocked`` that it cannot be until something is released.
    """
    if rep.running.count >= state.max_seqs:
        rep.is_blocked = True
        return 0, 0, 0
    found, unused = match(state, rep, req)
    if req.remote > 0:
        return int(not state.passes_first_token), 0, 0  # its blocks were taken before its KV came
    hit = found * state.block_size
    chunk = min(req.target - hit, chunk_limit(state, rep))
    if chunk > rep.planned.left:
        if not state.is_chunked:
            return 0, 0, 0
        chunk = rep.planned.left
    chunk = chunk_before_items(state, rep, req, hit, chunk)
    if chunk == 0:
        return 0, 0, 0
    blocks = blocks_at_admission(state, req, hit + chunk)
    gate = blocks
    if state.gates_full_sequence:
        gate = max(gate, blocks_for(state, req.target))
    if rep.running.count > 0:
        gate += state.watermark
    if gate - (found - unused) > free_blocks(state, rep):
        rep.is_blocked = True
        return 0, 0, 0
    return chunk, found, blocks - found


@kernel
def admit_on(state: State, rep: Replica, req: Request, found: int, blocks: int) -> None:
    """Admit a waiting request on ``found`` cached and ``blocks`` new blocks."""
    admit(state, rep, req)
    hit = found * state.block_size
    if req.scheduled_ps == NONE:
        req.scheduled_ps = rep.decision_ps
        req.hit_tokens = hit
    rep.hits += hit
    if found > 0:
        take(state, rep, req, found)
    held = blocks_of_prompt(state, req) if req.remote > 0 else 0
    req.computed = max(hit, req.remote - 1)  # the last token of the prompt is computed again
    req.remote = 0
    if state.drafts > 0:
        req.blocks = blocks + found + held
    allocate(state, rep, blocks)


@kernel
def admit_waiting(state: State, rep: Replica) -> None:
    """Pass 2: admit in the order of the queue while it fits into what is left.

    Those preempted with results under way are passed over until these are seen.
    """
    at = rep.waiting.head
    while rep.planned.left > 0 and at != NONE:
        req = request(state, at)
        at = req.next
        if has_unseen_results(rep, req):
            continue
        chunk, found, blocks = admission(state, rep, req)
        if chunk == 0:
            break
        admit_on(state, rep, req, found, blocks)
        plan_chunk(state, rep, req, chunk)


@kernel
def schedule_v1(state: State, rep: Replica, grp: Group) -> bool:
    """Plan one step, in which the sequences of ``grp`` decode; False if there is nothing to run."""
    begin_step(state, rep)
    if state.passes_first_token:
        join_received(state, rep, grp)
    preempted = rep.preempted
    if _fits_in_any_order(state, rep, grp):
        _run_in_any_order(state, rep, grp)
    else:
        run_in_order(state, rep, grp)
    rep.is_blocked = False
    if preempted == rep.preempted or state.admits_after_preemption:
        is_held = rep.holds_prompts or waits_for_company(state, rep, grp)
        if not is_held:
            admit_waiting(state, rep)
    rep.planned.decodes = grp.decoders
    return rep.planned.decodes + rep.planned.prefills > 0
