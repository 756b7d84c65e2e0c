"""Run a stretch of decode-only steps at once, ending on exactly the clock that single steps would reach.

While nobody joins or leaves, step i of a stretch costs ``d + i * g`` (KV grows by one token per sequence and step, and
the cost is linear in KV between two knots), so n steps take ``n d + g n (n - 1) / 2``. A stretch ends where any of that
stops being true: a finish, a knot, a full sliding window, the host's floor, a block that is not there. What arrives in
between cuts it short: steps decided before the arrival stand, the rest are proposed again.
"""

from math import sqrt

from simulator.engine import layout
from simulator.engine.cost import decode_line, kv_segment, sample_cost, steps_in_segment, token_cost
from simulator.engine.heap import pop
from simulator.engine.jit import kernel
from simulator.engine.layout import FRACTION_BITS, FRACTION_MASK, LONGEST_STRETCH, NEVER, NONE, Cells
from simulator.engine.prefix_cache import allocate, free_blocks, used_blocks
from simulator.engine.sequences import is_current_finish, is_current_window, release_due
from simulator.engine.step import add_occupancy, add_time, note_peak, settle


@kernel
def _elapsed(cost: int, growth: int, steps: int) -> int:
    """Time of the first ``steps`` steps in 2^-12 ps."""
    return steps * cost + growth * (steps * (steps - 1) // 2)


@kernel
def _blocks_needed(state: Cells, grp: int, steps: int) -> int:
    """Count the new KV blocks of all decoding sequences over the next ``steps`` steps."""
    if state[layout.RESERVES_OUTPUT] == 1:
        return 0
    size = state[layout.BLOCK_SIZE]
    rounds = steps // size
    need = rounds * state[grp + layout.DECODERS]
    at = state[grp + layout.EPOCH] % size
    row = state[grp + layout.RESIDUE]
    for _ in range(steps - rounds * size):
        need += state[row + at]
        at += 1
        if at == size:
            at = 0
    return need


@kernel
def _steps_within_blocks(state: Cells, rep: int, grp: int, limit: int) -> int:
    """Longest stretch, at most ``limit``, that the free blocks can feed."""
    size = state[layout.BLOCK_SIZE]
    free = free_blocks(state, rep)
    batch = state[grp + layout.DECODERS]
    if state[layout.RESERVES_OUTPUT] == 1 or (limit // size + 1) * batch <= free:
        return limit
    steps = free // batch * size
    free %= batch
    row = state[grp + layout.RESIDUE]
    at = state[grp + layout.EPOCH] % size
    while steps < limit and state[row + at] <= free:
        free -= state[row + at]
        steps += 1
        at += 1
        if at == size:
            at = 0
    return min(steps, limit)


@kernel
def _steps_to_finish(state: Cells, grp: int) -> int:
    """Count the steps until the next finish, that one included; dead entries are dropped on the way."""
    heap = state[grp + layout.HEAP]
    capacity = state[grp + layout.HEAP_CAPACITY]
    while not is_current_finish(state, state[heap], state[heap + capacity]):
        state[grp + layout.HEAP_SIZE] = pop(state, heap, capacity, state[grp + layout.HEAP_SIZE])
    return (state[heap] >> layout.ADMISSION_BITS) - state[grp + layout.EPOCH]


@kernel
def _steps_to_full_window(state: Cells, grp: int) -> int:
    """Count the steps until the next decoding sequence fills its window; call only while one is open."""
    heap = state[grp + layout.WINDOW_HEAP]
    capacity = state[grp + layout.HEAP_CAPACITY]
    while not is_current_window(state, state[heap], state[heap + capacity]):
        state[grp + layout.WINDOW_HEAP_SIZE] = pop(state, heap, capacity, state[grp + layout.WINDOW_HEAP_SIZE])
    return (state[heap] >> layout.ADMISSION_BITS) - state[grp + layout.EPOCH]


@kernel
def _attention(state: Cells, costs: Cells, grp: int) -> tuple[int, int, int]:
    """Attention of the group's next step, its growth per step, and the steps for which that growth holds."""
    batch = state[grp + layout.DECODERS]
    tokens = state[grp + layout.DECODE_KV] + batch
    j = kv_segment(costs, tokens, state[grp + layout.KV_SEGMENT])
    state[grp + layout.KV_SEGMENT] = j
    cost, slope = decode_line(costs, costs[layout.DECODE], 0, batch, j, tokens)
    growth = slope * batch
    steps = steps_in_segment(costs, j, tokens, batch)
    if state[layout.WINDOW] > 0:
        opened = state[grp + layout.WINDOW_OPEN]
        tokens = state[grp + layout.WINDOW_KV] + opened
        j = kv_segment(costs, tokens, state[grp + layout.WINDOW_SEGMENT])
        state[grp + layout.WINDOW_SEGMENT] = j
        windowed, slope = decode_line(costs, costs[layout.WINDOWED], 0, batch, j, tokens)
        cost += windowed
        growth += slope * opened
        if opened > 0:
            steps = min(steps, _steps_to_full_window(state, grp))
            steps = min(steps, steps_in_segment(costs, j, tokens, opened))
    return cost, growth, steps


@kernel
def propose(state: Cells, costs: Cells, rep: int, grp: int) -> None:
    """Decide what a replica does next if nothing arrives: idle, one full scheduling pass, or a stretch of decodes."""
    state[rep + layout.LEAP] = 0
    state[rep + layout.KEY] = state[rep + layout.DECISION]
    has_waiting = state[rep + layout.WAIT_COUNT] > 0
    if state[rep + layout.PARTIALS] > 0 or (has_waiting and state[rep + layout.BLOCKED] == 0):
        return
    if state[grp + layout.DECODERS] == 0:
        if has_waiting:
            wait_for_output(state, rep)
        elif state[rep + layout.DECISION] >= state[rep + layout.END]:
            state[rep + layout.KEY] = NEVER
        return
    batch = state[grp + layout.DECODERS]
    cost, growth, steps = _attention(state, costs, grp)
    steps = min(steps, _steps_to_finish(state, grp))
    # What is released after the first step may admit somebody.
    if state[layout.IS_LEAPING] == 0 or (has_waiting and state[rep + layout.RELEASING_HEAD] != NONE):
        steps = 1
    steps = _steps_within_blocks(state, rep, grp, steps)
    if steps == 0:
        return
    state[rep + layout.STEP_ATTENTION] = cost
    state[rep + layout.ATTENTION_GROWTH] = growth
    state[rep + layout.STEP_TOKEN] = token_cost(costs, 0, batch, 0)
    state[rep + layout.STEP_SAMPLE] = sample_cost(costs, 0, batch)
    cost += (state[rep + layout.STEP_TOKEN] + state[rep + layout.STEP_SAMPLE]) << FRACTION_BITS
    host = (state[layout.HOST_STEP] + state[layout.HOST_SEQ] * batch) << FRACTION_BITS
    if state[layout.IS_ASYNC] == 0:
        cost += host
    elif cost >= host:
        if growth < 0:
            steps = min(steps, (cost - host) // -growth + 1)
    else:
        if growth > 0:
            steps = min(steps, (host - cost + growth - 1) // growth)
        cost = host
        growth = 0
    _propose_stretch(state, rep, cost, growth, steps)


@kernel
def _propose_stretch(state: Cells, rep: int, cost: int, growth: int, steps: int) -> None:
    """Record a stretch, no longer than 62 bits hold, and the time of its last decision."""
    steps = min(steps, max(1, LONGEST_STRETCH // max(1, cost, cost + growth * (steps - 1))))
    start = state[rep + layout.END]
    fraction = state[rep + layout.END_FRACTION]
    if state[rep + layout.DECISION] > start:
        start = state[rep + layout.DECISION]
        fraction = 0
    state[rep + layout.LEAP] = steps
    state[rep + layout.STEP_COST] = cost
    state[rep + layout.STEP_GROWTH] = growth
    state[rep + layout.LEAP_START] = start
    state[rep + layout.LEAP_START_FRACTION] = fraction
    started_before = steps - 1 - state[layout.IS_ASYNC]
    if started_before >= 0:
        # Asynchronous: the last step is decided at the start of the one before it.
        state[rep + layout.KEY] = start + ((fraction + _elapsed(cost, growth, started_before)) >> FRACTION_BITS)


@kernel
def wait_for_output(state: Cells, rep: int) -> None:
    """Take the next decision when the step under way has ended: nothing can run before."""
    state[rep + layout.DECISION] = max(state[rep + layout.DECISION], state[rep + layout.END])
    release_due(state, rep)
    state[rep + layout.BLOCKED] = 0
    state[rep + layout.KEY] = state[rep + layout.DECISION]


@kernel
def finish_pass(state: Cells, costs: Cells, rep: int, has_launched: bool) -> bool:
    """Propose what follows a scheduling pass; False if the replica can never go on, which is a defect."""
    if not has_launched:
        # All output is back, nobody was preempted, and still nothing can run.
        is_stuck = state[rep + layout.RUN_COUNT] > 0 or state[rep + layout.BLOCKED] == 1
        if is_stuck and state[rep + layout.DECISION] >= state[rep + layout.END]:
            return False
        wait_for_output(state, rep)
    propose(state, costs, rep, state[rep + layout.GROUPS])
    return True


@kernel
def steps_decided_before(state: Cells, rep: int, time: int) -> int:
    """How many steps of the proposed stretch are decided strictly before ``time``."""
    if time <= state[rep + layout.DECISION]:
        return 0
    span = ((time - state[rep + layout.LEAP_START]) << FRACTION_BITS) - state[rep + layout.LEAP_START_FRACTION]
    cost = state[rep + layout.STEP_COST]
    growth = state[rep + layout.STEP_GROWTH]
    steps = state[rep + layout.LEAP]
    started = 0
    if span > 0:
        # Largest count whose last start lies before `time`: solve for it, then correct the rounding.
        half = float(cost) - 0.5 * float(growth)
        root = sqrt(max(0.0, half * half + 2.0 * float(growth) * float(span)))
        last = min(int(2.0 * float(span) / max(1.0, half + root)), steps)
        while last < steps and _elapsed(cost, growth, last + 1) < span:
            last += 1
        while last > 0 and _elapsed(cost, growth, last) >= span:
            last -= 1
        started = last + 1
    return min(steps, started + state[layout.IS_ASYNC])


@kernel
def _count(state: Cells, rep: int, grp: int, steps: int) -> None:
    """Add a stretch to the replica's sums."""
    batch = state[grp + layout.DECODERS]
    token = steps * state[rep + layout.STEP_TOKEN]
    sample = steps * state[rep + layout.STEP_SAMPLE]
    attention = _elapsed(state[rep + layout.STEP_ATTENTION], state[rep + layout.ATTENTION_GROWTH], steps)
    elapsed = _elapsed(state[rep + layout.STEP_COST], state[rep + layout.STEP_GROWTH], steps)
    state[rep + layout.STEPS] += steps
    state[rep + layout.DECODE_STEPS] += steps
    state[rep + layout.TOKEN_TIME] += token
    state[rep + layout.SAMPLE_TIME] += sample
    add_time(state, rep + layout.ATTENTION_TIME, attention)
    add_time(state, rep + layout.HOST_TIME, elapsed - attention - ((token + sample) << FRACTION_BITS))
    state[rep + layout.DECODE_TOKENS] += steps * batch
    state[rep + layout.SAMPLED_ROWS] += steps * batch
    state[rep + layout.DECODE_KV_READS] += steps * state[grp + layout.DECODE_KV] + batch * (steps * (steps + 1) // 2)
    state[state[rep + layout.HISTOGRAM] + batch] += steps


@kernel
def _end_of_step(state: Cells, rep: int, number: int) -> int:
    """Time at which step ``number`` of the stretch ends; 0 is its start."""
    clock = _elapsed(state[rep + layout.STEP_COST], state[rep + layout.STEP_GROWTH], number)
    return state[rep + layout.LEAP_START] + ((state[rep + layout.LEAP_START_FRACTION] + clock) >> FRACTION_BITS)


@kernel
def _log_stretch(state: Cells, rep: int, grp: int, first: int, steps: int, free: int, decision: int) -> None:
    """Write the rows that single steps ``first`` to ``steps`` would have written.

    ``decision`` is when the first of them was decided, ``free`` the blocks there would be had none of the stretch
    taken any.
    """
    start = _end_of_step(state, rep, first - 1)
    for done in range(first, steps + 1):
        end = _end_of_step(state, rep, done)
        state[layout.LOG_SIZE] += 1
        if state[layout.LOG_SIZE] <= state[layout.LOG_CAPACITY]:
            row = state[layout.LOG] + (state[layout.LOG_SIZE] - 1) * layout.LOG_COLUMNS
            state[row + layout.LOG_REPLICA] = state[rep + layout.NUMBER]
            state[row + layout.LOG_DECISION] = decision
            state[row + layout.LOG_START] = start
            state[row + layout.LOG_END] = end
            state[row + layout.LOG_PREFILL_TOKENS] = 0
            state[row + layout.LOG_DECODES] = state[grp + layout.DECODERS]
            state[row + layout.LOG_PREFILLS] = 0
            state[row + layout.LOG_DECODE_KV] = state[grp + layout.DECODE_KV] + done * state[grp + layout.DECODERS]
            state[row + layout.LOG_PAIRS] = 0
            state[row + layout.LOG_RUNNING] = state[rep + layout.RUN_COUNT]
            state[row + layout.LOG_FREE] = free - _blocks_needed(state, grp, done)
            state[row + layout.LOG_WAITING] = state[rep + layout.WAIT_COUNT]
        decision = start if state[layout.IS_ASYNC] == 1 else end
        start = end


@kernel
def _grow_and_release(state: Cells, rep: int, grp: int) -> int:
    """Take the blocks of a stretch's first step and release what is due before its second; returns the blocks."""
    need = _blocks_needed(state, grp, 1)
    allocate(state, rep, need)
    note_peak(state, rep)
    state[rep + layout.DECISION] = state[rep + layout.LEAP_START]
    release_due(state, rep)
    return need


@kernel
def commit(state: Cells, rep: int, grp: int, steps: int) -> None:
    """Run the first ``steps`` steps of the proposed stretch."""
    cost = state[rep + layout.STEP_COST]
    growth = state[rep + layout.STEP_GROWTH]
    batch = state[grp + layout.DECODERS]
    first = state[rep + layout.LEAP_START]
    fraction = state[rep + layout.LEAP_START_FRACTION]
    used = used_blocks(state, rep)
    need = _blocks_needed(state, grp, steps)
    has_log = state[layout.LOG_CAPACITY] > 0
    if state[rep + layout.RELEASING_HEAD] != NONE and steps > 1:
        # Blocks of requests that finished before come back after the first of these steps is scheduled.
        if has_log:
            _log_stretch(state, rep, grp, 1, 1, free_blocks(state, rep), state[rep + layout.DECISION])
        taken = _grow_and_release(state, rep, grp)
        need -= taken
        if has_log:
            decision = first if state[layout.IS_ASYNC] == 1 else _end_of_step(state, rep, 1)
            _log_stretch(state, rep, grp, 2, steps, free_blocks(state, rep) + taken, decision)
    elif has_log:
        _log_stretch(state, rep, grp, 1, steps, free_blocks(state, rep), state[rep + layout.DECISION])
    allocate(state, rep, need)
    clock = fraction + _elapsed(cost, growth, steps)
    end = first + (clock >> FRACTION_BITS)
    _count(state, rep, grp, steps)
    state[rep + layout.BUSY] += end - first
    state[rep + layout.ACTIVE] += end - first
    add_occupancy(state, rep, used, batch, end - first)
    state[grp + layout.EPOCH] += steps
    state[grp + layout.DECODE_KV] += steps * batch
    state[grp + layout.WINDOW_KV] += steps * state[grp + layout.WINDOW_OPEN]
    state[rep + layout.END] = end
    state[rep + layout.END_FRACTION] = clock & FRACTION_MASK
    state[rep + layout.LAST_END] = end
    state[rep + layout.DECISION] = end
    if state[layout.IS_ASYNC] == 1:
        state[rep + layout.DECISION] = first + ((fraction + _elapsed(cost, growth, steps - 1)) >> FRACTION_BITS)
    state[rep + layout.LEAP] = 0
    settle(state, rep, grp, end)
