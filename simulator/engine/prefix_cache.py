"""The prefix cache of one replica: which blocks of which prompts are kept, and which are given up first.

A *unit* is what the trace names with one prefix-unique id, or one KV block if that is larger: it is hashed, found and
evicted as a whole. A unit is hashed when its last token is scheduled, found only at admission, and kept after its last
user is gone until blocks are needed. Least recently used goes first; of one request the tail goes before the head. A
second copy of a unit that is already cached stays private to its request and goes back as plain blocks.
"""

from simulator.engine import layout
from simulator.engine.jit import kernel
from simulator.engine.layout import NONE, Cells


@kernel
def _cached(state: Cells, rep: int, unit_row: int) -> int:
    """Row of a request's unit in the replica's cache."""
    return state[rep + layout.CACHE] + state[unit_row + layout.UNIT] * layout.CACHE_COLUMNS


@kernel
def _unlink(state: Cells, rep: int, unit: int) -> None:
    before = state[unit + layout.UNIT_PREVIOUS]
    after = state[unit + layout.UNIT_NEXT]
    if before == NONE:
        state[rep + layout.LRU_HEAD] = after
    else:
        state[before + layout.UNIT_NEXT] = after
    if after == NONE:
        state[rep + layout.LRU_TAIL] = before
    else:
        state[after + layout.UNIT_PREVIOUS] = before
    state[rep + layout.CACHED_FREE] -= 1


@kernel
def _append(state: Cells, rep: int, unit: int) -> None:
    tail = state[rep + layout.LRU_TAIL]
    state[unit + layout.UNIT_PREVIOUS] = tail
    state[unit + layout.UNIT_NEXT] = NONE
    if tail == NONE:
        state[rep + layout.LRU_HEAD] = unit
    else:
        state[tail + layout.UNIT_NEXT] = unit
    state[rep + layout.LRU_TAIL] = unit
    state[rep + layout.CACHED_FREE] += 1


@kernel
def free_blocks(state: Cells, rep: int) -> int:
    """Blocks that can be allocated: empty ones, and cached ones nobody uses."""
    return state[rep + layout.FREE] + state[rep + layout.CACHED_FREE] * state[layout.UNIT_BLOCKS]


@kernel
def used_blocks(state: Cells, rep: int) -> int:
    """Blocks that running requests hold."""
    return state[layout.NUM_BLOCKS] - free_blocks(state, rep)


@kernel
def allocate(state: Cells, rep: int, blocks: int) -> None:
    """Take ``blocks``, giving up cached units where empty blocks do not suffice; there must be enough."""
    while state[rep + layout.FREE] < blocks:
        unit = state[rep + layout.LRU_HEAD]
        _unlink(state, rep, unit)
        state[unit + layout.USERS] = NONE
        state[rep + layout.FREE] += state[layout.UNIT_BLOCKS]
        state[rep + layout.EVICTED_UNITS] += 1
    state[rep + layout.FREE] -= blocks


@kernel
def match(state: Cells, rep: int, req: int) -> tuple[int, int]:
    """Leading units of a request's prompt that are cached, and how many of them nobody uses.

    The last token is always computed, so at most ``TARGET - 1`` tokens are found.
    """
    if state[layout.IS_CACHING] == 0:
        return 0, 0
    limit = min(state[req + layout.NUM_UNITS], (state[req + layout.TARGET] - 1) // state[layout.UNIT_TOKENS])
    row = state[req + layout.FIRST_UNIT]
    found = 0
    unused = 0
    while found < limit:
        users = state[_cached(state, rep, row) + layout.USERS]
        if users == NONE:
            break
        if users == 0:
            unused += 1
        found += 1
        row += layout.UNIT_COLUMNS
    return found, unused


@kernel
def take(state: Cells, rep: int, req: int, found: int) -> None:
    """Let a request use the first ``found`` units of its prompt."""
    row = state[req + layout.FIRST_UNIT]
    for _ in range(found):
        unit = _cached(state, rep, row)
        if state[unit + layout.USERS] == 0:
            _unlink(state, rep, unit)
        state[unit + layout.USERS] += 1
        state[row + layout.HELD] = 1
        row += layout.UNIT_COLUMNS
    state[req + layout.SHARED_UNITS] = found


@kernel
def publish(state: Cells, rep: int, req: int, before: int, after: int) -> None:
    """Hash the units that a chunk from token ``before`` to token ``after`` completes."""
    size = state[layout.UNIT_TOKENS]
    last = min(after // size, state[req + layout.NUM_UNITS])
    for k in range(before // size, last):
        row = state[req + layout.FIRST_UNIT] + k * layout.UNIT_COLUMNS
        unit = _cached(state, rep, row)
        if state[unit + layout.USERS] == NONE:
            state[unit + layout.USERS] = 1
            state[row + layout.HELD] = 1
            state[req + layout.SHARED_UNITS] += 1


@kernel
def give_back(state: Cells, rep: int, req: int, blocks: int) -> None:
    """Free the ``blocks`` a request holds; its shared units go to the end of the queue, tail first."""
    shared = state[req + layout.SHARED_UNITS]
    state[rep + layout.FREE] += blocks - shared * state[layout.UNIT_BLOCKS]
    k = state[req + layout.NUM_UNITS] - 1
    while shared > 0:
        row = state[req + layout.FIRST_UNIT] + k * layout.UNIT_COLUMNS
        if state[row + layout.HELD] == 1:
            unit = _cached(state, rep, row)
            state[row + layout.HELD] = 0
            state[unit + layout.USERS] -= 1
            if state[unit + layout.USERS] == 0:
                _append(state, rep, unit)
            shared -= 1
        k -= 1
    state[req + layout.SHARED_UNITS] = 0
