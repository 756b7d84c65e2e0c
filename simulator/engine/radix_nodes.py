"""Nodes of SGLang's radix cache (``radix_cache``): rows that are taken and given back, found, cut, and evicted.

A node that begins with a unit is found by the unit's number, one that begins inside a unit or inside what is a
request's own is the only one that follows the node before it. Of the leaves that no request locks the least recently
touched is evicted first, as a whole, then its parent if that has become a leaf.
"""

from typing import Final

from simulator.engine.bounds import NODES_FULL, NONE
from simulator.engine.decoding import end_run
from simulator.engine.heap import first_key, first_payload, pop, push
from simulator.engine.jit import kernel
from simulator.engine.replica import Node, Replica
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
def _is_evictable_leaf(leaf: Node) -> bool:
    return leaf.locks == 0 and leaf.children == 0 and leaf.tokens > 0


@kernel
def offer(state: State, rep: Replica, number: int) -> None:
    """Let a leaf that nobody locks be evicted; a heap of mostly dead entries loses them first."""
    heap = rep.leaves
    if heap.size >= 4 * rep.used_nodes + 64:
        keys = list_at(state, heap.place)
        payloads = list_at(state, heap.place + heap.capacity)
        entries = heap.size
        heap.size = 0
        for at in range(entries):
            other = node(state, payloads[at])
            if _is_evictable_leaf(other) and keys[at] == other.touched:
                push(state, heap, keys[at], payloads[at])
    push(state, heap, node(state, number).touched, number)


@kernel
def touch(state: State, rep: Replica, number: int, time: int) -> None:
    """Note the last match or insertion that passed a node."""
    touched = node(state, number)
    touched.touched = time
    if _is_evictable_leaf(touched):
        offer(state, rep, number)


@kernel
def next_touch(rep: Replica) -> int:
    """Return the number of a new match or insertion."""
    rep.touches += 1
    return rep.touches


@kernel
def new_node(state: State, rep: Replica) -> int:
    """Take a node from those given back, or one that was never used; ``has_nodes`` has seen to it."""
    number = rep.free_node
    if number == NO_NODE:
        number = rep.next_node
        rep.next_node += 1
    else:
        rep.free_node = node(state, number).follower
    new = node(state, number)
    new.locks = 0
    new.children = 0
    new.follower = NO_NODE
    rep.used_nodes += 1
    return number


@kernel
def _delete(state: State, rep: Replica, number: int) -> None:
    """Take a leaf out of the tree."""
    leaf = node(state, number)
    _unlink(state, rep, number)
    if leaf.parent != NO_NODE:
        node(state, leaf.parent).children -= 1
    rep.used_nodes -= 1
    leaf.tokens = 0
    leaf.follower = rep.free_node
    rep.free_node = number


@kernel
def _evict_leaf(state: State, rep: Replica) -> int:
    """Evict the least recently touched leaf; the blocks that makes free, 0 if there is none."""
    heap = rep.leaves
    while heap.size > 0:
        key = first_key(state, heap)
        number = first_payload(state, heap)
        pop(state, heap)
        leaf = node(state, number)
        if not _is_evictable_leaf(leaf) or leaf.touched != key:
            continue
        blocks = leaf.tokens // state.block_size
        rep.free += blocks
        rep.evictable -= blocks
        rep.evicted_units += blocks
        above = leaf.parent
        _delete(state, rep, number)
        if above != NO_NODE and _is_evictable_leaf(node(state, above)):
            offer(state, rep, above)
        return blocks
    return 0


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
    """Cut a node behind its first ``tokens``; it keeps what follows, and the new node before it is returned."""
    upper_number = new_node(state, rep)
    upper = node(state, upper_number)
    lower = node(state, number)
    upper.parent = lower.parent
    upper.children = 1
    upper.locks = lower.locks
    upper.touched = next_touch(rep)
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
