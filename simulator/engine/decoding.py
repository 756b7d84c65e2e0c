"""Decode groups: which requests decode, how much KV they hold, and at which epoch each has its last token.

Heaps of a group are sorted by epoch: when requests finish (``FINISH``), when they fill the sliding window
(``WINDOW``), and when a first chunk of several tokens is sent (``FIRST_CHUNK``). An entry is not taken out when its
request stops decoding early. It is dead from then on: its key no longer is what the request's own fields give.
"""

from typing import Final

from simulator.engine.blocks import phase
from simulator.engine.bounds import ADMISSION_BITS, EPOCHS_FULL, LAST_EPOCH, NONE
from simulator.engine.heap import first_key, first_payload, pop, push
from simulator.engine.kernel import kernel
from simulator.engine.lists import Heap
from simulator.engine.replica import Group
from simulator.engine.request import DECODING, OVERRUNNING, PREFILLING, Request
from simulator.engine.state import State
from simulator.engine.tables import group, list_at, request

# what a heap of a group is sorted by
FINISH: Final = 0
WINDOW: Final = 1
FIRST_CHUNK: Final = 2

LONG_ANSWER: Final = 4096  # tokens of an answer that SGLang's admission counts


@kernel
def end_run(state: State, counter: int) -> None:
    """End the run before its next decision, because ``counter`` is full; the caller says so (``run_engine``)."""
    state.full = counter
    state.horizon_ps = 0


@kernel
def is_counted(req: Request) -> bool:
    """Whether a group's counters hold a request."""
    return req.status in (DECODING, OVERRUNNING)


@kernel
def tokens_generated(state: State, req: Request) -> int:
    """Output tokens of a decoding request so far."""
    return req.output - (req.finish_epoch - group(state, req.group).epoch)


@kernel
def kv_tokens(state: State, req: Request) -> int:
    """Tokens of KV a request holds."""
    if not is_counted(req):
        return req.computed
    return req.prompt - 1 + tokens_generated(state, req)


@kernel
def _entry_key(state: State, req: Request, event: int) -> int:
    """Key of a decoding request in the heap of an event: the epoch at which that happens."""
    epoch = req.finish_epoch
    if event == WINDOW:
        epoch += state.window - (req.prompt + req.output - 1)
    elif event == FIRST_CHUNK:
        epoch += state.first_chunk - req.output
    return (epoch << ADMISSION_BITS) | req.admission


@kernel
def is_first_alive(state: State, heap: Heap, event: int) -> bool:
    """Whether the first entry of a heap still holds: its request was not preempted or held up since."""
    req = request(state, first_payload(state, heap))
    return is_counted(req) and first_key(state, heap) == _entry_key(state, req, event)


@kernel
def next_epoch(state: State, heap: Heap, event: int) -> int:
    """Epoch of the first live entry of a heap that has one; dead ones before it are dropped."""
    while not is_first_alive(state, heap, event):
        pop(state, heap)
    return first_key(state, heap) >> ADMISSION_BITS


@kernel
def _add(state: State, heap: Heap, req: Request, event: int) -> None:
    """Add a decoding request to a heap; a full one loses its dead entries first."""
    if heap.size == heap.capacity:
        keys = list_at(state, heap.place)
        payloads = list_at(state, heap.place + heap.capacity)
        heap.size = 0
        for at in range(heap.capacity):
            other = request(state, payloads[at])
            if is_counted(other) and keys[at] == _entry_key(state, other, event):
                push(state, heap, keys[at], payloads[at])
    push(state, heap, _entry_key(state, req, event), req.number)


@kernel
def _count_block_phase(state: State, grp: Group, tokens: int, change: int) -> None:
    """Add ``change`` requests of ``tokens`` of KV to the counts of those that need a block at the same epochs."""
    list_at(state, grp.residue)[phase(state, grp.epoch - tokens)] += change


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
    grp.finish_epochs += finish_epoch
    grp.long_answers += req.output > LONG_ANSWER
    _count_block_phase(state, grp, tokens, 1)
    if req.finish_ps == NONE:
        _add(state, grp.finishes, req, FINISH)
    if req.first_token_ps == NONE and req.output > state.first_chunk:
        _add(state, grp.firsts, req, FIRST_CHUNK)
    if state.window > 0:
        grp.window_kv += min(tokens, state.window)
        if tokens < state.window:
            grp.window_open += 1
            _add(state, grp.windows, req, WINDOW)


@kernel
def stop_decoding(state: State, req: Request) -> None:
    """Take a request out of its group's counters; its heap entries die with its status."""
    grp = group(state, req.group)
    tokens = kv_tokens(state, req)
    generated = tokens_generated(state, req)
    steps = generated - req.generated
    # vLLM hashes what it knows when it decides: not the last token, where that was still being computed, nor any other
    # then under way. It was, unless this is the first step after one that left the request out.
    under_way = state.stages - 1 if state.decodes_always else 1
    req.hash_lag = max(0, min(steps - int(req.chunk_start == NONE), under_way))
    req.computed = tokens
    req.generated = generated
    req.status = PREFILLING
    grp.decoders -= 1
    grp.decode_kv -= tokens
    grp.finish_epochs -= req.finish_epoch
    grp.long_answers -= req.output > LONG_ANSWER
    _count_block_phase(state, grp, tokens, -1)
    if state.window > 0:
        grp.window_kv -= min(tokens, state.window)
        if tokens < state.window:
            grp.window_open -= 1
