"""Which replica a request goes to: round robin, vLLM's load score, least outstanding, longest cached prefix.

vLLM (0.33, internal load balancing) sends a request to the lowest
``max(own in flight, waiting + running) + 6 waiting max(0, kv_usage - 1/2)``; waiting, running and KV use are snapshots
taken every 100 ms, the requests in flight are the front end's own count; ties go round. A finish counts for a router
only from the moment it happens. The prefix router takes the replica with the longest cached prefix, then the least
outstanding.
"""

from simulator.engine.bounds import NONE
from simulator.engine.kernel import kernel
from simulator.engine.leap import steps_decided_before
from simulator.engine.prefix_cache import match, used_blocks
from simulator.engine.radix_cache import tokens_found
from simulator.engine.replica import Replica
from simulator.engine.request import Request
from simulator.engine.state import PREFIX_ROUTER, RECORDED_ROUTER, ROUND_ROBIN_ROUTER, TICK_PS, VLLM_ROUTER, State
from simulator.engine.tables import replica, request


@kernel
def next_tick(state: State, arrival: int) -> int:
    """Time up to which replicas must have run for an arrival to be judged, or NONE if they have.

    vLLM's score needs the last snapshot, the prefix router every replica's cache as it is at the arrival.
    """
    tick = NONE
    if state.router == VLLM_ROUTER:
        tick = arrival // TICK_PS * TICK_PS
    elif state.router == PREFIX_ROUTER:
        tick = arrival
    return tick if tick > state.last_tick_ps else NONE


@kernel
def replica_to_show(state: State, time: int) -> int:
    """Take the snapshot of ``time``, or return a replica that first has to run up to that time."""
    for number in range(state.num_replicas):
        rep = replica(state, number)
        if rep.leap_steps > 0 and steps_decided_before(state, rep, time) > 0:
            return number
    for number in range(state.num_replicas):
        rep = replica(state, number)
        rep.seen_waiting = rep.waiting.count
        rep.seen_running = rep.running.count
        rep.seen_used = used_blocks(state, rep)
    state.last_tick_ps = time
    return NONE


@kernel
def _count_outstanding(state: State, rep: Replica, time: int) -> None:
    while rep.finished.head != NONE:
        req = request(state, rep.finished.head)
        if req.finish_ps > time:
            return
        rep.outstanding -= 1
        rep.finished.head = req.next_finished
    rep.finished.tail = NONE


@kernel
def _score(state: State, rep: Replica, req: Request) -> float:
    """Load of a replica as the router sees it; the lowest wins."""
    outstanding = float(rep.outstanding)
    if state.router == PREFIX_ROUTER:
        if state.has_tree:
            return outstanding - float(tokens_found(state, rep, req)) * float(1 << 32)
        found, _ = match(state, rep, req)
        return outstanding - float(found) * float(1 << 32)
    if state.router == VLLM_ROUTER:
        waiting = float(rep.seen_waiting)
        usage = float(rep.seen_used) / float(state.num_blocks)
        load = max(outstanding, waiting + float(rep.seen_running))
        return load + 6.0 * waiting * max(0.0, usage - 0.5)
    return outstanding


@kernel
def route(state: State, req: Request, time: int) -> int:
    """Pick the replica, by its number, for a request that arrives at ``time``."""
    dp = state.num_replicas
    if dp == 1:
        return 0
    if state.router == RECORDED_ROUTER:
        return req.replica
    turn = state.turn
    state.turn = (turn + 1) % dp
    if state.router == ROUND_ROBIN_ROUTER:
        return turn
    best = NONE
    best_score = 0.0
    for step in range(dp):
        number = (turn + step) % dp
        rep = replica(state, number)
        _count_outstanding(state, rep, time)
        score = _score(state, rep, req)
        if best == NONE or score < best_score:
            best = number
            best_score = score
    return best
