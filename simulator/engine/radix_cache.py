"""SGLang's radix cache of one replica: a tree whose nodes hold stretches of token sequences, evicted leaf by leaf.

Source: SGLang 0.5.10 ``RadixCache``. A path from the root spells a sequence; a match that ends inside a node splits it.
A request locks the path it holds. What no request locks can be evicted: of the leaves the least recently touched goes
first, as a whole, then its parent if that has become a leaf. A match and an insertion touch their path; giving up a
lock touches nothing. Prompts are inserted chunk by chunk, answers when the request is over, so they take room as well,
and a retracted request finds its own prompt again while it is there. A second copy of what the tree holds is freed when
it is inserted.

Two prompts share the prefix units whose ids are the same, and nothing of a unit whose ids differ; what lies behind the
units of a prompt is its own. A node that begins with a unit is found by the unit's number, one that begins inside a
unit or inside what is a request's own is the only one that follows the node before it.
"""

from simulator.engine.blocks import full_blocks
from simulator.engine.bounds import NODES_FULL
from simulator.engine.kernel import kernel
from simulator.engine.radix_nodes import (
    NO_NODE,
    has_nodes,
    link,
    lock,
    new_node,
    own_tokens_from,
    split,
    touch_path,
    unit_at,
    unit_tokens,
    unlock,
)
from simulator.engine.replica import Node, Replica
from simulator.engine.request import Request
from simulator.engine.state import State
from simulator.engine.tables import list_at, node


@kernel
def _whole(state: State, tokens: int) -> int:
    """Tokens of the blocks that ``tokens`` fill."""
    return full_blocks(state, tokens) * state.block_size


@kernel
def _child(state: State, rep: Replica, req: Request, at: int, here: int) -> int:
    """Node that continues a request's sequence at token ``at``, behind node ``here``; NO_NODE if there is none."""
    own = own_tokens_from(state, req)
    if at == own:
        return req.tail
    if at < own and at % unit_tokens(state) == 0:
        return list_at(state, rep.rings)[unit_at(state, req.first_unit, at)]
    return node(state, here).follower


@kernel
def _common(state: State, req: Request, at: int, child: Node, limit: int) -> int:
    """Tokens from ``at`` on that a node and a request's sequence have in common, up to token ``limit``."""
    end = min(at + child.tokens, limit)
    own = own_tokens_from(state, req)
    if at >= own or child.owner == req.number:
        return end - at
    size = unit_tokens(state)
    last = min(end, child.shared, own)
    place = at // size
    theirs = list_at(state, state.unit_ids + child.first_unit)
    ours = list_at(state, state.unit_ids + req.first_unit)
    reached = at
    while reached < last and theirs[place] == ours[place]:
        place += 1
        reached = min(place * size, last)
    return reached - at


@kernel
def _descend(state: State, rep: Replica, req: Request, limit: int) -> tuple[int, int]:
    """Walk a request's sequence, from what it locks on, down to token ``limit``, cutting a node where they part.

    Returns the tokens found, those it locks included, and the last node.
    """
    at = req.held
    here = req.node
    if not has_nodes(state, rep):
        return at, here
    while at < limit:
        number = _child(state, rep, req, at, here)
        if number == NO_NODE:
            break
        child = node(state, number)
        tokens = _common(state, req, at, child, limit)
        if tokens == 0:
            break
        at += tokens
        here = number if tokens == child.tokens else split(state, rep, number, tokens)
    return at, here


@kernel
def match(state: State, rep: Replica, req: Request) -> tuple[int, int]:
    """Tokens of what a request has to compute that the tree holds, and their last node; all but the last at most."""
    if not state.has_tree:
        return 0, NO_NODE
    found, last = _descend(state, rep, req, _whole(state, req.target - 1))
    touch_path(state, rep, last)
    return found, last


@kernel
def tokens_found(state: State, rep: Replica, req: Request) -> int:
    """Tokens ``match`` would find; changes nothing."""
    limit = _whole(state, req.target - 1)
    at = 0
    here = NO_NODE
    while at < limit:
        number = _child(state, rep, req, at, here)
        if number == NO_NODE:
            break
        child = node(state, number)
        tokens = _common(state, req, at, child, limit)
        at += tokens
        if tokens < child.tokens:
            break
        here = number
    return at


@kernel
def keep_prompt(state: State, rep: Replica, req: Request, tokens: int) -> None:
    """Insert the first ``tokens`` of a running request, lock them, and free what the tree held already."""
    limit = _whole(state, tokens)
    found, last = _descend(state, rep, req, limit)
    if state.full == NODES_FULL:
        return
    rep.free += full_blocks(state, found - req.held)
    lock(state, rep, last, req.node)
    if found < limit:
        number = new_node(state, rep, 1)
        new = node(state, number)
        new.parent = last
        new.start = found
        new.tokens = limit - found
        new.first_unit = req.first_unit
        new.shared = own_tokens_from(state, req)
        new.owner = req.number
        link(state, rep, number, last)
        last = number
    touch_path(state, rep, last)
    req.node = last
    req.held = limit


@kernel
def keep_nothing(state: State, rep: Replica, req: Request, blocks: int) -> None:
    """Free the ``blocks`` of a request but for what the tree holds."""
    rep.free += blocks - full_blocks(state, req.held)
    unlock(state, rep, req.node)
    req.node = NO_NODE
    req.held = 0


@kernel
def keep_all(state: State, rep: Replica, req: Request, tokens: int, blocks: int) -> None:
    """Leave the ``tokens`` of a request that is over to the tree, and free the rest of its ``blocks``."""
    keep_prompt(state, rep, req, tokens)
    keep_nothing(state, rep, req, blocks)
