"""vLLM's V1 scheduler: one token budget, running requests first, then the waiting queue in order.

Source: vLLM 0.33 ``Scheduler.schedule``. Pass 1 walks the running list in admission order; every request asks for the
tokens it lacks, capped by the long-prefill threshold and the budget; where blocks run out the last running request is
preempted and starts over at the front of the queue. Pass 2 runs only if nobody was preempted; it admits from the head
until budget, slots or blocks are used up and never skips one that does not fit. ``orca`` is the same walk with whole
prompts and with blocks reserved for the whole answer.
"""

from simulator.engine.jit import kernel
from simulator.engine.layout import (
    ADMISSION,
    BLOCKED,
    COMPUTED,
    DECISION,
    DECODERS,
    DECODING,
    EPOCH,
    HIT_TOKENS,
    HITS,
    NEXT,
    NEXT_ADMISSION,
    NEXT_RELEASING,
    NONE,
    OUTPUT,
    PARTIALS,
    PROMPT,
    RELEASING,
    RUN_COUNT,
    RUN_HEAD,
    RUN_TAIL,
    SCHEDULED,
    STARVED_HEAD,
    STATUS,
    TARGET,
    WAIT_COUNT,
    WAIT_HEAD,
    Costs,
    Rules,
    State,
)
from simulator.engine.prefix_cache import make_room, match, publish, take
from simulator.engine.sequences import admit, kv_tokens, preempt, stop_decoding
from simulator.engine.step import free_blocks, launch


@kernel
def _blocks(tokens: int, block_size: int) -> int:
    return (tokens + block_size - 1) // block_size


@kernel
def _chunk_limit(state: State, rules: Rules, r: int) -> int:
    """Longest chunk one prefill may take; the threshold is ignored for a request on its own."""
    rep = state.replica[r]
    if rules.long_prefill > 0 and rep[RUN_COUNT] + rep[WAIT_COUNT] > 1:
        return rules.long_prefill
    return rules.max_tokens


@kernel
def _fits_without_order(state: State, rules: Rules, r: int) -> bool:
    """Whether every running request gets what it asks for, so that the order of the walk does not matter."""
    rep = state.replica[r]
    request = state.request
    left = rules.max_tokens - rep[DECODERS]
    if left < 0:
        return False
    need = 0 if rules.reserves_output == 1 else state.residue[r, rep[EPOCH] % rules.block_size]
    limit = _chunk_limit(state, rules, r)
    for at in range(rep[PARTIALS]):
        i = state.partial[r, at]
        done = request[i, COMPUTED]
        chunk = min(request[i, TARGET] - done, limit)
        if chunk > left:
            if i != rep[RUN_TAIL]:
                return False
            chunk = left
        left -= chunk
        if rules.reserves_output == 0:
            need += _blocks(done + chunk, rules.block_size) - _blocks(done, rules.block_size)
    return need <= free_blocks(state, rules, r)


@kernel
def _continue_prefill(state: State, rules: Rules, r: int, i: int, chunk: int) -> None:
    done = state.request[i, COMPUTED]
    state.request[i, COMPUTED] = done + chunk
    if rules.is_caching == 1:
        publish(state, rules, r, i, done, done + chunk)


@kernel
def _run_unordered(state: State, rules: Rules, r: int) -> tuple[int, int, int, int]:
    """Pass 1 when everything fits: (prefill tokens, prefills, pairs, reads)."""
    rep = state.replica[r]
    request = state.request
    if rules.reserves_output == 0:
        make_room(state, rules, r, state.residue[r, rep[EPOCH] % rules.block_size])
    left = rules.max_tokens - rep[DECODERS]
    limit = _chunk_limit(state, rules, r)
    tokens = 0
    prefills = 0
    pairs = 0
    reads = 0
    for at in range(rep[PARTIALS]):
        i = state.partial[r, at]
        done = request[i, COMPUTED]
        chunk = min(min(request[i, TARGET] - done, limit), left - tokens)
        if chunk == 0:
            continue
        if rules.reserves_output == 0:
            make_room(state, rules, r, _blocks(done + chunk, rules.block_size) - _blocks(done, rules.block_size))
        _continue_prefill(state, rules, r, i, chunk)
        tokens += chunk
        prefills += 1
        pairs += chunk * done + chunk * (chunk + 1) // 2
        reads += done + chunk
    return tokens, prefills, pairs, reads


@kernel
def _run_in_order(state: State, rules: Rules, r: int) -> tuple[int, int, int, int, int, int]:
    """Pass 1 request by request: (prefill tokens, prefills, pairs, reads, budget left, whether one was preempted)."""
    rep = state.replica[r]
    request = state.request
    left = rules.max_tokens
    limit = _chunk_limit(state, rules, r)
    tokens = 0
    prefills = 0
    pairs = 0
    reads = 0
    preempted = 0
    i = rep[RUN_HEAD]
    while i != NONE and left > 0:
        if request[i, STATUS] == RELEASING:
            i = request[i, NEXT]
            continue
        is_decoding = request[i, STATUS] == DECODING
        done = kv_tokens(state, r, i)
        chunk = 1 if is_decoding else min(min(request[i, TARGET] - done, limit), left)
        need = 0
        if rules.reserves_output == 0:
            need = _blocks(done + chunk, rules.block_size) - _blocks(done, rules.block_size)
        has_lost = False
        while need > free_blocks(state, rules, r):
            victim = rep[RUN_TAIL]
            preempt(state, rules, r, victim)
            preempted = 1
            if victim == i:
                has_lost = True
                break
        if has_lost:
            return tokens, prefills, pairs, reads, left, preempted
        make_room(state, rules, r, need)
        left -= chunk
        if not is_decoding:
            _continue_prefill(state, rules, r, i, chunk)
            tokens += chunk
            prefills += 1
            pairs += chunk * done + chunk * (chunk + 1) // 2
            reads += done + chunk
        i = request[i, NEXT]
    while i != NONE:
        if request[i, STATUS] == DECODING:
            stop_decoding(state, rules, r, i)
            request[i, NEXT_RELEASING] = rep[STARVED_HEAD]
            rep[STARVED_HEAD] = i
        i = request[i, NEXT]
    return tokens, prefills, pairs, reads, left, preempted


@kernel
def schedule_v1(state: State, rules: Rules, costs: Costs, r: int) -> bool:
    """Take one decision and launch its step; False if there was nothing to run."""
    rep = state.replica[r]
    request = state.request
    used = rules.num_blocks - free_blocks(state, rules, r)
    preempted = 0
    if _fits_without_order(state, rules, r):
        tokens, prefills, pairs, reads = _run_unordered(state, rules, r)
        left = rules.max_tokens - rep[DECODERS] - tokens
    else:
        tokens, prefills, pairs, reads, left, preempted = _run_in_order(state, rules, r)
    rep[BLOCKED] = 0
    while preempted == 0 and rep[WAIT_COUNT] > 0 and left > 0:
        if rep[RUN_COUNT] >= rules.max_seqs:
            rep[BLOCKED] = 1
            break
        i = rep[WAIT_HEAD]
        found, unused = match(state, rules, r, i)
        hit = found * rules.unit_tokens
        chunk = min(request[i, TARGET] - hit, _chunk_limit(state, rules, r))
        if chunk > left:
            if rules.is_chunked == 0:
                break
            chunk = left
        take_blocks = _blocks(hit + chunk, rules.block_size)
        if rules.reserves_output == 1:
            take_blocks = _blocks(request[i, PROMPT] + request[i, OUTPUT] - 1, rules.block_size)
        gate = take_blocks
        if rules.gates_full_sequence == 1:
            gate = max(gate, _blocks(request[i, TARGET], rules.block_size))
        gate += (unused - found) * rules.unit_blocks
        if rep[RUN_COUNT] > 0:
            gate += rules.watermark
        if gate > free_blocks(state, rules, r):
            rep[BLOCKED] = 1
            break
        admit(state, r)
        request[i, ADMISSION] = rep[NEXT_ADMISSION]
        rep[NEXT_ADMISSION] += 1
        state.partial[r, rep[PARTIALS]] = i
        rep[PARTIALS] += 1
        if request[i, SCHEDULED] == NONE:
            request[i, SCHEDULED] = rep[DECISION]
            request[i, HIT_TOKENS] = hit
        state.total[r, HITS] += hit
        if rules.is_caching == 1:
            take(state, r, i, found)
        request[i, COMPUTED] = hit
        make_room(state, rules, r, take_blocks - found * rules.unit_blocks)
        _continue_prefill(state, rules, r, i, chunk)
        left -= chunk
        tokens += chunk
        prefills += 1
        pairs += chunk * hit + chunk * (chunk + 1) // 2
        reads += hit + chunk
    if rep[DECODERS] + prefills == 0:
        return False
    launch(state, rules, costs, r, tokens, prefills, pairs, reads, 1, used)
    return True
