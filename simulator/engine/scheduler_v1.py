"""vLLM's V1 scheduler: one token budget, running requests first, then the waiting queue in order.

Source: vLLM 0.33 ``Scheduler.schedule``. Pass 1 walks the running list in admission order; every request asks for the
tokens it lacks, capped by the long-prefill threshold and the budget; where blocks run out the last running request is
preempted and starts over at the front of the queue. Pass 2 runs only if nobody was preempted; it admits from the head
until budget, slots or blocks are used up and never skips one that does not fit. ``orca`` is the same walk with whole
prompts and with blocks reserved for the whole answer, which TensorRT-LLM reserves too (``GUARANTEED_NO_EVICT``).
"""

from simulator.engine import layout
from simulator.engine.jit import kernel
from simulator.engine.layout import NONE, Cells
from simulator.engine.prefix_cache import allocate, free_blocks, match, publish, take
from simulator.engine.sequences import admit, blocks_for, kv_tokens, preempt, stop_decoding


@kernel
def chunk_limit(state: Cells, rep: int) -> int:
    """Longest chunk one prefill may take; the threshold is ignored for a request on its own."""
    if state[layout.LONG_PREFILL] > 0 and state[rep + layout.RUN_COUNT] + state[rep + layout.WAIT_COUNT] > 1:
        return state[layout.LONG_PREFILL]
    return state[layout.MAX_TOKENS]


@kernel
def _growth(state: Cells, req: int, before: int, after: int) -> int:
    """Blocks a request needs on top of those it holds to go from ``before`` to ``after`` tokens."""
    if state[layout.RESERVES_OUTPUT] == 1:
        return 0
    if state[layout.RESERVES_PROMPT] == 1 and state[req + layout.STATUS] == layout.PREFILLING:
        return 0
    return blocks_for(state, after) - blocks_for(state, before)


@kernel
def decode_growth(state: Cells, grp: int) -> int:
    """Blocks the decoding sequences of a group need for their next step."""
    if state[layout.RESERVES_OUTPUT] == 1:
        return 0
    return state[state[grp + layout.RESIDUE] + state[grp + layout.EPOCH] % state[layout.BLOCK_SIZE]]


@kernel
def _fits_in_any_order(state: Cells, rep: int, grp: int) -> bool:
    """Whether every running request gets what it asks for, so that the order of the walk does not matter."""
    left = state[layout.MAX_TOKENS] - state[grp + layout.DECODERS]
    if left < 0:
        return False
    need = decode_growth(state, grp)
    limit = chunk_limit(state, rep)
    for at in range(state[rep + layout.PARTIALS]):
        req = state[state[rep + layout.PARTIAL_LIST] + at]
        done = state[req + layout.COMPUTED]
        chunk = min(state[req + layout.TARGET] - done, limit)
        if chunk > left:
            if req != state[rep + layout.RUN_TAIL]:
                return False
            chunk = left
        left -= chunk
        need += _growth(state, req, done, done + chunk)
    return need <= free_blocks(state, rep)


@kernel
def prefill_chunk(state: Cells, rep: int, req: int, chunk: int) -> tuple[int, int]:
    """Schedule the next ``chunk`` tokens of a request whose blocks are there: (pairs, KV reads)."""
    done = state[req + layout.COMPUTED]
    state[req + layout.CHUNK_START] = done
    state[req + layout.COMPUTED] = done + chunk
    if state[layout.IS_CACHING] == 1 and state[layout.PUBLISHES_LATE] == 0:
        publish(state, rep, req, done, done + chunk)
    return chunk * done + chunk * (chunk + 1) // 2, done + chunk


@kernel
def _run_in_any_order(state: Cells, rep: int, grp: int) -> tuple[int, int, int, int]:
    """Pass 1 when everything fits: (prefill tokens, prefills, pairs, reads)."""
    allocate(state, rep, decode_growth(state, grp))
    left = state[layout.MAX_TOKENS] - state[grp + layout.DECODERS]
    limit = chunk_limit(state, rep)
    tokens = 0
    prefills = 0
    pairs = 0
    reads = 0
    for at in range(state[rep + layout.PARTIALS]):
        req = state[state[rep + layout.PARTIAL_LIST] + at]
        done = state[req + layout.COMPUTED]
        chunk = min(state[req + layout.TARGET] - done, limit, left - tokens)
        if chunk == 0:
            continue
        allocate(state, rep, _growth(state, req, done, done + chunk))
        more_pairs, more_reads = prefill_chunk(state, rep, req, chunk)
        tokens += chunk
        prefills += 1
        pairs += more_pairs
        reads += more_reads
    return tokens, prefills, pairs, reads


@kernel
def _starve(state: Cells, rep: int, grp: int, req: int) -> None:
    """Take the decoding requests from ``req`` on out of this step: the budget does not reach them."""
    while req != NONE:
        if state[req + layout.STATUS] == layout.DECODING and state[req + layout.GROUP] == grp:
            stop_decoding(state, req)
            state[req + layout.NEXT_RELEASING] = state[rep + layout.STARVED_HEAD]
            state[rep + layout.STARVED_HEAD] = req
        req = state[req + layout.NEXT]


@kernel
def preempt_until_free(state: Cells, rep: int, req: int, need: int) -> bool:
    """Preempt from the tail until ``need`` blocks are free; False if ``req`` itself had to go."""
    while need > free_blocks(state, rep):
        victim = state[rep + layout.RUN_TAIL]
        preempt(state, rep, victim)
        if victim == req:
            return False
    return True


@kernel
def run_in_order(state: Cells, rep: int, grp: int) -> tuple[int, int, int, int, int]:
    """Pass 1 request by request: (prefill tokens, prefills, pairs, reads, budget left)."""
    left = state[layout.MAX_TOKENS]
    limit = chunk_limit(state, rep)
    tokens = 0
    prefills = 0
    pairs = 0
    reads = 0
    req = state[rep + layout.RUN_HEAD]
    while req != NONE and left > 0:
        is_decoding = state[req + layout.STATUS] == layout.DECODING
        if state[req + layout.STATUS] == layout.RELEASING or (is_decoding and state[req + layout.GROUP] != grp):
            req = state[req + layout.NEXT]
            continue
        done = kv_tokens(state, req)
        chunk = 1 if is_decoding else min(state[req + layout.TARGET] - done, limit, left)
        need = _growth(state, req, done, done + chunk)
        if not preempt_until_free(state, rep, req, need):
            return tokens, prefills, pairs, reads, left
        allocate(state, rep, need)
        left -= chunk
        if not is_decoding:
            more_pairs, more_reads = prefill_chunk(state, rep, req, chunk)
            tokens += chunk
            prefills += 1
            pairs += more_pairs
            reads += more_reads
        req = state[req + layout.NEXT]
    _starve(state, rep, grp, req)
    return tokens, prefills, pairs, reads, left


@kernel
def admission(state: Cells, rep: int, left: int) -> tuple[int, int, int]:
    """Decide what the head of the queue may run with ``left`` tokens of budget: (chunk, units found, new blocks).

    A chunk of 0 means that it cannot be admitted now; ``BLOCKED`` says that it cannot be until something is released.
    """
    if state[rep + layout.RUN_COUNT] >= state[layout.MAX_SEQS]:
        state[rep + layout.BLOCKED] = 1
        return 0, 0, 0
    req = state[rep + layout.WAIT_HEAD]
    found, unused = match(state, rep, req)
    hit = max(found * state[layout.UNIT_TOKENS], state[req + layout.REMOTE])
    chunk = min(state[req + layout.TARGET] - hit, chunk_limit(state, rep))
    if chunk > left:
        if state[layout.IS_CHUNKED] == 0:
            return 0, 0, 0
        chunk = left
    blocks = blocks_for(state, hit + chunk)
    if state[layout.RESERVES_OUTPUT] == 1:
        last = state[req + layout.PROMPT] + state[req + layout.OUTPUT] - 1 + state[layout.SPARE_TOKENS]
        blocks = blocks_for(state, min(last, state[layout.MAX_MODEL_LEN]))
    elif state[layout.RESERVES_PROMPT] == 1:
        blocks = blocks_for(state, state[req + layout.TARGET])
    gate = blocks
    if state[layout.GATES_FULL_SEQUENCE] == 1:
        gate = max(gate, blocks_for(state, state[req + layout.TARGET]))
    if state[rep + layout.RUN_COUNT] > 0:
        gate += state[layout.WATERMARK]
    if gate - (found - unused) * state[layout.UNIT_BLOCKS] > free_blocks(state, rep):
        state[rep + layout.BLOCKED] = 1
        return 0, 0, 0
    return chunk, found, blocks - found * state[layout.UNIT_BLOCKS]


@kernel
def admit_head(state: Cells, rep: int, found: int, blocks: int) -> int:
    """Admit the head of the waiting queue on ``found`` cached units and ``blocks`` new blocks; returns it."""
    req = admit(state, rep)
    hit = found * state[layout.UNIT_TOKENS]
    if state[req + layout.SCHEDULED] == NONE:
        state[req + layout.SCHEDULED] = state[rep + layout.DECISION]
        state[req + layout.HIT_TOKENS] = hit
    state[rep + layout.HITS] += hit
    if found > 0:
        take(state, rep, req, found)
    state[req + layout.COMPUTED] = max(hit, state[req + layout.REMOTE])
    state[req + layout.REMOTE] = 0
    state[req + layout.BLOCKS] = blocks + found * state[layout.UNIT_BLOCKS]
    allocate(state, rep, blocks)
    return req


@kernel
def admit_waiting(state: Cells, rep: int, left: int) -> tuple[int, int, int, int]:
    """Pass 2, with ``left`` tokens of budget: (prefill tokens, prefills, pairs, KV reads)."""
    tokens = 0
    prefills = 0
    pairs = 0
    reads = 0
    while left > tokens and state[rep + layout.WAIT_COUNT] > 0:
        chunk, found, blocks = admission(state, rep, left - tokens)
        if chunk == 0:
            break
        req = admit_head(state, rep, found, blocks)
        more_pairs, more_reads = prefill_chunk(state, rep, req, chunk)
        tokens += chunk
        prefills += 1
        pairs += more_pairs
        reads += more_reads
    return tokens, prefills, pairs, reads


@kernel
def schedule_v1(state: Cells, rep: int, grp: int) -> tuple[int, int, int, int]:
    """Take one decision: (prefill tokens, prefills, pairs, KV reads); the sequences of ``grp`` decode besides."""
    preempted = state[rep + layout.PREEMPTED]
    if _fits_in_any_order(state, rep, grp):
        tokens, prefills, pairs, reads = _run_in_any_order(state, rep, grp)
        left = state[layout.MAX_TOKENS] - state[grp + layout.DECODERS] - tokens
    else:
        tokens, prefills, pairs, reads, left = run_in_order(state, rep, grp)
    state[rep + layout.BLOCKED] = 0
    if preempted == state[rep + layout.PREEMPTED] or state[layout.ADMITS_AFTER_PREEMPTION] == 1:
        more_tokens, admitted, more_pairs, more_reads = admit_waiting(state, rep, left)
        tokens += more_tokens
        prefills += admitted
        pairs += more_pairs
        reads += more_reads
    return tokens, prefills, pairs, reads
