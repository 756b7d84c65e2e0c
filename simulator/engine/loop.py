"""The event loop over replicas and clients.

Every replica has proposed what it does next and knows the last decision that takes (``KEY``). The earliest of those
keys and of the known arrivals is carried out. Whatever a step causes happens after its own decision, so no decision is
ever taken without an arrival it should have seen.
"""

from typing import Final

from simulator.engine import layout
from simulator.engine.heap import pop
from simulator.engine.jit import kernel
from simulator.engine.layout import NEVER, NONE, Cells
from simulator.engine.leap import commit, propose, steps_decided_before, wait_for_output
from simulator.engine.router import TICK_PS, next_tick, route, take_snapshot
from simulator.engine.scheduler_v1 import schedule_v1
from simulator.engine.sequences import enqueue
from simulator.engine.step import announce_finish, expect_arrival

DONE: Final = 0
STUCK: Final = 1


@kernel
def start_clients(state: Cells) -> None:
    """Send the first requests of a closed loop: the whole concurrency at once, warm-up phase first."""
    if state[layout.IS_CLOSED] == 0:
        return
    warmup = state[layout.WARMUP]
    state[layout.PHASE_LEFT] = warmup
    state[layout.SEND_LIMIT] = warmup if warmup > 0 else state[layout.NUM_REQUESTS]
    state[layout.BURST_LEFT] = min(state[layout.CONCURRENCY], state[layout.SEND_LIMIT])
    for _ in range(state[layout.BURST_LEFT]):
        expect_arrival(state, state[layout.FRONTEND], NONE)


@kernel
def _request_row(state: Cells, index: int) -> int:
    return state[layout.REQUESTS] + index * layout.REQUEST_COLUMNS


@kernel
def _next_listed(state: Cells) -> int:
    """First request of the open-loop list that is not sent yet and follows no other."""
    while state[layout.NEXT_REQUEST] < state[layout.NUM_REQUESTS]:
        req = _request_row(state, state[layout.NEXT_REQUEST])
        if state[req + layout.STATUS] == layout.UNSENT and state[req + layout.THINK] == NONE:
            return req
        state[layout.NEXT_REQUEST] += 1
    return NONE


@kernel
def _send_from_slot(state: Cells, time: int) -> int:
    """Request that a free client slot sends at ``time``, or NONE; opens the measured phase after the warm-up."""
    if state[layout.BURST_LEFT] > 0:
        state[layout.BURST_LEFT] -= 1
    elif state[layout.PHASE_LEFT] > 0:
        state[layout.PHASE_LEFT] -= 1
        if state[layout.PHASE_LEFT] == 0:
            state[layout.SEND_LIMIT] = state[layout.NUM_REQUESTS]
            left = state[layout.NUM_REQUESTS] - state[layout.NEXT_REQUEST]
            for _ in range(min(state[layout.CONCURRENCY], left) - 1):
                expect_arrival(state, time, NONE)
    if state[layout.NEXT_REQUEST] >= state[layout.SEND_LIMIT]:
        return NONE
    req = _request_row(state, state[layout.NEXT_REQUEST])
    state[layout.NEXT_REQUEST] += 1
    state[req + layout.ARRIVAL] = time - state[layout.FRONTEND]
    return req


@kernel
def _rejection(state: Cells, req: int) -> int:
    """Status of a request that can never run, else 0."""
    kv = state[req + layout.PROMPT] + state[req + layout.OUTPUT] - 1
    if kv + 1 > state[layout.MAX_MODEL_LEN]:
        return layout.REJECTED_CONTEXT
    size = state[layout.BLOCK_SIZE]
    if (kv + size - 1) // size > state[layout.NUM_BLOCKS]:
        return layout.REJECTED_KV
    if state[layout.IS_CHUNKED] == 0 and kv > state[layout.MAX_TOKENS]:
        return layout.REJECTED_BUDGET
    return 0


@kernel
def _deliver(state: Cells, costs: Cells, req: int, time: int) -> None:
    """Let a request reach a replica's queue at ``time``."""
    state[req + layout.TARGET] = state[req + layout.PROMPT]
    rep = route(state, req, time)
    grp = state[rep + layout.GROUPS]
    state[req + layout.REPLICA] = state[rep + layout.NUMBER]
    state[rep + layout.OUTSTANDING] += 1
    status = _rejection(state, req)
    if status > 0:
        state[req + layout.STATUS] = status
        state[req + layout.FINISH] = time
        announce_finish(state, rep, req, time)
        return
    if state[rep + layout.KEY] == NEVER:
        enqueue(state, rep, req)
        state[rep + layout.BLOCKED] = 0
        state[rep + layout.DECISION] = max(time, state[rep + layout.END])
        state[rep + layout.KEY] = state[rep + layout.DECISION]
    elif state[rep + layout.LEAP] == 0 or state[rep + layout.WAIT_COUNT] > 0:
        enqueue(state, rep, req)
    elif state[rep + layout.RUN_COUNT] >= state[layout.MAX_SEQS] and state[rep + layout.RELEASING_HEAD] == NONE:
        enqueue(state, rep, req)
        state[rep + layout.BLOCKED] = 1
    else:
        _cut(state, rep, grp, time)
        enqueue(state, rep, req)
        state[rep + layout.BLOCKED] = 0
        propose(state, costs, rep, grp)


@kernel
def _cut(state: Cells, rep: int, grp: int, time: int) -> None:
    """Run the part of the proposed stretch that is decided before ``time``."""
    steps = steps_decided_before(state, rep, time)
    if steps > 0:
        commit(state, rep, grp, steps)


@kernel
def _take_snapshots(state: Cells, costs: Cells, time: int) -> None:
    """Show the router every replica as it stands at ``time``."""
    state[layout.LAST_TICK] = time // TICK_PS
    for number in range(state[layout.NUM_REPLICAS]):
        rep = state[layout.REPLICAS] + number * layout.REPLICA_COLUMNS
        if state[rep + layout.LEAP] > 0:
            grp = state[rep + layout.GROUPS]
            _cut(state, rep, grp, time)
            propose(state, costs, rep, grp)
        take_snapshot(state, rep)


@kernel
def _advance(state: Cells, costs: Cells, rep: int) -> bool:
    """Carry out what a replica proposed; False if it can never go on."""
    grp = state[rep + layout.GROUPS]
    if state[rep + layout.LEAP] > 0:
        commit(state, rep, grp, state[rep + layout.LEAP])
    elif not schedule_v1(state, costs, rep, grp):
        is_empty = state[rep + layout.RUN_COUNT] == 0 and state[rep + layout.BLOCKED] == 1
        if is_empty and state[rep + layout.DECISION] >= state[rep + layout.END]:
            return False
        wait_for_output(state, rep)
    propose(state, costs, rep, grp)
    return True


@kernel
def run_events(state: Cells, costs: Cells) -> int:
    """Run until nothing is left to do before the horizon; DONE, or STUCK which is a defect."""
    replicas = state[layout.REPLICAS]
    while True:
        rep = replicas
        key = state[rep + layout.KEY]
        for number in range(1, state[layout.NUM_REPLICAS]):
            other = replicas + number * layout.REPLICA_COLUMNS
            if state[other + layout.KEY] < key:
                rep = other
                key = state[other + layout.KEY]
        req = NONE
        arrival = NEVER
        if state[layout.IS_CLOSED] == 0:
            req = _next_listed(state)
            if req != NONE:
                arrival = state[req + layout.ARRIVAL] + state[layout.FRONTEND]
        is_pending = state[layout.PENDING_SIZE] > 0 and state[state[layout.PENDING]] < arrival
        if is_pending:
            arrival = state[state[layout.PENDING]]
        if min(arrival, key) >= state[layout.HORIZON]:
            return DONE
        tick = next_tick(state, arrival)
        if (arrival if tick == NONE else tick) > key:
            if not _advance(state, costs, rep):
                return STUCK
            continue
        if tick != NONE:
            _take_snapshots(state, costs, tick)
            continue
        if is_pending:
            heap = state[layout.PENDING]
            capacity = state[layout.PENDING_CAPACITY]
            req = state[heap + capacity]
            state[layout.PENDING_SIZE] = pop(state, heap, capacity, state[layout.PENDING_SIZE])
            if state[layout.IS_CLOSED] == 1:
                req = _send_from_slot(state, arrival)
                if req == NONE:
                    continue
        else:
            state[layout.NEXT_REQUEST] += 1
        _deliver(state, costs, req, arrival)
