"""Run a stretch of decode-only steps at once, ending on exactly the clock that single steps would reach.

While nobody joins or leaves, step i of a stretch costs ``d + i * g`` (KV grows by one token per sequence and step, and
the cost is linear in KV between two knots), so n steps take ``n d + g n (n - 1) / 2``. A stretch ends where any of that
stops being true: a finish, a knot, a full sliding window, the host's floor, a block that is not there. What arrives in
between cuts it short: steps decided before the arrival stand, the rest are proposed again.
"""

from math import sqrt

from simulator.engine.cost import decode_line, segment
from simulator.engine.heap import pop
from simulator.engine.jit import kernel
from simulator.engine.layout import (
    ATTENTION_FRACTION,
    ATTENTION_GROWTH,
    ATTENTION_TIME,
    BLOCKED,
    BUSY,
    DECISION,
    DECODE_KV,
    DECODE_KV_READS,
    DECODE_STEPS,
    DECODE_TOKENS,
    DECODERS,
    END,
    END_FRACTION,
    EPOCH,
    FRACTION_BITS,
    HEAP_SIZE,
    HOST_FRACTION,
    HOST_TIME,
    KEY,
    KV_SEGMENT,
    LAST_END,
    LEAP,
    LEAP_START,
    LEAP_START_FRACTION,
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
    NEVER,
    NONE,
    PARTIALS,
    RELEASING_HEAD,
    RELEASING_TAIL,
    RUN_COUNT,
    SAMPLE_TIME,
    SAMPLED_ROWS,
    STEP_ATTENTION,
    STEP_COST,
    STEP_GROWTH,
    STEP_SAMPLE,
    STEP_TOKEN,
    STEPS,
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
from simulator.engine.prefix_cache import make_room
from simulator.engine.sequences import is_current, is_window_current, release_chain
from simulator.engine.step import account_blocks, add_time, free_blocks, settle

_ADMISSION_BITS = 32
_MASK = (1 << FRACTION_BITS) - 1


@kernel
def _elapsed(cost: int, growth: int, steps: int) -> int:
    """Time of the first ``steps`` steps in 2^-12 ps."""
    return steps * cost + growth * (steps * (steps - 1) // 2)


@kernel
def _blocks_needed(state: State, rules: Rules, r: int, steps: int) -> int:
    """New KV blocks of all decoding sequences over the next ``steps`` steps."""
    rep = state.replica[r]
    size = rules.block_size
    need = steps // size * rep[DECODERS]
    row = state.residue[r]
    at = rep[EPOCH] % size
    for _ in range(steps % size):
        need += row[at]
        at += 1
        if at == size:
            at = 0
    return need


@kernel
def _steps_within_blocks(state: State, rules: Rules, r: int, limit: int) -> int:
    """Longest stretch, at most ``limit``, that the free blocks can feed."""
    rep = state.replica[r]
    size = rules.block_size
    free = free_blocks(state, rules, r)
    if rules.reserves_output == 1 or (limit // size + 1) * rep[DECODERS] <= free:
        return limit
    steps = free // rep[DECODERS] * size
    free -= steps // size * rep[DECODERS]
    row = state.residue[r]
    at = (rep[EPOCH] + steps) % size
    while steps < limit and row[at] <= free:
        free -= row[at]
        steps += 1
        at += 1
        if at == size:
            at = 0
    return min(steps, limit)


@kernel
def _first_finish(state: State, r: int) -> int:
    """Epoch of the next finish; entries of preempted requests are dropped on the way."""
    rep = state.replica[r]
    keys = state.heap_key[r]
    values = state.heap_request[r]
    while not is_current(state, r, keys[0], values[0]):
        rep[HEAP_SIZE] = pop(keys, values, rep[HEAP_SIZE])
    return keys[0] >> _ADMISSION_BITS


@kernel
def _next_full_window(state: State, rules: Rules, r: int) -> int:
    """Epoch at which the next decoding sequence fills its window; call only while one is open."""
    rep = state.replica[r]
    keys = state.window_key[r]
    values = state.window_request[r]
    while not is_window_current(state, rules, r, keys[0], values[0]):
        rep[WINDOW_HEAP_SIZE] = pop(keys, values, rep[WINDOW_HEAP_SIZE])
    return keys[0] >> _ADMISSION_BITS


@kernel
def propose(state: State, rules: Rules, costs: Costs, r: int) -> None:
    """Decide what replica ``r`` does next if nothing arrives: idle, one full scheduling pass, or a stretch."""
    rep = state.replica[r]
    rep[LEAP] = 0
    rep[KEY] = rep[DECISION]
    if rep[PARTIALS] > 0 or (rep[WAIT_COUNT] > 0 and rep[BLOCKED] == 0):
        return
    if rep[DECODERS] == 0:
        wait_for_output(state, rules, r)
        if rep[WAIT_COUNT] == 0:
            rep[KEY] = NEVER
        return
    epoch = rep[EPOCH]
    batch = rep[DECODERS]
    steps = _first_finish(state, r) - epoch
    if rules.is_leaping == 0 or (rep[RELEASING_HEAD] != NONE and (rep[WAIT_COUNT] > 0 or len(state.log) > 0)):
        # What is released after the first step may admit somebody, and shows in the log.
        steps = 1
    tokens = rep[DECODE_KV] + batch
    j = segment(costs.kv_knots, tokens, rep[KV_SEGMENT])
    rep[KV_SEGMENT] = j
    low, slope = decode_line(costs, costs.decode[0], batch, j)
    cost = low + slope * (tokens - costs.kv_knots[j])
    growth = slope * batch
    if j < len(costs.kv_knots) - 2:
        steps = min(steps, (costs.kv_knots[j + 1] - tokens + batch - 1) // batch)
    if rules.window > 0:
        opened = rep[WINDOW_OPEN]
        tokens = rep[WINDOW_KV] + opened
        j = segment(costs.kv_knots, tokens, rep[WINDOW_SEGMENT])
        rep[WINDOW_SEGMENT] = j
        low, slope = decode_line(costs, costs.windowed[0], batch, j)
        cost += low + slope * (tokens - costs.kv_knots[j])
        growth += slope * opened
        if opened > 0:
            steps = min(steps, _next_full_window(state, rules, r) - epoch)
            if j < len(costs.kv_knots) - 2:
                steps = min(steps, (costs.kv_knots[j + 1] - tokens + opened - 1) // opened)
    steps = _steps_within_blocks(state, rules, r, steps)
    if steps == 0:
        return
    rep[STEP_ATTENTION] = cost
    rep[ATTENTION_GROWTH] = growth
    rep[STEP_TOKEN] = costs.token_decode[0, batch]
    rep[STEP_SAMPLE] = costs.sample[0, batch]
    cost += (rep[STEP_TOKEN] + rep[STEP_SAMPLE]) << FRACTION_BITS
    host = (rules.host_step_ps + rules.host_seq_ps * batch) << FRACTION_BITS
    if rules.is_async == 0:
        cost += host
    elif cost >= host:
        if growth < 0:
            steps = min(steps, (cost - host) // -growth + 1)
    else:
        if growth > 0:
            steps = min(steps, (host - cost + growth - 1) // growth)
        cost = host
        growth = 0
    steps = min(steps, max(1, NEVER // max(1, max(cost, cost + growth * (steps - 1)))))
    rep[LEAP] = steps
    rep[STEP_COST] = cost
    rep[STEP_GROWTH] = growth
    if rep[DECISION] > rep[END]:
        rep[LEAP_START] = rep[DECISION]
        rep[LEAP_START_FRACTION] = 0
    else:
        rep[LEAP_START] = rep[END]
        rep[LEAP_START_FRACTION] = rep[END_FRACTION]
    if steps > rules.is_async:
        # Asynchronous: the last step is decided at the start of the one before it.
        before = _elapsed(cost, growth, steps - 1 - rules.is_async)
        rep[KEY] = rep[LEAP_START] + ((rep[LEAP_START_FRACTION] + before) >> FRACTION_BITS)


@kernel
def wait_for_output(state: State, rules: Rules, r: int) -> None:
    """Nothing can run at this decision: the next one is taken when the step under way has ended."""
    rep = state.replica[r]
    head = rep[RELEASING_HEAD]
    rep[RELEASING_HEAD] = NONE
    rep[RELEASING_TAIL] = NONE
    release_chain(state, rules, r, head)
    rep[BLOCKED] = 0
    rep[DECISION] = max(rep[DECISION], rep[END])
    rep[KEY] = rep[DECISION]


@kernel
def steps_decided_before(state: State, rules: Rules, r: int, time: int) -> int:
    """How many steps of the proposed stretch are decided strictly before ``time``."""
    rep = state.replica[r]
    if time <= rep[DECISION]:
        return 0
    span = ((time - rep[LEAP_START]) << FRACTION_BITS) - rep[LEAP_START_FRACTION]
    cost = rep[STEP_COST]
    growth = rep[STEP_GROWTH]
    started = 0
    if span > 0:
        # Largest count whose last start lies before `time`: solve for it, then correct the rounding.
        half = float(cost) - 0.5 * float(growth)
        root = sqrt(max(0.0, half * half + 2.0 * float(growth) * float(span)))
        guess = min(max(0, int(2.0 * float(span) / max(1.0, half + root))), rep[LEAP])
        while guess < rep[LEAP] and _elapsed(cost, growth, guess + 1) < span:
            guess += 1
        while guess > 0 and _elapsed(cost, growth, guess) >= span:
            guess -= 1
        started = guess + 1
    return min(rep[LEAP], started + rules.is_async)


@kernel
def commit(state: State, rules: Rules, r: int, steps: int) -> None:
    """Run the first ``steps`` steps of the proposed stretch."""
    rep = state.replica[r]
    total = state.total[r]
    cost = rep[STEP_COST]
    growth = rep[STEP_GROWTH]
    batch = rep[DECODERS]
    if len(state.log) > 0:
        _log_stretch(state, rules, r, steps)
    first = rep[LEAP_START]
    fraction = rep[LEAP_START_FRACTION]
    used = rules.num_blocks - free_blocks(state, rules, r)
    if rules.reserves_output == 0:
        make_room(state, rules, r, _blocks_needed(state, rules, r, steps))
    clock = fraction + _elapsed(cost, growth, steps)
    end = first + (clock >> FRACTION_BITS)
    last = first + ((fraction + _elapsed(cost, growth, steps - 1)) >> FRACTION_BITS)
    _count(state, r, steps, end - first)
    account_blocks(state, rules, r, used, end - first)
    rep[EPOCH] += steps
    rep[DECODE_KV] += steps * batch
    if rules.window > 0:
        rep[WINDOW_KV] += steps * rep[WINDOW_OPEN]
    rep[END] = end
    rep[END_FRACTION] = clock & _MASK
    total[LAST_END] = end
    settle(state, rules, r, end)
    rep[DECISION] = last if rules.is_async == 1 else end
    rep[LEAP] = 0


@kernel
def _count(state: State, r: int, steps: int, duration: int) -> None:
    """Add a stretch to the totals."""
    rep = state.replica[r]
    total = state.total[r]
    batch = rep[DECODERS]
    attention = _elapsed(rep[STEP_ATTENTION], rep[ATTENTION_GROWTH], steps)
    device = attention + ((steps * (rep[STEP_TOKEN] + rep[STEP_SAMPLE])) << FRACTION_BITS)
    total[STEPS] += steps
    total[DECODE_STEPS] += steps
    total[BUSY] += duration
    total[TOKEN_TIME] += steps * rep[STEP_TOKEN]
    total[SAMPLE_TIME] += steps * rep[STEP_SAMPLE]
    add_time(total, ATTENTION_TIME, ATTENTION_FRACTION, attention)
    add_time(total, HOST_TIME, HOST_FRACTION, _elapsed(rep[STEP_COST], rep[STEP_GROWTH], steps) - device)
    total[DECODE_TOKENS] += steps * batch
    total[SAMPLED_ROWS] += steps * batch
    total[DECODE_KV_READS] += steps * rep[DECODE_KV] + batch * (steps * (steps + 1) // 2)
    state.histogram[r, batch] += steps


@kernel
def _log_stretch(state: State, rules: Rules, r: int, steps: int) -> None:
    """Write the rows that single steps would have written."""
    rep = state.replica[r]
    free = free_blocks(state, rules, r)
    start = rep[LEAP_START]
    decision = rep[DECISION]
    for at in range(steps):
        clock = rep[LEAP_START_FRACTION] + _elapsed(rep[STEP_COST], rep[STEP_GROWTH], at + 1)
        end = rep[LEAP_START] + (clock >> FRACTION_BITS)
        state.globe[LOG_ROWS] += 1
        if state.globe[LOG_ROWS] <= len(state.log):
            row = state.log[state.globe[LOG_ROWS] - 1]
            row[LOG_REPLICA] = r
            row[LOG_DECISION] = decision
            row[LOG_START] = start
            row[LOG_END] = end
            row[LOG_PREFILL_TOKENS] = 0
            row[LOG_DECODES] = rep[DECODERS]
            row[LOG_PREFILLS] = 0
            row[LOG_DECODE_KV] = rep[DECODE_KV] + (at + 1) * rep[DECODERS]
            row[LOG_PAIRS] = 0
            row[LOG_RUNNING] = rep[RUN_COUNT]
            row[LOG_WAITING] = rep[WAIT_COUNT]
            row[LOG_FREE] = free
            if rules.reserves_output == 0:
                row[LOG_FREE] -= _blocks_needed(state, rules, r, at + 1)
        decision = start if rules.is_async == 1 else end
        start = end
