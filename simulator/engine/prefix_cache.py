"""The prefix cache of one replica: which KV blocks are kept when nobody uses them, and who finds them again.

Every full KV block is hashed when its last token is scheduled, prompts and answers alike, also where a copy of it is
cached already. A request looks for its leading blocks only when it is admitted, and never finds the block of its last
token. When it leaves, its hashed blocks go to the end of the queue of those that may be given up, the last block first;
the rest is empty at once. So answers and second copies push prefixes out. What no id names is found again by the same
request alone, after a preemption: nobody else can know it; and the ids of a next turn name the answer before it, which
comes after that has left. Such blocks are therefore hashed only here when the request leaves, which comes to the
same.

Source: vLLM 0.33 ``KVCacheManager.allocate_slots`` and ``get_computed_blocks``, ``BlockPool``.
"""

from simulator.engine.blocks import full_blocks
from simulator.engine.kernel import kernel
from simulator.engine.replica import Replica
from simulator.engine.request import Request
from simulator.engine.segments import (
    NO_SEGMENT,
    add_segment,
    covering,
    cut,
    first_copy,
    give_up,
    hold,
    leave_unused,
    let_go,
    unnamed,
)
from simulator.engine.state import State
from simulator.engine.tables import list_at, segment


@kernel
def free_blocks(state: State, rep: Replica) -> int:  # noqa: ARG001 - asked for with the state everywhere
    """Blocks that can be allocated: empty ones, and cached ones nobody uses."""
    return rep.free + rep.unused.count


@kernel
def used_blocks(state: State, rep: Replica) -> int:
    """Blocks that running requests hold."""
    return state.num_blocks - free_blocks(state, rep)


@kernel
def allocate(state: State, rep: Replica, blocks: int) -> None:
    """Take ``blocks``, giving up hashed ones where empty ones do not suffice; there must be enough."""
    if rep.free < blocks:
        give_up(state, rep, blocks - rep.free)
    rep.free -= blocks


@kernel
def _unit_at(state: State, req: Request, at: int) -> int:
    """Return the unit that id ``at`` of a request names."""
    return list_at(state, state.unit_ids)[req.first_unit + at]


@kernel
def _block_at(state: State, rep: Replica, req: Request, block: int) -> int:
    """Segment of a named block, where an id names one block; NO_SEGMENT if it is not cached."""
    return list_at(state, rep.rings)[_unit_at(state, req, block)]


@kernel
def _match_blocks(state: State, rep: Replica, req: Request, end: int) -> tuple[int, int]:
    """Leading named blocks, at most ``end``, that are cached, and how many nobody uses, where an id names one block."""
    found = 0
    unused = 0
    while found < end:
        number = _block_at(state, rep, req, found)
        if number == NO_SEGMENT:
            break
        unused += segment(state, number).users == 0
        found += 1
    return found, unused


@kernel
def _match_unit(state: State, rep: Replica, unit: int, end: int) -> tuple[int, int]:
    """Leading blocks of a unit, at most ``end``, that are cached, and how many of them nobody uses."""
    found = 0
    unused = 0
    while found < end:
        number = covering(state, rep, unit, found)
        if number == NO_SEGMENT:
            break
        seg = segment(state, number)
        stop = min(seg.first + seg.count, end)
        if seg.users == 0:
            unused += stop - found
        found = stop
    return found, unused


@kernel
def match(state: State, rep: Replica, req: Request) -> tuple[int, int]:
    """Leading KV blocks of a request that are cached, and how many of them nobody uses.

    The last token is always computed, so at most ``target - 1`` tokens are found.
    """
    if not state.is_caching:
        return 0, 0
    limit = full_blocks(state, req.target - 1)
    named = min(limit, req.named_blocks)
    parts = state.unit_blocks
    found = 0
    unused = 0
    at = 0
    if parts == 1:
        found, unused = _match_blocks(state, rep, req, named)
        if found < named:
            return found, unused
    while found < named:
        end = min(parts, named - found)
        blocks, idle = _match_unit(state, rep, _unit_at(state, req, at), end)
        found += blocks
        unused += idle
        if blocks < end:
            return found, unused
        at += 1
    if found < limit:
        blocks, idle = _match_unit(state, rep, unnamed(req.number), limit - found)
        found += blocks
        unused += idle
    return found, unused


@kernel
def _take_of_unit(state: State, rep: Replica, unit: int, end: int) -> None:
    """Hold the leading ``end`` blocks of a unit, and nothing else of it."""
    place = 0
    while place < end:
        number = covering(state, rep, unit, place)
        if segment(state, number).first < place:
            cut(state, rep, number, place)
        if segment(state, number).first + segment(state, number).count > end:
            number = cut(state, rep, number, end)
        hold(state, rep, number)
        place = segment(state, number).first + segment(state, number).count


@kernel
def take(state: State, rep: Replica, req: Request, found: int) -> None:
    """Let a request use its first ``found`` KV blocks, which are cached."""
    req.hit_blocks = found
    named = min(found, req.named_blocks)
    parts = state.unit_blocks
    block = 0
    at = 0
    if parts == 1:
        for block in range(named):
            hold(state, rep, _block_at(state, rep, req, block))
        block = named
    while block < named:
        end = min(parts, named - block)
        _take_of_unit(state, rep, _unit_at(state, req, at), end)
        block += end
        at += 1
    if named < found:
        _take_of_unit(state, rep, unnamed(req.number), found - named)


@kernel
def _publish_part(state: State, rep: Replica, req: Request, unit: int, first: int, stop: int) -> None:
    """Hash blocks ``first`` to ``stop`` of a unit, which a request has just computed and holds."""
    recent = req.own_segment
    if first > 0 and recent != NO_SEGMENT:
        seg = segment(state, recent)
        is_last = seg.next_copy == first_copy(state, rep, unit)
        if seg.unit == unit and seg.users == 1 and is_last and seg.first + seg.count == first:
            seg.count += stop - first
            return
    number = add_segment(state, rep, unit, first, stop - first)
    seg = segment(state, number)
    seg.users = 1
    seg.is_own = True
    seg.next_own = recent
    req.own_segment = number


@kernel
def publish(state: State, rep: Replica, req: Request, before: int, after: int) -> None:
    """Hash the named blocks that a chunk from token ``before`` to token ``after`` fills."""
    block = full_blocks(state, before)
    last = min(full_blocks(state, after), req.named_blocks)
    if block >= last:
        return
    parts = state.unit_blocks
    at = block // parts
    place = block - at * parts
    while block < last:
        stop = min(parts, place + last - block)
        _publish_part(state, rep, req, _unit_at(state, req, at), place, stop)
        block += stop - place
        at += 1
        place = 0


@kernel
def _hash_the_rest(state: State, rep: Replica, req: Request, hashed: int) -> int:
    """Hash what a request that leaves has beyond its prompt, up to block ``hashed``; returns how many blocks that are.

    The last ones join the queue first: what no id names, then the part of the answer that a next turn's ids name.
    """
    done = max(req.hit_blocks, full_blocks(state, min(req.computed, req.target)))
    first = max(req.named_blocks, req.hit_blocks)
    blocks = 0
    if hashed > first:
        number = add_segment(state, rep, unnamed(req.number), first - req.named_blocks, hashed - first)
        leave_unused(state, rep, number)
        blocks = hashed - first
    stop = min(hashed, req.named_blocks)
    parts = state.unit_blocks
    while stop > done:
        at = (stop - 1) // parts
        start = max(at * parts, done)
        number = add_segment(state, rep, _unit_at(state, req, at), start - at * parts, stop - start)
        leave_unused(state, rep, number)
        blocks += stop - start
        stop = start
    return blocks


@kernel
def _let_own_go(state: State, rep: Replica, req: Request) -> int:
    """Give up the segments that a request has computed itself, the last one first; returns their blocks."""
    blocks = 0
    number = req.own_segment
    req.own_segment = NO_SEGMENT
    while number != NO_SEGMENT:
        seg = segment(state, number)
        following = seg.next_own
        blocks += seg.count
        seg.is_own = False
        seg.next_own = NO_SEGMENT
        let_go(state, rep, number, rep.unused.tail)
        number = following
    return blocks


@kernel
def _let_unit_go(state: State, rep: Replica, unit: int, end: int, place: int) -> None:
    """Give up the leading ``end`` blocks of a unit, which joins the queue behind ``place``, its last block first."""
    block = 0
    while block < end:
        # Who found a block holds the first copy of it, and that stays the first as long as anybody holds it.
        number = covering(state, rep, unit, block)
        block = segment(state, number).first + segment(state, number).count
        let_go(state, rep, number, place)


@kernel
def give_back(state: State, rep: Replica, req: Request, blocks: int, tokens: int) -> None:
    """Free the ``blocks`` a request holds, of which those that its first ``tokens`` tokens fill are hashed."""
    if not state.is_caching:
        rep.free += blocks
        return
    kept = _hash_the_rest(state, rep, req, full_blocks(state, tokens))
    kept += _let_own_go(state, rep, req)
    kept += req.hit_blocks
    tail = rep.unused.tail
    named = min(req.hit_blocks, req.named_blocks)
    parts = state.unit_blocks
    block = 0
    at = 0
    if parts == 1:
        for block in range(named):
            let_go(state, rep, _block_at(state, rep, req, block), tail)
        block = named
    while block < named:
        end = min(parts, named - block)
        _let_unit_go(state, rep, _unit_at(state, req, at), end, tail)
        block += end
        at += 1
    if named < req.hit_blocks:
        _let_unit_go(state, rep, unnamed(req.number), req.hit_blocks - named, tail)
    req.hit_blocks = 0
    rep.free += blocks - kept
