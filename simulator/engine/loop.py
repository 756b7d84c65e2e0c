"""The event loop over replicas and clients.

Every replica has proposed what it does next and knows the last decision that takes (``KEY``). The earliest of those
keys and of the known arrivals is carried out. Whatever a step causes happens after its own decision, so no decision is
ever taken without an arrival it should have seen.
"""

from simulator.engine.heap import pop, push
from simulator.engine.jit import kernel
from simulator.engine.layout import (
    ARRIVAL,
    BLOCKED,
    BURST_LEFT,
    DECISION,
    END,
    FINISH,
    KEY,
    LEAP,
    LIMIT,
    NEVER,
    NEXT_REQUEST,
    NONE,
    OUTPUT,
    OUTSTANDING,
    PENDING_SIZE,
    PHASE_LEFT,
    PROMPT,
    REJECTED_BUDGET,
    REJECTED_CONTEXT,
    REJECTED_KV,
    RELEASING_HEAD,
    REPLICA,
    RUN_COUNT,
    STATUS,
    TARGET,
    UNSENT,
    WAIT_COUNT,
    Costs,
    Rules,
    State,
)
from simulator.engine.leap import commit, propose, steps_decided_before, wait_for_output
from simulator.engine.router import next_tick, route, take_snapshot
from simulator.engine.scheduler_v1 import schedule_v1
from simulator.engine.sequences import enqueue
from simulator.engine.step import announce_finish

DONE = 0
STUCK = 1


@kernel
def start_clients(state: State, rules: Rules) -> None:
    """First sends of a closed loop: the whole concurrency at once, warm-up phase first."""
    if rules.is_closed == 0:
        return
    globe = state.globe
    globe[PHASE_LEFT] = rules.warmup
    globe[LIMIT] = rules.warmup if rules.warmup > 0 else len(state.request)
    globe[BURST_LEFT] = min(rules.concurrency, globe[LIMIT])
    for _ in range(globe[BURST_LEFT]):
        globe[PENDING_SIZE] = push(
            state.pending_time, state.pending_request, globe[PENDING_SIZE], rules.frontend_ps, NONE
        )


@kernel
def _next_unsent(state: State) -> int:
    """First request of the list that is not sent yet and waits for nobody."""
    globe = state.globe
    request = state.request
    while globe[NEXT_REQUEST] < len(request):
        i = globe[NEXT_REQUEST]
        if request[i, STATUS] == UNSENT and request[i, ARRIVAL] != NONE:
            return i
        globe[NEXT_REQUEST] += 1
    return NONE


@kernel
def _send_from_slot(state: State, rules: Rules, time: int) -> int:
    """Request a free client slot sends at ``time``, or NONE; opens the measured phase when the warm-up is over."""
    globe = state.globe
    if globe[BURST_LEFT] > 0:
        globe[BURST_LEFT] -= 1
    elif globe[PHASE_LEFT] > 0:
        globe[PHASE_LEFT] -= 1
        if globe[PHASE_LEFT] == 0:
            globe[LIMIT] = len(state.request)
            for _ in range(min(rules.concurrency, globe[LIMIT] - globe[NEXT_REQUEST]) - 1):
                globe[PENDING_SIZE] = push(state.pending_time, state.pending_request, globe[PENDING_SIZE], time, NONE)
    if globe[NEXT_REQUEST] >= globe[LIMIT]:
        return NONE
    i = globe[NEXT_REQUEST]
    globe[NEXT_REQUEST] += 1
    state.request[i, ARRIVAL] = time - rules.frontend_ps
    return i


@kernel
def _rejection(state: State, rules: Rules, i: int) -> int:
    """Status of a request that can never run, else 0."""
    prompt = state.request[i, PROMPT]
    kv = prompt + state.request[i, OUTPUT] - 1
    if kv + 1 > rules.max_model_len:
        return REJECTED_CONTEXT
    if (kv + rules.block_size - 1) // rules.block_size > rules.num_blocks:
        return REJECTED_KV
    if rules.is_chunked == 0 and kv > rules.max_tokens:
        return REJECTED_BUDGET
    return 0


@kernel
def _deliver(state: State, rules: Rules, costs: Costs, i: int, time: int) -> None:
    """Request ``i`` reaches a replica's queue at ``time``."""
    request = state.request
    r = route(state, rules, i, time)
    request[i, REPLICA] = r
    status = _rejection(state, rules, i)
    rep = state.replica[r]
    rep[OUTSTANDING] += 1
    if status > 0:
        request[i, STATUS] = status
        request[i, FINISH] = time
        announce_finish(state, rules, r, i, time)
        return
    request[i, TARGET] = request[i, PROMPT]
    if rep[KEY] == NEVER:
        enqueue(state, r, i)
        rep[BLOCKED] = 0
        rep[DECISION] = max(time, rep[END])
        rep[KEY] = rep[DECISION]
    elif rep[LEAP] == 0 or rep[WAIT_COUNT] > 0:
        enqueue(state, r, i)
    elif rep[RUN_COUNT] >= rules.max_seqs and rep[RELEASING_HEAD] == NONE:
        enqueue(state, r, i)
        rep[BLOCKED] = 1
    else:
        steps = steps_decided_before(state, rules, r, time)
        if steps > 0:
            commit(state, rules, r, steps)
        enqueue(state, r, i)
        rep[BLOCKED] = 0
        propose(state, rules, costs, r)


@kernel
def _advance(state: State, rules: Rules, costs: Costs, r: int) -> bool:
    """Carry out what replica ``r`` proposed; False if it can never go on."""
    rep = state.replica[r]
    if rep[LEAP] > 0:
        commit(state, rules, r, rep[LEAP])
    elif not schedule_v1(state, rules, costs, r):
        if rep[RUN_COUNT] == 0 and rep[BLOCKED] == 1 and rep[DECISION] >= rep[END]:
            return False
        wait_for_output(state, rules, r)
    propose(state, rules, costs, r)
    return True


@kernel
def run_events(state: State, rules: Rules, costs: Costs) -> int:
    """Run until nothing is left to do before ``rules.horizon_ps``; DONE, or STUCK which is a defect."""
    globe = state.globe
    dp = len(state.replica)
    while True:
        r = 0
        key = state.replica[0, KEY]
        for q in range(1, dp):
            if state.replica[q, KEY] < key:
                r = q
                key = state.replica[q, KEY]
        i = NONE
        arrival = NEVER
        if rules.is_closed == 0:
            i = _next_unsent(state)
            if i != NONE:
                arrival = state.request[i, ARRIVAL] + rules.frontend_ps
        is_pending = globe[PENDING_SIZE] > 0 and state.pending_time[0] < arrival
        if is_pending:
            arrival = state.pending_time[0]
        if min(arrival, key) >= rules.horizon_ps:
            return DONE
        tick = next_tick(state, rules, arrival)
        if (tick if tick >= 0 else arrival) > key:
            if not _advance(state, rules, costs, r):
                return STUCK
            continue
        if tick >= 0:
            take_snapshot(state, rules, costs, tick)
            continue
        if is_pending:
            i = state.pending_request[0]
            globe[PENDING_SIZE] = pop(state.pending_time, state.pending_request, globe[PENDING_SIZE])
            if rules.is_closed == 1:
                i = _send_from_slot(state, rules, arrival)
                if i == NONE:
                    continue
        else:
            globe[NEXT_REQUEST] += 1
        _deliver(state, rules, costs, i, arrival)
