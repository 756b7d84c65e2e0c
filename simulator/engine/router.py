"""Which replica a request goes to: round robin, vLLM's load score, least outstanding, longest cached prefix.

vLLM (0.33, internal load balancing) sends a request to the lowest
``max(own in flight, waiting + running) + 6 waiting max(0, kv_usage - 1/2)``; waiting, running and KV use are snapshots
taken every 100 ms, the requests in flight are the front end's own count; ties go round. A finish counts for a router
only from the moment it happens.
"""

from simulator.engine.jit import kernel
from simulator.engine.layout import (
    FINISH,
    FINISHED_HEAD,
    FINISHED_TAIL,
    KEY,
    LAST_TICK,
    LEAP,
    LEAST_OUTSTANDING_ROUTER,
    NEXT_FINISHED,
    NONE,
    OUTSTANDING,
    PREFIX_ROUTER,
    RECORDED_ROUTER,
    REPLICA,
    ROUND_ROBIN,
    RUN_COUNT,
    SEEN_RUNNING,
    SEEN_USED,
    SEEN_WAITING,
    VLLM_ROUTER,
    WAIT_COUNT,
    Costs,
    Rules,
    State,
)
from simulator.engine.leap import commit, propose, steps_decided_before
from simulator.engine.prefix_cache import match
from simulator.engine.step import free_blocks

TICK_PS = 100_000_000_000


@kernel
def next_tick(state: State, rules: Rules, arrival: int) -> int:
    """Time of the snapshot a request arriving at ``arrival`` is judged by, or -1 if it was taken already."""
    if rules.router != VLLM_ROUTER:
        return -1
    tick = arrival // TICK_PS
    return tick * TICK_PS if tick > state.globe[LAST_TICK] else -1


@kernel
def take_snapshot(state: State, rules: Rules, costs: Costs, time: int) -> None:
    """Record what every replica has told the front end by ``time``."""
    state.globe[LAST_TICK] = time // TICK_PS
    for r in range(len(state.replica)):
        rep = state.replica[r]
        if rep[LEAP] > 0 and rep[KEY] >= time:
            steps = steps_decided_before(state, rules, r, time)
            if steps > 0:
                commit(state, rules, r, steps)
                propose(state, rules, costs, r)
        rep[SEEN_WAITING] = rep[WAIT_COUNT]
        rep[SEEN_RUNNING] = rep[RUN_COUNT]
        rep[SEEN_USED] = rules.num_blocks - free_blocks(state, rules, r)


@kernel
def _count_outstanding(state: State, r: int, time: int) -> None:
    rep = state.replica[r]
    i = rep[FINISHED_HEAD]
    while i != NONE and state.request[i, FINISH] <= time:
        rep[OUTSTANDING] -= 1
        i = state.request[i, NEXT_FINISHED]
    rep[FINISHED_HEAD] = i
    if i == NONE:
        rep[FINISHED_TAIL] = NONE


@kernel
def route(state: State, rules: Rules, i: int, time: int) -> int:
    """Replica for request ``i`` that arrives at ``time``."""
    dp = len(state.replica)
    if dp == 1:
        return 0
    if rules.router == RECORDED_ROUTER:
        return state.request[i, REPLICA]
    turn = state.globe[ROUND_ROBIN]
    state.globe[ROUND_ROBIN] = (turn + 1) % dp
    if rules.router < VLLM_ROUTER:
        return turn
    best = -1
    best_score = 0.0
    for step in range(dp):
        r = (turn + step) % dp
        _count_outstanding(state, r, time)
        rep = state.replica[r]
        score = float(rep[OUTSTANDING])
        if rules.router == VLLM_ROUTER:
            usage = float(rep[SEEN_USED]) / float(rules.num_blocks)
            score = max(score, float(rep[SEEN_WAITING] + rep[SEEN_RUNNING]))
            score += 6.0 * float(rep[SEEN_WAITING]) * max(0.0, usage - 0.5)
        elif rules.router == PREFIX_ROUTER:
            found, _ = match(state, rules, r, i)
            score -= float(found) * float(1 << 32)
        if best < 0 or score < best_score:
            best = r
            best_score = score
    return best
