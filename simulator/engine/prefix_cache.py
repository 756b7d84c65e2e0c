"""The prefix cache of one replica: which blocks of which prompts are kept, and which are given up first.

A *unit* is what the trace names with one prefix-unique id, or one KV block if that is larger: it is hashed, found and
evicted as a whole. A unit is hashed when its last token is scheduled, found only at admission, and kept after its last
user is gone until blocks are needed. Least recently used goes first; of one request the tail goes before the head. A
second copy of a unit that is already cached stays private to its request and goes back as plain blocks.
"""

from simulator.engine.bounds import NONE
from simulator.engine.jit import kernel
from simulator.engine.replica import CachedUnit, Replica
from simulator.engine.request import PromptUnit, Request
from simulator.engine.state import State
from simulator.engine.tables import cached_unit, prompt_unit


@kernel
def _cached(state: State, rep: Replica, unit: PromptUnit) -> CachedUnit:
    """Row of a request's unit in the replica's cache."""
    return cached_unit(state, rep.first_cached + unit.unit)


@kernel
def _no_longer_unused(state: State, rep: Replica, unit: CachedUnit) -> None:
    """Take a unit out of the queue of those nobody holds."""
    queue = rep.unused
    if unit.previous == NONE:
        queue.head = unit.next
    else:
        cached_unit(state, unit.previous).next = unit.next
    if unit.next == NONE:
        queue.tail = unit.previous
    else:
        cached_unit(state, unit.next).previous = unit.previous
    queue.count -= 1


@kernel
def _now_unused(state: State, rep: Replica, number: int) -> None:
    """Put the cached unit ``number`` at the end of the queue of those nobody holds."""
    queue = rep.unused
    unit = cached_unit(state, number)
    unit.previous = queue.tail
    unit.next = NONE
    if queue.tail == NONE:
        queue.head = number
    else:
        cached_unit(state, queue.tail).next = number
    queue.tail = number
    queue.count += 1


@kernel
def free_blocks(state: State, rep: Replica) -> int:
    """Blocks that can be allocated: empty ones, and cached ones nobody uses."""
    return rep.free + rep.unused.count * state.unit_blocks


@kernel
def used_blocks(state: State, rep: Replica) -> int:
    """Blocks that running requests hold."""
    return state.num_blocks - free_blocks(state, rep)


@kernel
def allocate(state: State, rep: Replica, blocks: int) -> None:
    """Take ``blocks``, giving up cached units where empty blocks do not suffice; there must be enough."""
    while rep.free < blocks:
        unit = cached_unit(state, rep.unused.head)
        _no_longer_unused(state, rep, unit)
        unit.users = NONE
        rep.free += state.unit_blocks
        rep.evicted_units += 1
    rep.free -= blocks


@kernel
def match(state: State, rep: Replica, req: Request) -> tuple[int, int]:
    """Leading units of a request's prompt that are cached, and how many of them nobody uses.

    The last token is always computed, so at most ``target - 1`` tokens are found.
    """
    if not state.is_caching:
        return 0, 0
    limit = min(req.num_units, (req.target - 1) // state.unit_tokens)
    found = 0
    unused = 0
    while found < limit:
        users = _cached(state, rep, prompt_unit(state, req.first_unit + found)).users
        if users == NONE:
            break
        if users == 0:
            unused += 1
        found += 1
    return found, unused


@kernel
def take(state: State, rep: Replica, req: Request, found: int) -> None:
    """Let a request use the first ``found`` units of its prompt."""
    for k in range(found):
        own = prompt_unit(state, req.first_unit + k)
        unit = _cached(state, rep, own)
        if unit.users == 0:
            _no_longer_unused(state, rep, unit)
        unit.users += 1
        own.is_held = True
    req.shared_units = found


@kernel
def publish(state: State, rep: Replica, req: Request, before: int, after: int) -> None:
    """Hash the units that a chunk from token ``before`` to token ``after`` completes."""
    size = state.unit_tokens
    last = min(after // size, req.num_units)
    for k in range(before // size, last):
        own = prompt_unit(state, req.first_unit + k)
        unit = _cached(state, rep, own)
        if unit.users == NONE:
            unit.users = 1
            own.is_held = True
            req.shared_units += 1


@kernel
def give_back(state: State, rep: Replica, req: Request, blocks: int) -> None:
    """Free the ``blocks`` a request holds; its shared units go to the end of the queue, tail first."""
    shared = req.shared_units
    if shared == 0:
        rep.free += blocks
        return
    rep.free += blocks - shared * state.unit_blocks
    k = req.num_units
    while shared > 0:
        k -= 1
        own = prompt_unit(state, req.first_unit + k)
        if not own.is_held:
            continue
        own.is_held = False
        unit = _cached(state, rep, own)
        unit.users -= 1
        if unit.users == 0:
            _now_unused(state, rep, rep.first_cached + own.unit)
        shared -= 1
    req.shared_units = 0
