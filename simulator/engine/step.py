"""Put one scheduled step on the device: its duration, its clock, and what its tokens change.

A step starts when the device is free and its decision is taken. Synchronous scheduling adds the host's time to the
device's; asynchronous scheduling hides it, so the host is only a floor, and the next decision is taken at the start of
this step instead of at its end. A finished request gives up slot and blocks before the next decision (synchronous) or
before the one after it (asynchronous: its last output is not back yet when the next step is scheduled).
"""

from simulator.engine.cost import decode_line, prefill_cost, segment
from simulator.engine.heap import pop, push
from simulator.engine.jit import kernel
from simulator.engine.layout import (
    ARRIVAL,
    ATTENTION_FRACTION,
    ATTENTION_TIME,
    BUSY,
    CACHED_FREE,
    COMPUTED,
    DECISION,
    DECODE_KV,
    DECODE_KV_READS,
    DECODE_STEPS,
    DECODE_TOKENS,
    DECODERS,
    END,
    END_FRACTION,
    EPOCH,
    FINISH,
    FINISHED_HEAD,
    FINISHED_TAIL,
    FIRST_TOKEN,
    FRACTION_BITS,
    FREE,
    GENERATED,
    HEAP_SIZE,
    HOST_FRACTION,
    HOST_TIME,
    I64,
    KV_SEGMENT,
    LAST_END,
    LOG_DECISION,
    LOG_DECODE_KV,
    LOG_DECODES,
    LOG_END,
    LOG_FREE,
    LOG_PAIRS,
    LOG_PREFILL_TOKENS,
    LOG_PREFILLS,
    LOG_REPLICA,
    LOG_ROWS,
    LOG_RUNNING,
    LOG_START,
    LOG_WAITING,
    NEXT_FINISHED,
    NEXT_RELEASING,
    NONE,
    PARTIALS,
    PEAK_BLOCKS,
    PENDING_SIZE,
    PREFILL_KV_READS,
    PREFILL_PAIRS,
    PREFILL_TOKENS,
    RELEASING_HEAD,
    RELEASING_TAIL,
    RUN_COUNT,
    SAMPLE_TIME,
    SAMPLED_ROWS,
    STARVED_HEAD,
    STEPS,
    TARGET,
    TOKEN_TIME,
    WAIT_COUNT,
    WINDOW_HEAP_SIZE,
    WINDOW_KV,
    WINDOW_OPEN,
    WINDOW_SEGMENT,
    Costs,
    Rules,
    State,
)
from simulator.engine.sequences import (
    chain_releasing,
    is_current,
    is_window_current,
    release,
    release_chain,
    start_decoding,
    stop_decoding,
)

_MASK = (1 << FRACTION_BITS) - 1
_ADMISSION_BITS = 32


@kernel
def free_blocks(state: State, rules: Rules, r: int) -> int:
    """Blocks that can be allocated: empty ones and cached ones nobody uses."""
    return state.replica[r, FREE] + state.replica[r, CACHED_FREE] * rules.unit_blocks


@kernel
def log_step(
    state: State, rules: Rules, r: int, start: int, end: int, prefill_tokens: int, prefills: int, pairs: int
) -> None:
    """Write one row of the iteration log, before the step's tokens are counted; rows beyond its end are only counted."""
    state.globe[LOG_ROWS] += 1
    if state.globe[LOG_ROWS] > len(state.log):
        return
    row = state.log[state.globe[LOG_ROWS] - 1]
    rep = state.replica[r]
    row[LOG_REPLICA] = r
    row[LOG_DECISION] = rep[DECISION]
    row[LOG_START] = start
    row[LOG_END] = end
    row[LOG_PREFILL_TOKENS] = prefill_tokens
    row[LOG_DECODES] = rep[DECODERS]
    row[LOG_PREFILLS] = prefills
    row[LOG_DECODE_KV] = rep[DECODE_KV] + rep[DECODERS]
    row[LOG_PAIRS] = pairs
    row[LOG_RUNNING] = rep[RUN_COUNT]
    row[LOG_WAITING] = rep[WAIT_COUNT]
    row[LOG_FREE] = free_blocks(state, rules, r)


@kernel
def announce_finish(state: State, rules: Rules, r: int, i: int, time: int) -> None:
    """Tell the client and the router that request ``i`` was answered at ``time``.

    What the client sends in return is seen strictly later: it was not there when the next decision was taken.
    """
    rep = state.replica[r]
    if rules.is_closed == 1:
        state.globe[PENDING_SIZE] = push(
            state.pending_time,
            state.pending_request,
            state.globe[PENDING_SIZE],
            time + max(rules.frontend_ps, 1),
            NONE,
        )
    elif len(state.first_child) > 0:
        child = state.first_child[i]
        while child != NONE:
            state.request[child, ARRIVAL] = time + state.think[child]
            state.globe[PENDING_SIZE] = push(
                state.pending_time,
                state.pending_request,
                state.globe[PENDING_SIZE],
                time + max(state.think[child] + rules.frontend_ps, 1),
                child,
            )
            child = state.next_child[child]
    state.request[i, NEXT_FINISHED] = NONE
    if rep[FINISHED_TAIL] == NONE:
        rep[FINISHED_HEAD] = i
    else:
        state.request[rep[FINISHED_TAIL], NEXT_FINISHED] = i
    rep[FINISHED_TAIL] = i


@kernel
def settle(state: State, rules: Rules, r: int, end: int) -> None:
    """After a step that ends at ``end``: close windows, finish requests, release what is due."""
    rep = state.replica[r]
    epoch = rep[EPOCH]
    if rules.window > 0:
        keys = state.window_key[r]
        values = state.window_request[r]
        while rep[WINDOW_HEAP_SIZE] > 0 and (keys[0] >> _ADMISSION_BITS) <= epoch:
            if is_window_current(state, rules, r, keys[0], values[0]):
                rep[WINDOW_OPEN] -= 1
            rep[WINDOW_HEAP_SIZE] = pop(keys, values, rep[WINDOW_HEAP_SIZE])
    due = rep[RELEASING_HEAD]
    rep[RELEASING_HEAD] = NONE
    rep[RELEASING_TAIL] = NONE
    keys = state.heap_key[r]
    values = state.heap_request[r]
    while rep[HEAP_SIZE] > 0 and (keys[0] >> _ADMISSION_BITS) <= epoch:
        i = values[0]
        current = is_current(state, r, keys[0], i)
        rep[HEAP_SIZE] = pop(keys, values, rep[HEAP_SIZE])
        if not current:
            continue
        stop_decoding(state, rules, r, i)
        state.request[i, FINISH] = end
        announce_finish(state, rules, r, i, end)
        if rules.is_async == 1:
            chain_releasing(state, r, i)
        else:
            release(state, rules, r, i)
    release_chain(state, rules, r, due)


@kernel
def add_time(total: I64, column: int, fraction_column: int, amount: int) -> None:
    """Add ``amount`` of 2^-12 ps to a total kept as ps and fraction."""
    amount += total[fraction_column]
    total[column] += amount >> FRACTION_BITS
    total[fraction_column] = amount & _MASK


@kernel
def account_blocks(state: State, rules: Rules, r: int, before: int, duration: int) -> None:
    """Add a stretch of ``duration`` ps to the integrals; used blocks are taken as the mean of both ends."""
    used = rules.num_blocks - free_blocks(state, rules, r)
    if used > state.total[r, PEAK_BLOCKS]:
        state.total[r, PEAK_BLOCKS] = used
    state.integral[r, 0] += 0.5 * float(before + used) * float(duration)
    state.integral[r, 1] += float(state.replica[r, RUN_COUNT]) * float(duration)


@kernel
def decode_cost(state: State, rules: Rules, costs: Costs, r: int) -> int:
    """Attention of one decode step of all decoding sequences, in 2^-12 ps."""
    rep = state.replica[r]
    batch = rep[DECODERS]
    if batch == 0:
        return 0
    tokens = rep[DECODE_KV] + batch
    j = segment(costs.kv_knots, tokens, rep[KV_SEGMENT])
    rep[KV_SEGMENT] = j
    low, slope = decode_line(costs, costs.decode[0], batch, j)
    cost = low + slope * (tokens - costs.kv_knots[j])
    if rules.window > 0:
        tokens = rep[WINDOW_KV] + rep[WINDOW_OPEN]
        j = segment(costs.kv_knots, tokens, rep[WINDOW_SEGMENT])
        rep[WINDOW_SEGMENT] = j
        low, slope = decode_line(costs, costs.windowed[0], batch, j)
        cost += low + slope * (tokens - costs.kv_knots[j])
    return cost


@kernel
def launch(
    state: State,
    rules: Rules,
    costs: Costs,
    r: int,
    prefill_tokens: int,
    prefills: int,
    pairs: int,
    reads: int,
    decodes: int,
    used_before: int,
) -> None:
    """Run the step that was just scheduled: ``decodes`` is 1 if the decoding sequences take part."""
    rep = state.replica[r]
    total = state.total[r]
    batch = rep[DECODERS] * decodes
    rows = batch + prefills
    tokens = batch + prefill_tokens
    token_ps = costs.token_mixed[0, tokens] if prefills > 0 else costs.token_decode[0, tokens]
    sample_ps = costs.sample[0, rows]
    attention = prefill_cost(costs, 0, pairs, reads) << FRACTION_BITS
    if batch > 0:
        attention += decode_cost(state, rules, costs, r)
    device = ((token_ps + sample_ps) << FRACTION_BITS) + attention
    host = (rules.host_step_ps + rules.host_seq_ps * rows) << FRACTION_BITS
    duration = max(device, host) if rules.is_async == 1 else device + host
    if rep[DECISION] > rep[END]:
        start = rep[DECISION]
        fraction = 0
    else:
        start = rep[END]
        fraction = rep[END_FRACTION]
    clock = fraction + duration
    end = start + (clock >> FRACTION_BITS)
    if len(state.log) > 0:
        log_step(state, rules, r, start, end, prefill_tokens, prefills, pairs)
    total[STEPS] += 1
    total[BUSY] += end - start
    total[TOKEN_TIME] += token_ps
    total[SAMPLE_TIME] += sample_ps
    add_time(total, ATTENTION_TIME, ATTENTION_FRACTION, attention)
    add_time(total, HOST_TIME, HOST_FRACTION, duration - device)
    total[PREFILL_TOKENS] += prefill_tokens
    total[DECODE_TOKENS] += batch
    total[PREFILL_PAIRS] += pairs
    total[PREFILL_KV_READS] += reads
    total[SAMPLED_ROWS] += rows
    total[DECODE_STEPS] += 1 if prefills == 0 else 0
    total[LAST_END] = end
    state.histogram[r, rows] += 1
    account_blocks(state, rules, r, used_before, end - start)
    if batch > 0:
        rep[EPOCH] += 1
        rep[DECODE_KV] += batch
        total[DECODE_KV_READS] += rep[DECODE_KV]
        if rules.window > 0:
            rep[WINDOW_KV] += rep[WINDOW_OPEN]
    rep[END] = end
    rep[END_FRACTION] = clock & _MASK
    i = rep[STARVED_HEAD]
    rep[STARVED_HEAD] = NONE
    while i != NONE:
        start_decoding(state, rules, r, i)
        i = state.request[i, NEXT_RELEASING]
    _complete_prefills(state, rules, r, end)
    settle(state, rules, r, end)
    rep[DECISION] = start if rules.is_async == 1 else end


@kernel
def _complete_prefills(state: State, rules: Rules, r: int, end: int) -> None:
    """Requests whose whole target is computed have a token at ``end`` and decode from now on."""
    rep = state.replica[r]
    row = state.partial[r]
    request = state.request
    kept = 0
    for at in range(rep[PARTIALS]):
        i = row[at]
        if request[i, COMPUTED] < request[i, TARGET]:
            row[kept] = i
            kept += 1
            continue
        request[i, GENERATED] += 1
        if request[i, FIRST_TOKEN] == NONE:
            request[i, FIRST_TOKEN] = end
        start_decoding(state, rules, r, i)
    rep[PARTIALS] = kept
