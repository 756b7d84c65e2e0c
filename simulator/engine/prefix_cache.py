"""The prefix cache of one replica: which blocks of which prompts are kept, and which are given up first.

A *unit* is what the trace names with one prefix-unique id, or one KV block if that is larger: it is hashed, found and
evicted as a whole. A unit is hashed when its last token is scheduled, found only at admission, and kept after its last
user is gone until blocks are needed. Least recently used goes first; of one request the tail goes before the head. A
second copy of a unit that is already cached stays private to its request and goes back as plain blocks.
"""

from simulator.engine.jit import kernel
from simulator.engine.layout import (
    CACHED_FREE,
    EVICTED_UNITS,
    FREE,
    LRU_HEAD,
    LRU_TAIL,
    NONE,
    PROMPT,
    SHARED_UNITS,
    TARGET,
    Rules,
    State,
)


@kernel
def _unlink(state: State, r: int, unit: int) -> None:
    before = state.unit_previous[r, unit]
    after = state.unit_next[r, unit]
    if before == NONE:
        state.replica[r, LRU_HEAD] = after
    else:
        state.unit_next[r, before] = after
    if after == NONE:
        state.replica[r, LRU_TAIL] = before
    else:
        state.unit_previous[r, after] = before
    state.replica[r, CACHED_FREE] -= 1


@kernel
def _append(state: State, r: int, unit: int) -> None:
    tail = state.replica[r, LRU_TAIL]
    state.unit_previous[r, unit] = tail
    state.unit_next[r, unit] = NONE
    if tail == NONE:
        state.replica[r, LRU_HEAD] = unit
    else:
        state.unit_next[r, tail] = unit
    state.replica[r, LRU_TAIL] = unit
    state.replica[r, CACHED_FREE] += 1


@kernel
def make_room(state: State, rules: Rules, r: int, blocks: int) -> None:
    """Take ``blocks`` from the free blocks, giving up cached units where plain ones do not suffice."""
    rep = state.replica[r]
    while rep[FREE] < blocks:
        unit = rep[LRU_HEAD]
        _unlink(state, r, unit)
        state.unit_users[r, unit] = -1
        rep[FREE] += rules.unit_blocks
        state.total[r, EVICTED_UNITS] += 1
    rep[FREE] -= blocks


@kernel
def match(state: State, rules: Rules, r: int, i: int) -> tuple[int, int]:
    """Leading units of request ``i`` that are cached, and how many of them nobody uses.

    The last token is always computed, so at most ``TARGET - 1`` tokens are found.
    """
    if rules.is_caching == 0:
        return 0, 0
    start = state.unit_offset[i]
    limit = min(
        (state.request[i, TARGET] - 1) // rules.unit_tokens,
        min(state.request[i, PROMPT] // rules.unit_tokens, state.unit_offset[i + 1] - start),
    )
    found = 0
    unused = 0
    while found < limit:
        users = state.unit_users[r, state.unit[start + found]]
        if users < 0:
            break
        if users == 0:
            unused += 1
        found += 1
    return found, unused


@kernel
def take(state: State, r: int, i: int, found: int) -> None:
    """Let request ``i`` use its first ``found`` units."""
    start = state.unit_offset[i]
    for at in range(start, start + found):
        unit = state.unit[at]
        if state.unit_users[r, unit] == 0:
            _unlink(state, r, unit)
        state.unit_users[r, unit] += 1
        state.unit_held[at] = 1
    state.request[i, SHARED_UNITS] = found


@kernel
def publish(state: State, rules: Rules, r: int, i: int, before: int, after: int) -> None:
    """Hash the units of request ``i`` that a chunk from token ``before`` to ``after`` completes."""
    start = state.unit_offset[i]
    limit = min(min(after, state.request[i, PROMPT]) // rules.unit_tokens, state.unit_offset[i + 1] - start)
    for at in range(start + before // rules.unit_tokens, start + limit):
        unit = state.unit[at]
        if state.unit_users[r, unit] < 0:
            state.unit_users[r, unit] = 1
            state.unit_held[at] = 1
            state.request[i, SHARED_UNITS] += 1


@kernel
def give_back(state: State, rules: Rules, r: int, i: int, blocks: int) -> None:
    """Free the ``blocks`` request ``i`` holds; shared units go to the end of the queue, tail first."""
    shared = state.request[i, SHARED_UNITS]
    state.replica[r, FREE] += blocks - shared * rules.unit_blocks
    if shared == 0:
        return
    start = state.unit_offset[i]
    at = state.unit_offset[i + 1] - 1
    while at >= start:
        if state.unit_held[at] == 1:
            unit = state.unit[at]
            state.unit_held[at] = 0
            state.unit_users[r, unit] -= 1
            if state.unit_users[r, unit] == 0:
                _append(state, r, unit)
        at -= 1
    state.request[i, SHARED_UNITS] = 0
