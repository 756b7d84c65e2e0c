"""Nodes of SGLang's radix cache (``radix_cache``): rows that are taken and given back, found, cut, touched and evicted.

A node that begins with a unit is found by the unit's number, one that begins inside a unit or inside what is a
request's own is the only one that follows the node before it. Of the leaves that no request locks the least recently
touched is evicted first, as a whole, then its parent if that has become a leaf.

Nodes that nobody locks form a queue in the order of their last touch; those of one path that were touched together lie
in it from the end of the path up. Who touches or locks a node does so to all above it. So the head of the queue is a
leaf: what is below it would be locked, and the head with it, or before it in the queue.
"""

from typing import Final

from simulator.engine.blocks import full_blocks
from simulator.engine.bounds import NODES_FULL, NONE
from simulator.engine.decoding import end_run
from simulator.engine.kernel import kernel
from simulator.engine.replica import Replica
from simulator.engine.request import Request
from simulator.engine.state import State
from simulator.engine.tables import list_at, node, request

NO_NODE: Final = 0  # rows of nodes count from 1; as a parent, and as the end of a path, it is the root


@kernel
def own_tokens_from(state: State, req: Request) -> int:
    """Token from which nobody shares a request's sequence."""
    return req.named_blocks * state.block_size


@kernel
def unit_tokens(state: State) -> int:
    """Tokens that one id names."""
    return state.unit_blocks * state.block_size


@kernel
def unit_at(state: State, first_unit: int, at: int) -> int:
    """Return the unit that names token ``at`` of the request whose first id is at place ``first_unit``."""
    return list_at(state, state.unit_ids)[first_unit + at // unit_tokens(state)]


@kernel
def link(state: State, rep: Replica, number: int, above: int) -> None:
    """Let a node be found: by the unit it begins with, from the request whose own it is, or from the node above it."""
    new = node(state, number)
    if new.start == new.shared:
        if new.owner != NONE:
            request(state, new.owner).tail = number
    elif new.start < new.shared and new.start % unit_tokens(state) == 0:
        list_at(state, rep.rings)[unit_at(state, new.first_unit, new.start)] = number
    else:
        node(state, above).follower = number


@kernel
def _unlink(state: State, rep: Replica, number: int) -> None:
    """Let a node that is deleted be found no more."""
    old = node(state, number)
    if old.start == old.shared:
        if old.owner != NONE:
            request(state, old.owner).tail = NO_NODE
    elif old.start < old.shared and old.start % unit_tokens(state) == 0:
        list_at(state, rep.rings)[unit_at(state, old.first_unit, old.start)] = NO_NODE
    else:
        node(state, old.parent).follower = NO_NODE


@kernel
def _put_behind(state: State, rep: Replica, number: int, place: int) -> None:
    """Put a node into the queue of those nobody locks behind the one at ``place``; NO_NODE: at its head."""
    queue = rep.unused
    new = node(state, number)
    new.previous = place
    if place == NO_NODE:
        new.next = queue.head
        queue.head = number
    else:
        ahead = node(state, place)
        new.next = ahead.next
        ahead.next = number
    if new.next == NO_NODE:
        queue.tail = number
    else:
        node(state, new.next).previous = number


@kernel
def _leave_queue(state: State, rep: Replica, number: int) -> None:
    queue = rep.unused
    old = node(state, number)
    if old.previous == NO_NODE:
        queue.head = old.next
    else:
        node(state, old.previous).next = old.next
    if old.next == NO_NODE:
        queue.tail = old.previous
    else:
        node(state, old.next).previous = old.previous


@kernel
def lock(state: State, rep: Replica, number: int, held: int) -> None:
    """Keep a path from being evicted, from a node up to one above it that is kept already, or up to the root."""
    while number != held:
        kept = node(state, number)
        if kept.locks == 0:
            rep.unused.count -= full_blocks(state, kept.tokens)
            _leave_queue(state, rep, number)
        kept.locks += 1
        number = kept.parent


@kernel
def unlock(state: State, rep: Replica, number: int) -> None:
    """Give up the lock on a path. What nobody locks any more joins the queue where its last touch belongs."""
    queue = rep.unused
    while number != NO_NODE:
        kept = node(state, number)
        kept.locks -= 1
        if kept.locks == 0:
            queue.count += full_blocks(state, kept.tokens)
            place = queue.tail
            while place != NO_NODE and node(state, place).touched > kept.touched:
                place = node(state, place).previous
            _put_behind(state, rep, number, place)
        number = kept.parent


@kernel
def touch_path(state: State, rep: Replica, number: int) -> None:
    """Note a match or an insertion that passed a path, down to a node."""
    rep.touches += 1
    while number != NO_NODE:
        passed = node(state, number)
        passed.touched = rep.touches
        if passed.locks == 0:
            _leave_queue(state, rep, number)
            _put_behind(state, rep, number, rep.unused.tail)
        number = passed.parent


@kernel
def new_node(state: State, rep: Replica, locks: int) -> int:
    """Take a node from those given back, or one that was never used; ``has_nodes`` has seen to it."""
    number = rep.free_node
    if number == NO_NODE:
        number = rep.next_node
        rep.next_node += 1
    else:
        rep.free_node = node(state, number).follower
    new = node(state, number)
    new.locks = locks
    new.follower = NO_NODE
    return number


@kernel
def _evict_leaf(state: State, rep: Replica) -> int:
    """Evict the least recently touched leaf; the blocks that makes free, 0 if there is none."""
    number = rep.unused.head
    if number == NO_NODE:
        return 0
    leaf = node(state, number)
    blocks = full_blocks(state, leaf.tokens)
    rep.free += blocks
    rep.unused.count -= blocks
    rep.evicted_units += blocks
    _leave_queue(state, rep, number)
    _unlink(state, rep, number)
    leaf.follower = rep.free_node
    rep.free_node = number
    return blocks


@kernel
def _free_nodes(state: State, rep: Replica) -> int:
    """Count the nodes that can be taken, 2 if there are more."""
    free = min(2, rep.end_node - rep.next_node)
    given_back = rep.free_node
    while free < 2 and given_back != NO_NODE:
        free += 1
        given_back = node(state, given_back).follower
    return free


@kernel
def has_nodes(state: State, rep: Replica) -> bool:
    """See to two free nodes, as many as one walk makes; leaves go early if there are more than was foreseen.

    False if there are none: the run ends before its next decision, and the tree stays as it is until then.
    """
    while _free_nodes(state, rep) < 2:
        if _evict_leaf(state, rep) == 0:
            end_run(state, NODES_FULL)
            return False
    return True


@kernel
def make_room(state: State, rep: Replica, blocks: int) -> None:
    """Evict ``blocks``, not only what is lacking, if fewer are free; leaves go as a whole."""
    if rep.free >= blocks:
        return
    evicted = 0
    while evicted < blocks:
        more = _evict_leaf(state, rep)
        if more == 0:
            return
        evicted += more


@kernel
def split(state: State, rep: Replica, number: int, tokens: int) -> int:
    """Cut a node behind its first ``tokens``; it keeps what follows, and the new node before it is returned.

    Who cuts it has touched all of it, and touches what is before the cut again.
    """
    lower = node(state, number)
    upper_number = new_node(state, rep, lower.locks)
    upper = node(state, upper_number)
    rep.touches += 1
    lower.touched = rep.touches
    upper.touched = rep.touches
    if lower.locks == 0:
        _leave_queue(state, rep, number)
        _put_behind(state, rep, number, rep.unused.tail)
        _put_behind(state, rep, upper_number, number)
    upper.parent = lower.parent
    upper.start = lower.start
    upper.tokens = tokens
    upper.first_unit = lower.first_unit
    upper.shared = lower.shared
    upper.owner = lower.owner
    lower.parent = upper_number
    lower.start += tokens
    lower.tokens -= tokens
    link(state, rep, upper_number, upper.parent)
    link(state, rep, number, upper_number)
    return upper_number
