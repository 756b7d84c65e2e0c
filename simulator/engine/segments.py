"""Segments: hashed KV blocks of one replica that lie in a row in a prompt or an answer and have the same users.

A *unit* is what one id of the trace names, one KV block or several, or everything of one request that no id names. Its
segments form a ring, in the order in which they were hashed: two requests that compute the same blocks leave two
copies, and the first one is found. Segments that nobody holds form the queue in which blocks are given up, from the
last block of its head on. A segment is cut where somebody takes a part of it.

Source: vLLM 0.33 ``BlockPool``: ``BlockHashToBlockMap``, ``touch``, ``free_blocks``, ``get_new_blocks``.
"""

from typing import Final

from simulator.engine.kernel import kernel
from simulator.engine.replica import Replica, Segment
from simulator.engine.state import State
from simulator.engine.tables import list_at, request, segment

NO_SEGMENT: Final = 0  # rows of segments count from 1


@kernel
def unnamed(number: int) -> int:
    """Return the unit of what request ``number`` has beyond its ids."""
    return -1 - number


@kernel
def first_copy(state: State, rep: Replica, unit: int) -> int:
    """Return the segment of a unit that was hashed first, or NO_SEGMENT."""
    if unit < 0:
        return request(state, -1 - unit).unnamed_segment
    return list_at(state, rep.rings)[unit]


@kernel
def _set_first_copy(state: State, rep: Replica, unit: int, number: int) -> None:
    if unit < 0:
        request(state, -1 - unit).unnamed_segment = number
    else:
        list_at(state, rep.rings)[unit] = number


@kernel
def covering(state: State, rep: Replica, unit: int, place: int) -> int:
    """Return the segment in which block ``place`` of a unit is found, or NO_SEGMENT."""
    start = first_copy(state, rep, unit)
    number = start
    while number != NO_SEGMENT:
        seg = segment(state, number)
        if seg.first <= place < seg.first + seg.count:
            return number
        number = seg.next_copy
        if number == start:
            return NO_SEGMENT
    return NO_SEGMENT


@kernel
def _take_row(state: State, rep: Replica) -> int:
    """Return a row that is free: there are as many as blocks, and every segment has one block at least."""
    number = rep.free_segment
    if number != NO_SEGMENT:
        rep.free_segment = segment(state, number).next
        return number
    number = rep.next_segment
    rep.next_segment += 1
    return number


@kernel
def add_segment(state: State, rep: Replica, unit: int, first: int, count: int) -> int:
    """Hash ``count`` blocks of a unit from its block ``first`` on; nobody holds them yet, and they are in no queue."""
    number = _take_row(state, rep)
    seg = segment(state, number)
    seg.unit = unit
    seg.first = first
    seg.count = count
    seg.users = 0
    seg.is_own = False
    seg.next_own = NO_SEGMENT
    start = first_copy(state, rep, unit)
    if start == NO_SEGMENT:
        seg.previous_copy = number
        seg.next_copy = number
        _set_first_copy(state, rep, unit, number)
    else:
        _put_before(state, number, start)
    return number


@kernel
def _put_before(state: State, number: int, place: int) -> None:
    """Put a segment into the ring before the one at ``place``; before the first one is behind the last."""
    seg = segment(state, number)
    behind = segment(state, place)
    seg.previous_copy = behind.previous_copy
    seg.next_copy = place
    segment(state, behind.previous_copy).next_copy = number
    behind.previous_copy = number


@kernel
def _drop(state: State, rep: Replica, number: int) -> None:
    """Forget a segment without blocks."""
    seg = segment(state, number)
    if seg.next_copy == number:
        _set_first_copy(state, rep, seg.unit, NO_SEGMENT)
    else:
        segment(state, seg.previous_copy).next_copy = seg.next_copy
        segment(state, seg.next_copy).previous_copy = seg.previous_copy
        if first_copy(state, rep, seg.unit) == number:
            _set_first_copy(state, rep, seg.unit, seg.next_copy)
    seg.next = rep.free_segment
    rep.free_segment = number


@kernel
def cut(state: State, rep: Replica, number: int, place: int) -> int:
    """Cut a segment before block ``place`` of its unit: it keeps the rest, the part before it is returned."""
    front = _take_row(state, rep)
    seg = segment(state, number)
    new = segment(state, front)
    new.unit = seg.unit
    new.first = seg.first
    new.count = place - seg.first
    new.users = seg.users
    new.is_own = seg.is_own
    new.next_own = NO_SEGMENT
    seg.first = place
    seg.count -= new.count
    _put_before(state, front, number)
    if first_copy(state, rep, seg.unit) == number:
        _set_first_copy(state, rep, seg.unit, front)
    if seg.users == 0:
        _put_behind(state, rep, front, number)
    if seg.is_own:
        new.next_own = seg.next_own
        seg.next_own = front
    return front


@kernel
def _put_behind(state: State, rep: Replica, number: int, place: int) -> None:
    """Put a segment into the queue of those nobody holds behind the one at ``place``; NO_SEGMENT: at its head."""
    queue = rep.unused
    seg = segment(state, number)
    seg.previous = place
    if place == NO_SEGMENT:
        seg.next = queue.head
        queue.head = number
    else:
        ahead = segment(state, place)
        seg.next = ahead.next
        ahead.next = number
    if seg.next == NO_SEGMENT:
        queue.tail = number
    else:
        segment(state, seg.next).previous = number


@kernel
def hold(state: State, rep: Replica, number: int) -> None:
    """Count one more request that holds a segment."""
    seg = segment(state, number)
    if seg.users == 0:
        queue = rep.unused
        queue.count -= seg.count
        _leave_queue(state, rep, seg)
    seg.users += 1


@kernel
def _leave_queue(state: State, rep: Replica, seg: Segment) -> None:
    queue = rep.unused
    if seg.previous == NO_SEGMENT:
        queue.head = seg.next
    else:
        segment(state, seg.previous).next = seg.next
    if seg.next == NO_SEGMENT:
        queue.tail = seg.previous
    else:
        segment(state, seg.next).previous = seg.previous


@kernel
def let_go(state: State, rep: Replica, number: int, place: int) -> None:
    """Count one request less that holds a segment; if that was the last, it joins the queue behind ``place``."""
    seg = segment(state, number)
    seg.users -= 1
    if seg.users == 0:
        rep.unused.count += seg.count
        _put_behind(state, rep, number, place)


@kernel
def leave_unused(state: State, rep: Replica, number: int) -> None:
    """Put a segment that was just hashed at the end of the queue of those nobody holds."""
    rep.unused.count += segment(state, number).count
    _put_behind(state, rep, number, rep.unused.tail)


@kernel
def give_up(state: State, rep: Replica, blocks: int) -> None:
    """Empty ``blocks`` that nobody holds, the least recently used ones, of one request the last ones first."""
    queue = rep.unused
    queue.count -= blocks
    rep.free += blocks
    rep.evicted_units += blocks
    while blocks > 0:
        number = queue.head
        seg = segment(state, number)
        taken = min(blocks, seg.count)
        seg.count -= taken
        blocks -= taken
        if seg.count == 0:
            _leave_queue(state, rep, seg)
            _drop(state, rep, number)
