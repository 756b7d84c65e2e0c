"""Which replica a request goes to: round robin, vLLM's load score, least outstanding, longest cached prefix.

vLLM (0.33, internal load balancing) sends a request to the lowest
``max(own in flight, waiting + running) + 6 waiting max(0, kv_usage - 1/2)``; waiting, running and KV use are snapshots
taken every 100 ms, the requests in flight are the front end's own count; ties go round. A finish counts for a router
only from the moment it happens. The prefix router takes the replica with the longest cached prefix, then the least
outstanding.
"""

from typing import Final

from simulator.engine import layout
from simulator.engine.jit import kernel
from simulator.engine.layout import NONE, Cells
from simulator.engine.leap import steps_decided_before
from simulator.engine.prefix_cache import match, used_blocks

TICK_PS: Final = 100_000_000_000


@kernel
def next_tick(state: Cells, arrival: int) -> int:
    """Time up to which replicas must have run for an arrival to be judged, or NONE if they have.

    vLLM's score needs the last snapshot, the prefix router every replica's cache as it is at the arrival.
    """
    tick = NONE
    if state[layout.ROUTER] == layout.VLLM_ROUTER:
        tick = arrival // TICK_PS * TICK_PS
    elif state[layout.ROUTER] == layout.PREFIX_ROUTER:
        tick = arrival
    return tick if tick > state[layout.LAST_TICK] else NONE


@kernel
def replica_to_show(state: Cells, time: int) -> int:
    """Take the snapshot of ``time``, or return a replica that first has to run up to that time."""
    replicas = state[layout.REPLICAS]
    for number in range(state[layout.NUM_REPLICAS]):
        rep = replicas + number * layout.REPLICA_COLUMNS
        if state[rep + layout.LEAP] > 0 and steps_decided_before(state, rep, time) > 0:
            return rep
    for number in range(state[layout.NUM_REPLICAS]):
        rep = replicas + number * layout.REPLICA_COLUMNS
        state[rep + layout.SEEN_WAITING] = state[rep + layout.WAIT_COUNT]
        state[rep + layout.SEEN_RUNNING] = state[rep + layout.RUN_COUNT]
        state[rep + layout.SEEN_USED] = used_blocks(state, rep)
    state[layout.LAST_TICK] = time
    return NONE


@kernel
def _count_outstanding(state: Cells, rep: int, time: int) -> None:
    req = state[rep + layout.FINISHED_HEAD]
    while req != NONE and state[req + layout.FINISH] <= time:
        state[rep + layout.OUTSTANDING] -= 1
        req = state[req + layout.NEXT_FINISHED]
    state[rep + layout.FINISHED_HEAD] = req
    if req == NONE:
        state[rep + layout.FINISHED_TAIL] = NONE


@kernel
def _score(state: Cells, rep: int, req: int) -> float:
    """Load of a replica as the router sees it; the lowest wins."""
    outstanding = float(state[rep + layout.OUTSTANDING])
    if state[layout.ROUTER] == layout.PREFIX_ROUTER:
        found, _ = match(state, rep, req)
        return outstanding - float(found) * float(1 << 32)
    if state[layout.ROUTER] == layout.VLLM_ROUTER:
        waiting = float(state[rep + layout.SEEN_WAITING])
        usage = float(state[rep + layout.SEEN_USED]) / float(state[layout.NUM_BLOCKS])
        load = max(outstanding, waiting + float(state[rep + layout.SEEN_RUNNING]))
        return load + 6.0 * waiting * max(0.0, usage - 0.5)
    return outstanding


@kernel
def route(state: Cells, req: int, time: int) -> int:
    """Row of the replica for a request that arrives at ``time``."""
    replicas = state[layout.REPLICAS]
    dp = state[layout.NUM_REPLICAS]
    if dp == 1:
        return replicas
    if state[layout.ROUTER] == layout.RECORDED_ROUTER:
        return replicas + state[req + layout.REPLICA] * layout.REPLICA_COLUMNS
    turn = state[layout.TURN]
    state[layout.TURN] = (turn + 1) % dp
    if state[layout.ROUTER] == layout.ROUND_ROBIN_ROUTER:
        return replicas + turn * layout.REPLICA_COLUMNS
    best = NONE
    best_score = 0.0
    for step in range(dp):
        rep = replicas + (turn + step) % dp * layout.REPLICA_COLUMNS
        _count_outstanding(state, rep, time)
        score = _score(state, rep, req)
        if best == NONE or score < best_score:
            best = rep
            best_score = score
    return best
