"""Decode groups: which requests decode, how much KV they hold, and at which epoch each has its last token.

Two heaps of a group are sorted by epoch: when requests finish, and when they fill the sliding window (``is_window``).
An entry is not taken out when its request stops decoding early. It is dead from then on: its key no longer is what the
request's own fields give.
"""

from simulator.engine.bounds import ADMISSION_BITS, EPOCHS_FULL, LAST_EPOCH
from simulator.engine.heap import first_key, first_payload, pop, push
from simulator.engine.jit import kernel
from simulator.engine.lists import Heap
from simulator.engine.replica import Group
from simulator.engine.request import DECODING, PREFILLING, Request
from simulator.engine.state import State
from simulator.engine.tables import group, list_at, request


@kernel
def end_run(state: State, counter: int) -> None:
    """End the run before its next decision, because ``counter`` is full; the caller says so (``run_engine``)."""
    state.full = counter
    state.horizon_ps = 0


@kernel
def tokens_generated(state: State, req: Request) -> int:
    """Output tokens of a decoding request so far."""
    return req.output - (req.finish_epoch - group(state, req.group).epoch)


@kernel
def kv_tokens(state: State, req: Request) -> int:
    """Tokens of KV a request holds."""
    if req.status != DECODING:
        return req.computed
    return req.prompt - 1 + tokens_generated(state, req)


@kernel
def _entry_key(state: State, req: Request, is_window: bool) -> int:
    """Key of a decoding request in either heap: the epoch at which it finishes, or at which it fills the window."""
    epoch = req.finish_epoch
    if is_window:
        epoch += state.window - (req.prompt + req.output - 1)
    return (epoch << ADMISSION_BITS) | req.admission


@kernel
def is_first_alive(state: State, heap: Heap, is_window: bool) -> bool:
    """Whether the first entry of a heap still holds: its request was not preempted or held up since."""
    req = request(state, first_payload(state, heap))
    return req.status == DECODING and first_key(state, heap) == _entry_key(state, req, is_window)


@kernel
def next_epoch(state: State, heap: Heap, is_window: bool) -> int:
    """Epoch of the first live entry of a heap that has one; dead ones before it are dropped."""
    while not is_first_alive(state, heap, is_window):
        pop(state, heap)
    return first_key(state, heap) >> ADMISSION_BITS


@kernel
def _add(state: State, heap: Heap, req: Request, is_window: bool) -> None:
    """Add a decoding request to a heap; a full one loses its dead entries first."""
    if heap.size == heap.capacity:
        keys = list_at(state, heap.place)
        payloads = list_at(state, heap.place + heap.capacity)
        heap.size = 0
        for at in range(heap.capacity):
            other = request(state, payloads[at])
            if other.status == DECODING and keys[at] == _entry_key(state, other, is_window):
                push(state, heap, keys[at], payloads[at])
    push(state, heap, _entry_key(state, req, is_window), req.number)


@kernel
def _count_block_phase(state: State, grp: Group, tokens: int, change: int) -> None:
    """Add ``change`` requests of ``tokens`` of KV to the counts of those that need a block at the same epochs."""
    list_at(state, grp.residue)[(grp.epoch - tokens) % state.block_size] += change


@kernel
def start_decoding(state: State, grp: Group, req: Request) -> None:
    """Let a request with its target computed decode in a group from the next epoch on."""
    tokens = req.computed
    finish_epoch = grp.epoch + req.output - req.generated
    if finish_epoch > LAST_EPOCH:
        end_run(state, EPOCHS_FULL)
    req.status = DECODING
    req.group = grp.number
    req.finish_epoch = finish_epoch
    grp.decoders += 1
    grp.decode_kv += tokens
    _count_block_phase(state, grp, tokens, 1)
    _add(state, grp.finishes, req, False)
    if state.window > 0:
        grp.window_kv += min(tokens, state.window)
        if tokens < state.window:
            grp.window_open += 1
            _add(state, grp.windows, req, True)


@kernel
def stop_decoding(state: State, req: Request) -> None:
    """Take a request out of its group's counters; its heap entries die with its status."""
    grp = group(state, req.group)
    tokens = kv_tokens(state, req)
    req.computed = tokens
    req.generated = tokens_generated(state, req)
    req.status = PREFILLING
    grp.decoders -= 1
    grp.decode_kv -= tokens
    _count_block_phase(state, grp, tokens, -1)
    if state.window > 0:
        grp.window_kv -= min(tokens, state.window)
        if tokens < state.window:
            grp.window_open -= 1
