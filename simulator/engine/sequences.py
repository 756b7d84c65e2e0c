"""Lists and counters of a replica's requests: waiting, running, decoding, releasing; every change is O(1) or O(log n)."""

from simulator.engine.heap import push
from simulator.engine.jit import kernel
from simulator.engine.layout import (
    ADMISSION,
    BLOCKED,
    COMPUTED,
    DECODE_KV,
    DECODERS,
    DECODING,
    EPOCH,
    FINISH_EPOCH,
    FINISHED,
    GENERATED,
    HEAP_SIZE,
    NEXT,
    NEXT_RELEASING,
    NONE,
    OUTPUT,
    PARTIALS,
    PREEMPTED,
    PREEMPTIONS,
    PREFILLING,
    PREVIOUS,
    PROMPT,
    RELEASING,
    RELEASING_HEAD,
    RELEASING_TAIL,
    RUN_COUNT,
    RUN_HEAD,
    RUN_TAIL,
    STATUS,
    TARGET,
    WAIT_COUNT,
    WAIT_HEAD,
    WAIT_TAIL,
    WAITING,
    WINDOW_HEAP_SIZE,
    WINDOW_KV,
    WINDOW_OPEN,
    Rules,
    State,
)
from simulator.engine.prefix_cache import give_back

_ADMISSION_BITS = 32


@kernel
def heap_entry(epoch: int, admission: int) -> int:
    """Order by epoch, then by place in the running list."""
    return (epoch << _ADMISSION_BITS) | admission


@kernel
def enqueue(state: State, r: int, i: int) -> None:
    """Put request ``i`` at the end of the waiting queue."""
    rep = state.replica[r]
    request = state.request
    request[i, STATUS] = WAITING
    request[i, NEXT] = NONE
    if rep[WAIT_TAIL] == NONE:
        rep[WAIT_HEAD] = i
    else:
        request[rep[WAIT_TAIL], NEXT] = i
    rep[WAIT_TAIL] = i
    rep[WAIT_COUNT] += 1


@kernel
def enqueue_front(state: State, r: int, i: int) -> None:
    """Put request ``i`` before all others in the waiting queue."""
    rep = state.replica[r]
    state.request[i, STATUS] = WAITING
    state.request[i, NEXT] = rep[WAIT_HEAD]
    rep[WAIT_HEAD] = i
    if rep[WAIT_TAIL] == NONE:
        rep[WAIT_TAIL] = i
    rep[WAIT_COUNT] += 1


@kernel
def admit(state: State, r: int) -> int:
    """Move the head of the waiting queue to the end of the running list; returns it."""
    rep = state.replica[r]
    request = state.request
    i = rep[WAIT_HEAD]
    rep[WAIT_HEAD] = request[i, NEXT]
    if rep[WAIT_HEAD] == NONE:
        rep[WAIT_TAIL] = NONE
    rep[WAIT_COUNT] -= 1
    request[i, STATUS] = PREFILLING
    request[i, PREVIOUS] = rep[RUN_TAIL]
    request[i, NEXT] = NONE
    if rep[RUN_TAIL] == NONE:
        rep[RUN_HEAD] = i
    else:
        request[rep[RUN_TAIL], NEXT] = i
    rep[RUN_TAIL] = i
    rep[RUN_COUNT] += 1
    return i


@kernel
def leave_running(state: State, r: int, i: int) -> None:
    """Unlink request ``i`` from the running list."""
    rep = state.replica[r]
    request = state.request
    before = request[i, PREVIOUS]
    after = request[i, NEXT]
    if before == NONE:
        rep[RUN_HEAD] = after
    else:
        request[before, NEXT] = after
    if after == NONE:
        rep[RUN_TAIL] = before
    else:
        request[after, PREVIOUS] = before
    rep[RUN_COUNT] -= 1


@kernel
def kv_tokens(state: State, r: int, i: int) -> int:
    """Tokens of KV that request ``i`` holds."""
    request = state.request
    if request[i, STATUS] == DECODING:
        return request[i, PROMPT] + request[i, OUTPUT] - 1 - (request[i, FINISH_EPOCH] - state.replica[r, EPOCH])
    return request[i, COMPUTED]


@kernel
def blocks_held(state: State, rules: Rules, r: int, i: int) -> int:
    """KV blocks of request ``i``."""
    if rules.reserves_output == 1:
        tokens = state.request[i, PROMPT] + max(state.request[i, OUTPUT] - 1, 0)
    else:
        tokens = kv_tokens(state, r, i)
    return (tokens + rules.block_size - 1) // rules.block_size


@kernel
def _compact(state: State, r: int) -> None:
    """Drop entries of preempted requests from the finish heap."""
    rep = state.replica[r]
    keys = state.heap_key[r]
    values = state.heap_request[r]
    old = rep[HEAP_SIZE]
    size = 0
    for at in range(old):
        if is_current(state, r, keys[at], values[at]):
            size = push(keys, values, size, keys[at], values[at])
    rep[HEAP_SIZE] = size


@kernel
def is_current(state: State, r: int, key: int, i: int) -> bool:  # noqa: ARG001 - same shape as its siblings
    """Whether a heap entry still speaks of a decoding request, not of one that was preempted since."""
    request = state.request
    return request[i, STATUS] == DECODING and key == heap_entry(request[i, FINISH_EPOCH], request[i, ADMISSION])


@kernel
def _compact_window(state: State, rules: Rules, r: int) -> None:
    rep = state.replica[r]
    keys = state.window_key[r]
    values = state.window_request[r]
    size = 0
    for at in range(rep[WINDOW_HEAP_SIZE]):
        if is_window_current(state, rules, r, keys[at], values[at]):
            size = push(keys, values, size, keys[at], values[at])
    rep[WINDOW_HEAP_SIZE] = size


@kernel
def window_epoch(state: State, rules: Rules, i: int) -> int:
    """Epoch at which decoding request ``i`` holds ``window`` tokens."""
    request = state.request
    return rules.window - (request[i, PROMPT] + request[i, OUTPUT] - 1 - request[i, FINISH_EPOCH])


@kernel
def is_window_current(state: State, rules: Rules, r: int, key: int, i: int) -> bool:  # noqa: ARG001
    """``is_current`` for the window heap."""
    return state.request[i, STATUS] == DECODING and key == heap_entry(
        window_epoch(state, rules, i), state.request[i, ADMISSION]
    )


@kernel
def start_decoding(state: State, rules: Rules, r: int, i: int) -> None:
    """Request ``i`` has its prompt computed and decodes from the next epoch on."""
    rep = state.replica[r]
    request = state.request
    request[i, STATUS] = DECODING
    request[i, FINISH_EPOCH] = rep[EPOCH] + request[i, OUTPUT] - request[i, GENERATED]
    tokens = request[i, COMPUTED]
    rep[DECODERS] += 1
    rep[DECODE_KV] += tokens
    state.residue[r, (rep[EPOCH] - tokens) % rules.block_size] += 1
    if rep[HEAP_SIZE] == state.heap_key.shape[1]:
        _compact(state, r)
    rep[HEAP_SIZE] = push(
        state.heap_key[r],
        state.heap_request[r],
        rep[HEAP_SIZE],
        heap_entry(request[i, FINISH_EPOCH], request[i, ADMISSION]),
        i,
    )
    if rules.window > 0:
        rep[WINDOW_KV] += min(tokens, rules.window)
        if tokens < rules.window:
            rep[WINDOW_OPEN] += 1
            if rep[WINDOW_HEAP_SIZE] == state.window_key.shape[1]:
                _compact_window(state, rules, r)
            rep[WINDOW_HEAP_SIZE] = push(
                state.window_key[r],
                state.window_request[r],
                rep[WINDOW_HEAP_SIZE],
                heap_entry(window_epoch(state, rules, i), request[i, ADMISSION]),
                i,
            )


@kernel
def stop_decoding(state: State, rules: Rules, r: int, i: int) -> None:
    """Take request ``i`` out of the decode counters; its heap entries die with its status."""
    rep = state.replica[r]
    request = state.request
    tokens = kv_tokens(state, r, i)
    request[i, COMPUTED] = tokens
    request[i, GENERATED] = request[i, OUTPUT] - (request[i, FINISH_EPOCH] - rep[EPOCH])
    request[i, STATUS] = PREFILLING
    rep[DECODERS] -= 1
    rep[DECODE_KV] -= tokens
    state.residue[r, (rep[EPOCH] - tokens) % rules.block_size] -= 1
    if rules.window > 0:
        rep[WINDOW_KV] -= min(tokens, rules.window)
        if tokens < rules.window:
            rep[WINDOW_OPEN] -= 1


@kernel
def drop_partial(state: State, r: int, i: int) -> None:
    """Take request ``i`` off the list of running prefills."""
    rep = state.replica[r]
    row = state.partial[r]
    kept = 0
    for at in range(rep[PARTIALS]):
        if row[at] != i:
            row[kept] = row[at]
            kept += 1
    rep[PARTIALS] = kept


@kernel
def chain_releasing(state: State, r: int, i: int) -> None:
    """Remember that request ``i`` gives up slot and blocks after the next decision."""
    rep = state.replica[r]
    state.request[i, STATUS] = RELEASING
    state.request[i, NEXT_RELEASING] = NONE
    if rep[RELEASING_HEAD] == NONE:
        rep[RELEASING_HEAD] = i
    else:
        state.request[rep[RELEASING_TAIL], NEXT_RELEASING] = i
    rep[RELEASING_TAIL] = i


@kernel
def unchain_releasing(state: State, r: int, i: int) -> None:
    """Forget request ``i`` again: it has given up its blocks earlier than planned."""
    rep = state.replica[r]
    state.request[i, STATUS] = FINISHED
    before = NONE
    at = rep[RELEASING_HEAD]
    while at != i:
        before = at
        at = state.request[at, NEXT_RELEASING]
    after = state.request[i, NEXT_RELEASING]
    if before == NONE:
        rep[RELEASING_HEAD] = after
    else:
        state.request[before, NEXT_RELEASING] = after
    if after == NONE:
        rep[RELEASING_TAIL] = before


@kernel
def release(state: State, rules: Rules, r: int, i: int) -> None:
    """Free slot and blocks of finished request ``i``."""
    blocks = blocks_held(state, rules, r, i)
    leave_running(state, r, i)
    give_back(state, rules, r, i, blocks)
    state.request[i, STATUS] = FINISHED
    state.replica[r, BLOCKED] = 0


@kernel
def release_chain(state: State, rules: Rules, r: int, head: int) -> None:
    """Free slot and blocks of a chain of finished requests."""
    i = head
    while i != NONE:
        after = state.request[i, NEXT_RELEASING]
        release(state, rules, r, i)
        i = after


@kernel
def preempt(state: State, rules: Rules, r: int, i: int) -> None:
    """Take all blocks from running request ``i``; it starts over at the front of the waiting queue.

    One whose last token is already under way only gives up slot and blocks: it finishes all the same.
    """
    request = state.request
    status = request[i, STATUS]
    if status == DECODING:
        blocks = blocks_held(state, rules, r, i)
        stop_decoding(state, rules, r, i)
    else:
        blocks = blocks_held(state, rules, r, i)
        if status == PREFILLING:
            drop_partial(state, r, i)
    leave_running(state, r, i)
    give_back(state, rules, r, i, blocks)
    state.replica[r, BLOCKED] = 0
    state.total[r, PREEMPTED] += 1
    request[i, PREEMPTIONS] += 1
    if status == RELEASING:
        unchain_releasing(state, r, i)
        return
    request[i, COMPUTED] = 0
    request[i, TARGET] = request[i, PROMPT] + request[i, GENERATED]
    enqueue_front(state, r, i)
