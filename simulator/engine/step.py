"""Put one scheduled step on the device: its duration, its clock, and what its tokens change.

A step starts when the device is free and its decision is taken. Synchronous scheduling adds the host's time to the
device's; asynchronous scheduling hides it, so the host is only a floor, and the next decision is taken at the start of
this step instead of at its end. A finished request keeps slot and blocks until a decision that its last output
precedes: the next one when scheduling is synchronous, the one after it when it is not.
"""

from simulator.engine import layout
from simulator.engine.cost import decode_line, kv_segment, prefill_cost, sample_cost, token_cost
from simulator.engine.heap import pop, push
from simulator.engine.jit import kernel
from simulator.engine.layout import (
    CLOCK_END,
    FRACTION_BITS,
    FRACTION_MASK,
    NONE,
    OCCUPANCY_BITS,
    OCCUPANCY_MASK,
    Cells,
)
from simulator.engine.prefix_cache import free_blocks, used_blocks
from simulator.engine.sequences import (
    hold_for_release,
    is_current_finish,
    is_current_window,
    release_due,
    start_decoding,
    stop_decoding,
)


@kernel
def add_time(state: Cells, column: int, amount: int) -> None:
    """Add ``amount`` of 2^-12 ps to a sum kept as ps in ``column`` and its fraction in the next one."""
    amount += state[column + 1]
    state[column] += amount >> FRACTION_BITS
    state[column + 1] = amount & FRACTION_MASK


@kernel
def note_peak(state: Cells, rep: int) -> int:
    """Count used blocks and remember the most there ever were."""
    used = used_blocks(state, rep)
    state[rep + layout.PEAK_BLOCKS] = max(state[rep + layout.PEAK_BLOCKS], used)
    return used


@kernel
def _add_product(state: Cells, column: int, fraction: int, count: int, duration: int) -> None:
    """Add ``count`` times ``duration`` ps to a sum in units of 2^30 ps and the rest of it."""
    rest = count * (duration & OCCUPANCY_MASK) + state[fraction]
    state[column] += count * (duration >> OCCUPANCY_BITS) + (rest >> OCCUPANCY_BITS)
    state[fraction] = rest & OCCUPANCY_MASK


@kernel
def add_occupancy(state: Cells, rep: int, used_before: int, running: int, duration: int) -> None:
    """Add ``duration`` ps to the integrals; used blocks count as the mean of both ends."""
    used = used_before + note_peak(state, rep)
    _add_product(state, rep + layout.USED_BLOCK_TIME, rep + layout.USED_BLOCK_FRACTION, used, duration)
    _add_product(state, rep + layout.RUNNING_TIME, rep + layout.RUNNING_FRACTION, running, duration)


@kernel
def log_step(
    state: Cells,
    rep: int,
    start: int,
    end: int,
    prefill_tokens: int,
    prefills: int,
    pairs: int,
    batch: int,
    decode_kv: int,
) -> None:
    """Write one row of the iteration log, before the step's tokens count; rows beyond its end are dropped."""
    state[layout.LOG_SIZE] += 1
    if state[layout.LOG_SIZE] > state[layout.LOG_CAPACITY]:
        return
    row = state[layout.LOG] + (state[layout.LOG_SIZE] - 1) * layout.LOG_COLUMNS
    state[row + layout.LOG_REPLICA] = state[rep + layout.NUMBER]
    state[row + layout.LOG_DECISION] = state[rep + layout.DECISION]
    state[row + layout.LOG_START] = start
    state[row + layout.LOG_END] = end
    state[row + layout.LOG_PREFILL_TOKENS] = prefill_tokens
    state[row + layout.LOG_DECODES] = batch
    state[row + layout.LOG_PREFILLS] = prefills
    state[row + layout.LOG_DECODE_KV] = decode_kv
    state[row + layout.LOG_PAIRS] = pairs
    state[row + layout.LOG_RUNNING] = state[rep + layout.RUN_COUNT]
    state[row + layout.LOG_FREE] = free_blocks(state, rep)
    state[row + layout.LOG_WAITING] = state[rep + layout.WAIT_COUNT]


@kernel
def decode_reads(state: Cells, grp: int, batch: int) -> int:
    """Tokens of KV that ``batch`` sequences of a group, all or none, see in their next step."""
    return state[grp + layout.DECODE_KV] + batch if batch > 0 else 0


@kernel
def later(time: int, pause: int) -> int:
    """Add ``pause`` to ``time``; what lies beyond the clock's end lies at its end, where nothing happens any more."""
    return time + pause if pause < CLOCK_END - time else max(time, CLOCK_END)


@kernel
def expect_arrival(state: Cells, time: int, payload: int) -> None:
    """Remember an arrival that a finish has caused."""
    state[layout.PENDING_SIZE] = push(
        state, state[layout.PENDING], state[layout.PENDING_CAPACITY], state[layout.PENDING_SIZE], time, payload
    )


@kernel
def announce_finish(state: Cells, rep: int, req: int, time: int) -> None:
    """Tell the client and the router that a request was answered at ``time``.

    What the client sends in return is seen strictly later: it was not there when the next decision was taken.
    """
    if state[layout.IS_CLOSED] == 1:
        expect_arrival(state, time + max(state[layout.FRONTEND], 1), time)
    child = state[req + layout.FIRST_CHILD]
    while child != NONE:
        pause = state[child + layout.THINK]
        state[child + layout.ARRIVAL] = later(time, pause)
        expect_arrival(state, later(time, max(pause + state[layout.FRONTEND], 1)), child)
        child = state[child + layout.NEXT_CHILD]
    state[req + layout.NEXT_FINISHED] = NONE
    if state[rep + layout.FINISHED_TAIL] == NONE:
        state[rep + layout.FINISHED_HEAD] = req
    else:
        state[state[rep + layout.FINISHED_TAIL] + layout.NEXT_FINISHED] = req
    state[rep + layout.FINISHED_TAIL] = req


@kernel
def finish(state: Cells, rep: int, req: int, end: int) -> None:
    """Answer a request at ``end``; it keeps slot and blocks until that is seen."""
    state[req + layout.FINISH] = end
    announce_finish(state, rep, req, end)
    hold_for_release(state, rep, req)


@kernel
def settle(state: Cells, rep: int, grp: int, end: int) -> None:
    """After a step of ``grp`` that ends at ``end``, and the next decision known: finish and release what is due."""
    epoch = state[grp + layout.EPOCH]
    capacity = state[grp + layout.HEAP_CAPACITY]
    heap = state[grp + layout.WINDOW_HEAP]
    while state[grp + layout.WINDOW_HEAP_SIZE] > 0 and state[heap] >> layout.ADMISSION_BITS <= epoch:
        if is_current_window(state, state[heap], state[heap + capacity]):
            state[grp + layout.WINDOW_OPEN] -= 1
        state[grp + layout.WINDOW_HEAP_SIZE] = pop(state, heap, capacity, state[grp + layout.WINDOW_HEAP_SIZE])
    heap = state[grp + layout.HEAP]
    while state[grp + layout.HEAP_SIZE] > 0 and state[heap] >> layout.ADMISSION_BITS <= epoch:
        req = state[heap + capacity]
        if is_current_finish(state, state[heap], req):
            stop_decoding(state, req)
            finish(state, rep, req, end)
        state[grp + layout.HEAP_SIZE] = pop(state, heap, capacity, state[grp + layout.HEAP_SIZE])
    release_due(state, rep)


@kernel
def decode_attention(state: Cells, costs: Cells, grp: int, stage: int) -> int:
    """Attention of one decode step of a group in 2^-12 ps."""
    batch = state[grp + layout.DECODERS]
    tokens = state[grp + layout.DECODE_KV] + batch
    j = kv_segment(costs, tokens, state[grp + layout.KV_SEGMENT])
    state[grp + layout.KV_SEGMENT] = j
    cost, _ = decode_line(costs, costs[layout.DECODE], stage, batch, j, tokens)
    if state[layout.WINDOW] > 0:
        tokens = state[grp + layout.WINDOW_KV] + state[grp + layout.WINDOW_OPEN]
        j = kv_segment(costs, tokens, state[grp + layout.WINDOW_SEGMENT])
        state[grp + layout.WINDOW_SEGMENT] = j
        windowed, _ = decode_line(costs, costs[layout.WINDOWED], stage, batch, j, tokens)
        cost += windowed
    return cost


@kernel
def _complete_prefills(state: Cells, rep: int, grp: int, end: int) -> None:
    """Give requests whose whole target is computed a token at ``end`` and let them decode."""
    row = state[rep + layout.PARTIAL_LIST]
    kept = 0
    for at in range(state[rep + layout.PARTIALS]):
        req = state[row + at]
        if state[req + layout.COMPUTED] < state[req + layout.TARGET]:
            state[row + kept] = req
            kept += 1
            continue
        state[req + layout.GENERATED] += 1
        if state[req + layout.FIRST_TOKEN] == NONE:
            state[req + layout.FIRST_TOKEN] = end
        start_decoding(state, grp, req)
    state[rep + layout.PARTIALS] = kept


@kernel
def count_step(state: Cells, rep: int, batch: int, prefill_tokens: int, prefills: int, pairs: int, reads: int) -> None:
    """Add one step to the replica's sums."""
    state[rep + layout.STEPS] += 1
    state[rep + layout.PREFILL_TOKENS] += prefill_tokens
    state[rep + layout.DECODE_TOKENS] += batch
    state[rep + layout.PREFILL_PAIRS] += pairs
    state[rep + layout.PREFILL_KV_READS] += reads
    state[rep + layout.SAMPLED_ROWS] += batch + prefills
    if prefills == 0:
        state[rep + layout.DECODE_STEPS] += 1
    state[state[rep + layout.HISTOGRAM] + batch + prefills] += 1


@kernel
def apply_tokens(state: Cells, rep: int, grp: int, batch: int, end: int) -> None:
    """Count the tokens of a step that ends at ``end``, whose next decision is known, and finish who is done."""
    state[rep + layout.LAST_END] = end
    if batch > 0:
        state[grp + layout.EPOCH] += 1
        state[grp + layout.DECODE_KV] += batch
        state[grp + layout.WINDOW_KV] += state[grp + layout.WINDOW_OPEN]
        state[rep + layout.DECODE_KV_READS] += state[grp + layout.DECODE_KV]
    req = state[rep + layout.STARVED_HEAD]
    state[rep + layout.STARVED_HEAD] = NONE
    while req != NONE:
        start_decoding(state, grp, req)
        req = state[req + layout.NEXT_RELEASING]
    _complete_prefills(state, rep, grp, end)
    settle(state, rep, grp, end)


@kernel
def run_on_device(state: Cells, rep: int, device: int, rows: int) -> tuple[int, int]:
    """Move a replica's clock over a step of ``rows`` sequences and ``device`` 2^-12 ps: its start and end in ps."""
    host = (state[layout.HOST_STEP] + state[layout.HOST_SEQ] * rows) << FRACTION_BITS
    duration = max(device, host) if state[layout.IS_ASYNC] == 1 else device + host
    start = state[rep + layout.END]
    fraction = state[rep + layout.END_FRACTION]
    if state[rep + layout.DECISION] > start:
        start = state[rep + layout.DECISION]
        fraction = 0
    clock = fraction + duration
    end = start + (clock >> FRACTION_BITS)
    state[rep + layout.BUSY] += end - start
    state[rep + layout.ACTIVE] += end - start
    add_time(state, rep + layout.HOST_TIME, duration - device)
    state[rep + layout.END] = end
    state[rep + layout.END_FRACTION] = clock & FRACTION_MASK
    return start, end


@kernel
def launch(
    state: Cells,
    costs: Cells,
    rep: int,
    grp: int,
    prefill_tokens: int,
    prefills: int,
    pairs: int,
    reads: int,
    has_decodes: bool,
    used_before: int,
) -> None:
    """Run the step that was just scheduled; the group's sequences take part if ``has_decodes``."""
    batch = state[grp + layout.DECODERS] if has_decodes else 0
    rows = batch + prefills
    token_ps = token_cost(costs, 0, batch + prefill_tokens, prefills)
    sample_ps = sample_cost(costs, 0, rows)
    attention = prefill_cost(costs, 0, prefill_tokens, pairs, reads) << FRACTION_BITS
    if batch > 0:
        attention += decode_attention(state, costs, grp, 0)
    start, end = run_on_device(state, rep, ((token_ps + sample_ps) << FRACTION_BITS) + attention, rows)
    if state[layout.LOG_CAPACITY] > 0:
        log_step(state, rep, start, end, prefill_tokens, prefills, pairs, batch, decode_reads(state, grp, batch))
    state[rep + layout.TOKEN_TIME] += token_ps
    state[rep + layout.SAMPLE_TIME] += sample_ps
    add_time(state, rep + layout.ATTENTION_TIME, attention)
    count_step(state, rep, batch, prefill_tokens, prefills, pairs, reads)
    add_occupancy(state, rep, used_before, rows, end - start)
    state[rep + layout.DECISION] = start if state[layout.IS_ASYNC] == 1 else end
    apply_tokens(state, rep, grp, batch, end)
