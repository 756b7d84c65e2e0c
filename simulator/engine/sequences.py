"""Lists and counters of requests: waiting, running, decoding, releasing; every change is O(1) or O(log n)."""

from simulator.engine import layout
from simulator.engine.heap import push
from simulator.engine.jit import kernel
from simulator.engine.layout import NONE, Cells
from simulator.engine.prefix_cache import give_back


@kernel
def end_run(state: Cells, counter: int) -> None:
    """End the run before its next decision, because ``counter`` is full; the caller says so (``run_engine``)."""
    state[layout.FULL] = counter
    state[layout.HORIZON] = 0


@kernel
def blocks_for(state: Cells, tokens: int) -> int:
    """KV blocks that hold ``tokens``."""
    size = state[layout.BLOCK_SIZE]
    return (tokens + size - 1) // size


@kernel
def kv_tokens(state: Cells, req: int) -> int:
    """Tokens of KV a request holds."""
    if state[req + layout.STATUS] != layout.DECODING:
        return state[req + layout.COMPUTED]
    epochs_left = state[req + layout.FINISH_EPOCH] - state[state[req + layout.GROUP] + layout.EPOCH]
    return state[req + layout.PROMPT] + state[req + layout.OUTPUT] - 1 - epochs_left


@kernel
def blocks_held(state: Cells, req: int) -> int:
    """KV blocks a running request holds."""
    if state[layout.DRAFTS] > 0:
        return state[req + layout.BLOCKS]
    if state[layout.RESERVES_OUTPUT] == 1:
        return blocks_for(state, state[req + layout.PROMPT] + state[req + layout.OUTPUT] - 1)
    if state[layout.RESERVES_PROMPT] == 1 and state[req + layout.STATUS] == layout.PREFILLING:
        return blocks_for(state, state[req + layout.TARGET])
    return blocks_for(state, kv_tokens(state, req))


@kernel
def enqueue(state: Cells, rep: int, req: int) -> None:
    """Put a request at the end of the waiting queue."""
    state[req + layout.STATUS] = layout.WAITING
    state[req + layout.NEXT] = NONE
    tail = state[rep + layout.WAIT_TAIL]
    if tail == NONE:
        state[rep + layout.WAIT_HEAD] = req
    else:
        state[tail + layout.NEXT] = req
    state[rep + layout.WAIT_TAIL] = req
    state[rep + layout.WAIT_COUNT] += 1


@kernel
def _enqueue_front(state: Cells, rep: int, req: int) -> None:
    state[req + layout.STATUS] = layout.WAITING
    state[req + layout.NEXT] = state[rep + layout.WAIT_HEAD]
    state[rep + layout.WAIT_HEAD] = req
    if state[rep + layout.WAIT_TAIL] == NONE:
        state[rep + layout.WAIT_TAIL] = req
    state[rep + layout.WAIT_COUNT] += 1


@kernel
def admit(state: Cells, rep: int) -> int:
    """Move the head of the waiting queue to the end of the running list, as a prefill; returns it."""
    req = state[rep + layout.WAIT_HEAD]
    state[rep + layout.WAIT_HEAD] = state[req + layout.NEXT]
    if state[rep + layout.WAIT_HEAD] == NONE:
        state[rep + layout.WAIT_TAIL] = NONE
    state[rep + layout.WAIT_COUNT] -= 1
    state[req + layout.STATUS] = layout.PREFILLING
    state[req + layout.ADMISSION] = state[rep + layout.NEXT_ADMISSION]
    state[rep + layout.NEXT_ADMISSION] += 1
    if state[rep + layout.NEXT_ADMISSION] > layout.LAST_ADMISSION:
        end_run(state, layout.ADMISSIONS)
    tail = state[rep + layout.RUN_TAIL]
    state[req + layout.PREVIOUS] = tail
    state[req + layout.NEXT] = NONE
    if tail == NONE:
        state[rep + layout.RUN_HEAD] = req
    else:
        state[tail + layout.NEXT] = req
    state[rep + layout.RUN_TAIL] = req
    state[rep + layout.RUN_COUNT] += 1
    state[state[rep + layout.PARTIAL_LIST] + state[rep + layout.PARTIALS]] = req
    state[rep + layout.PARTIALS] += 1
    return req


@kernel
def _leave_running(state: Cells, rep: int, req: int) -> None:
    before = state[req + layout.PREVIOUS]
    after = state[req + layout.NEXT]
    if before == NONE:
        state[rep + layout.RUN_HEAD] = after
    else:
        state[before + layout.NEXT] = after
    if after == NONE:
        state[rep + layout.RUN_TAIL] = before
    else:
        state[after + layout.PREVIOUS] = before
    state[rep + layout.RUN_COUNT] -= 1


@kernel
def is_current_finish(state: Cells, key: int, req: int) -> bool:
    """Whether an entry of the finish heap still holds: its request was not preempted or held up since."""
    return (
        state[req + layout.STATUS] == layout.DECODING
        and key == (state[req + layout.FINISH_EPOCH] << layout.ADMISSION_BITS) | state[req + layout.ADMISSION]
    )


@kernel
def _window_key(state: Cells, req: int) -> int:
    """Heap key of the epoch at which a decoding request holds a full window."""
    before_decode = state[req + layout.PROMPT] + state[req + layout.OUTPUT] - 1 - state[req + layout.FINISH_EPOCH]
    return ((state[layout.WINDOW] - before_decode) << layout.ADMISSION_BITS) | state[req + layout.ADMISSION]


@kernel
def is_current_window(state: Cells, key: int, req: int) -> bool:
    """``is_current_finish`` for the heap of windows."""
    return state[req + layout.STATUS] == layout.DECODING and key == _window_key(state, req)


@kernel
def _make_room_for_finish(state: Cells, grp: int) -> None:
    """Drop dead entries when the finish heap is full."""
    capacity = state[grp + layout.HEAP_CAPACITY]
    if state[grp + layout.HEAP_SIZE] < capacity:
        return
    heap = state[grp + layout.HEAP]
    size = 0
    for at in range(capacity):
        key = state[heap + at]
        req = state[heap + capacity + at]
        if is_current_finish(state, key, req):
            size = push(state, heap, capacity, size, key, req)
    state[grp + layout.HEAP_SIZE] = size


@kernel
def _make_room_for_window(state: Cells, grp: int) -> None:
    """Drop dead entries when the heap of windows is full."""
    capacity = state[grp + layout.HEAP_CAPACITY]
    if state[grp + layout.WINDOW_HEAP_SIZE] < capacity:
        return
    heap = state[grp + layout.WINDOW_HEAP]
    size = 0
    for at in range(capacity):
        key = state[heap + at]
        req = state[heap + capacity + at]
        if is_current_window(state, key, req):
            size = push(state, heap, capacity, size, key, req)
    state[grp + layout.WINDOW_HEAP_SIZE] = size


@kernel
def start_decoding(state: Cells, grp: int, req: int) -> None:
    """Let a request with its target computed decode in group ``grp`` from the next epoch on."""
    epoch = state[grp + layout.EPOCH]
    tokens = state[req + layout.COMPUTED]
    finish_epoch = epoch + state[req + layout.OUTPUT] - state[req + layout.GENERATED]
    if finish_epoch > layout.LAST_EPOCH:
        end_run(state, layout.EPOCHS)
    state[req + layout.STATUS] = layout.DECODING
    state[req + layout.GROUP] = grp
    state[req + layout.FINISH_EPOCH] = finish_epoch
    state[grp + layout.DECODERS] += 1
    state[grp + layout.DECODE_KV] += tokens
    state[state[grp + layout.RESIDUE] + (epoch - tokens) % state[layout.BLOCK_SIZE]] += 1
    _make_room_for_finish(state, grp)
    state[grp + layout.HEAP_SIZE] = push(
        state,
        state[grp + layout.HEAP],
        state[grp + layout.HEAP_CAPACITY],
        state[grp + layout.HEAP_SIZE],
        (finish_epoch << layout.ADMISSION_BITS) | state[req + layout.ADMISSION],
        req,
    )
    if state[layout.WINDOW] > 0:
        state[grp + layout.WINDOW_KV] += min(tokens, state[layout.WINDOW])
        if tokens < state[layout.WINDOW]:
            state[grp + layout.WINDOW_OPEN] += 1
            _make_room_for_window(state, grp)
            state[grp + layout.WINDOW_HEAP_SIZE] = push(
                state,
                state[grp + layout.WINDOW_HEAP],
                state[grp + layout.HEAP_CAPACITY],
                state[grp + layout.WINDOW_HEAP_SIZE],
                _window_key(state, req),
                req,
            )


@kernel
def stop_decoding(state: Cells, req: int) -> None:
    """Take a request out of its group's counters; its heap entries die with its status."""
    grp = state[req + layout.GROUP]
    tokens = kv_tokens(state, req)
    epoch = state[grp + layout.EPOCH]
    state[req + layout.COMPUTED] = tokens
    state[req + layout.GENERATED] = state[req + layout.OUTPUT] - (state[req + layout.FINISH_EPOCH] - epoch)
    state[req + layout.STATUS] = layout.PREFILLING
    state[grp + layout.DECODERS] -= 1
    state[grp + layout.DECODE_KV] -= tokens
    state[state[grp + layout.RESIDUE] + (epoch - tokens) % state[layout.BLOCK_SIZE]] -= 1
    if state[layout.WINDOW] > 0:
        state[grp + layout.WINDOW_KV] -= min(tokens, state[layout.WINDOW])
        if tokens < state[layout.WINDOW]:
            state[grp + layout.WINDOW_OPEN] -= 1


@kernel
def _drop_partial(state: Cells, rep: int, req: int) -> None:
    row = state[rep + layout.PARTIAL_LIST]
    kept = 0
    for at in range(state[rep + layout.PARTIALS]):
        if state[row + at] != req:
            state[row + kept] = state[row + at]
            kept += 1
    state[rep + layout.PARTIALS] = kept


@kernel
def hold_for_release(state: Cells, rep: int, req: int) -> None:
    """Keep slot and blocks of a finished request until its output is seen."""
    state[req + layout.STATUS] = layout.RELEASING
    state[req + layout.NEXT_RELEASING] = NONE
    if state[rep + layout.RELEASING_HEAD] == NONE:
        state[rep + layout.RELEASING_HEAD] = req
    else:
        state[state[rep + layout.RELEASING_TAIL] + layout.NEXT_RELEASING] = req
    state[rep + layout.RELEASING_TAIL] = req


@kernel
def _forget_release(state: Cells, rep: int, req: int) -> None:
    state[req + layout.STATUS] = layout.FINISHED
    before = NONE
    at = state[rep + layout.RELEASING_HEAD]
    while at != req:
        before = at
        at = state[at + layout.NEXT_RELEASING]
    after = state[req + layout.NEXT_RELEASING]
    if before == NONE:
        state[rep + layout.RELEASING_HEAD] = after
    else:
        state[before + layout.NEXT_RELEASING] = after
    if after == NONE:
        state[rep + layout.RELEASING_TAIL] = before


@kernel
def release_due(state: Cells, rep: int) -> None:
    """Free slots and blocks of requests whose last output is back by the next decision."""
    req = state[rep + layout.RELEASING_HEAD]
    while req != NONE and state[req + layout.FINISH] <= state[rep + layout.DECISION]:
        _leave_running(state, rep, req)
        give_back(state, rep, req, blocks_held(state, req))
        state[req + layout.STATUS] = layout.FINISHED
        state[rep + layout.BLOCKED] = 0
        req = state[req + layout.NEXT_RELEASING]
    state[rep + layout.RELEASING_HEAD] = req
    if req == NONE:
        state[rep + layout.RELEASING_TAIL] = NONE


@kernel
def _take_all_blocks(state: Cells, rep: int, req: int) -> bool:
    """Take slot and blocks from a running request; True if it has to start over.

    One whose last token is already under way only gives up slot and blocks: it finishes all the same.
    """
    status = state[req + layout.STATUS]
    blocks = blocks_held(state, req)
    if status == layout.DECODING:
        stop_decoding(state, req)
    elif status == layout.PREFILLING:
        _drop_partial(state, rep, req)
    _leave_running(state, rep, req)
    give_back(state, rep, req, blocks)
    state[rep + layout.BLOCKED] = 0
    state[rep + layout.PREEMPTED] += 1
    state[req + layout.PREEMPTIONS] += 1
    if status == layout.RELEASING:
        _forget_release(state, rep, req)
        return False
    state[req + layout.COMPUTED] = 0
    state[req + layout.TARGET] = state[req + layout.PROMPT] + state[req + layout.GENERATED]
    return True


@kernel
def _leave_waiting(state: Cells, rep: int, req: int) -> None:
    before = NONE
    at = state[rep + layout.WAIT_HEAD]
    while at != req:
        before = at
        at = state[at + layout.NEXT]
    after = state[req + layout.NEXT]
    if before == NONE:
        state[rep + layout.WAIT_HEAD] = after
    else:
        state[before + layout.NEXT] = after
    if after == NONE:
        state[rep + layout.WAIT_TAIL] = before
    state[rep + layout.WAIT_COUNT] -= 1
    state[rep + layout.BLOCKED] = 0


@kernel
def is_given_up(state: Cells, rep: int, req: int) -> bool:
    """Drop a request whose client leaves, with slot and blocks; False if its last token is already under way."""
    status = state[req + layout.STATUS]
    if status == layout.WAITING:
        _leave_waiting(state, rep, req)
    elif status in (layout.PREFILLING, layout.DECODING):
        _take_all_blocks(state, rep, req)
        state[rep + layout.PREEMPTED] -= 1
        state[req + layout.PREEMPTIONS] -= 1
    else:
        return False
    state[req + layout.STATUS] = layout.TIMED_OUT
    return True


@kernel
def preempt(state: Cells, rep: int, req: int) -> None:
    """Take all blocks from a running request; it starts over at the front of the waiting queue."""
    if _take_all_blocks(state, rep, req):
        _enqueue_front(state, rep, req)


@kernel
def retract(state: Cells, rep: int, req: int) -> None:
    """Take all blocks from a running request; it starts over at the end of the waiting queue."""
    if _take_all_blocks(state, rep, req):
        enqueue(state, rep, req)
