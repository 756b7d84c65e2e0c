"""The event loop over replicas and clients.

Every replica has proposed what it does next and knows the last decision that takes (``KEY``). The earliest of those
keys and of the known arrivals is carried out. Whatever a step causes happens after its own decision, so no decision is
ever taken without an arrival it should have seen. A replica that is due for a full scheduling pass is handed to the
caller, which knows the policy.
"""

from typing import Final

from simulator.engine import layout
from simulator.engine.heap import pop
from simulator.engine.jit import kernel
from simulator.engine.layout import NEVER, NONE, Cells
from simulator.engine.leap import commit, propose, steps_decided_before
from simulator.engine.router import next_tick, replica_to_show, route
from simulator.engine.sequences import enqueue, is_given_up
from simulator.engine.step import announce_finish, expect_arrival, later

DONE: Final = -1
PAUSED: Final = -3


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
def _passes_frontend(state: Cells, time: int, sent: int) -> bool:
    """Whether what a slot sent at ``sent`` arrives at ``time``; the frontend may keep it until it has passed others."""
    out = max(time, later(state[layout.FRONTEND_LAST], state[layout.FRONTEND_GAP]))
    state[layout.FRONTEND_LAST] = out
    if out == time:
        return True
    expect_arrival(state, out, -2 - sent)
    return False


@kernel
def _send_from_slot(state: Cells, time: int, sent: int) -> int:
    """Request that a free client slot sent at ``sent`` and that arrives at ``time``, or NONE if there is none left.

    Opens the measured phase after the warm-up.
    """
    if state[layout.BURST_LEFT] > 0:
        state[layout.BURST_LEFT] -= 1
    elif state[layout.PHASE_LEFT] > 0:
        state[layout.PHASE_LEFT] -= 1
        if state[layout.PHASE_LEFT] == 0:
            state[layout.SEND_LIMIT] = state[layout.NUM_REQUESTS]
            left = state[layout.NUM_REQUESTS] - state[layout.NEXT_REQUEST]
            for _ in range(min(state[layout.CONCURRENCY], left) - 1):
                expect_arrival(state, time, sent)
    if state[layout.NEXT_REQUEST] >= state[layout.SEND_LIMIT]:
        return NONE
    req = _request_row(state, state[layout.NEXT_REQUEST])
    state[layout.NEXT_REQUEST] += 1
    state[req + layout.ARRIVAL] = sent
    return req


@kernel
def _due_request(state: Cells) -> int:
    """Row of the next request of a capped loop that a free slot will send once it is due, or NONE."""
    if state[layout.FREE_SLOTS] == 0 or state[layout.NEXT_DUE] >= state[layout.NUM_REQUESTS]:
        return NONE
    return _request_row(state, state[layout.NEXT_DUE])


@kernel
def _takes_next(state: Cells, freed: int) -> bool:
    """Whether a slot of a capped loop that is free from ``freed`` on has a request due; it waits for one if not."""
    index = state[layout.NEXT_DUE]
    if index < state[layout.NUM_REQUESTS] and state[_request_row(state, index) + layout.ARRIVAL] <= freed:
        state[layout.NEXT_DUE] += 1
        return True
    state[layout.FREE_SLOTS] += 1
    return False


@kernel
def _rejection(state: Cells, req: int, time: int) -> int:
    """Status of a request that arrives at ``time`` and can never run, else 0."""
    if state[layout.TIMEOUT] > 0 and time - state[req + layout.ARRIVAL] >= state[layout.TIMEOUT]:
        return layout.TIMED_OUT
    kv = state[req + layout.PROMPT] + state[req + layout.OUTPUT] - 1
    if kv + 1 > state[layout.MAX_MODEL_LEN]:
        return layout.REJECTED_CONTEXT
    size = state[layout.BLOCK_SIZE]
    slots = kv + state[layout.SPARE_TOKENS]
    if state[layout.DRAFTS] > 0:
        slots = min(slots, state[layout.MAX_MODEL_LEN])
    if (slots + size - 1) // size > state[layout.NUM_BLOCKS]:
        return layout.REJECTED_KV
    if state[layout.IS_CHUNKED] == 0 and kv > state[layout.MAX_TOKENS]:
        return layout.REJECTED_BUDGET
    return 0


@kernel
def _reject(state: Cells, rep: int, req: int, time: int) -> bool:
    """Answer a request that can never run at once; False if it can run."""
    status = _rejection(state, req, time)
    if status == 0:
        return False
    state[req + layout.STATUS] = status
    state[req + layout.FINISH] = time
    announce_finish(state, rep, req, time)
    return True


@kernel
def _earliest(state: Cells) -> int:
    """Find the replica whose proposal ends first."""
    best = state[layout.REPLICAS]
    for number in range(1, state[layout.NUM_REPLICAS]):
        rep = state[layout.REPLICAS] + number * layout.REPLICA_COLUMNS
        if state[rep + layout.KEY] < state[best + layout.KEY]:
            best = rep
    return best


@kernel
def _next_arrival(state: Cells) -> int:
    """Time of the next known arrival, or NEVER."""
    arrival = NEVER
    if state[layout.IS_CLOSED] == 0:
        req = _next_listed(state)
        if req != NONE:
            arrival = state[req + layout.ARRIVAL] + state[layout.FRONTEND]
    else:
        req = _due_request(state)
        if req != NONE:
            arrival = state[req + layout.ARRIVAL] + state[layout.FRONTEND]
    if state[layout.PENDING_SIZE] > 0:
        arrival = min(arrival, state[state[layout.PENDING]])
    return arrival


@kernel
def _next_deadline(state: Cells) -> int:
    """Time at which the client gives up the oldest request under way, or NEVER: requests are sent in their order."""
    if state[layout.TIMEOUT] == 0:
        return NEVER
    while state[layout.NEXT_DEADLINE] < state[layout.NEXT_REQUEST]:
        req = _request_row(state, state[layout.NEXT_DEADLINE])
        status = state[req + layout.STATUS]
        if status in (layout.WAITING, layout.PREFILLING, layout.DECODING):
            return later(state[req + layout.ARRIVAL], state[layout.TIMEOUT])
        state[layout.NEXT_DEADLINE] += 1
    return NEVER


@kernel
def _pass_deadline(state: Cells, costs: Cells, time: int) -> None:
    """Let the client give up the oldest request at ``time``; what was decided before that has run."""
    req = _request_row(state, state[layout.NEXT_DEADLINE])
    state[layout.NEXT_DEADLINE] += 1
    rep = state[layout.REPLICAS] + state[req + layout.REPLICA] * layout.REPLICA_COLUMNS
    grp = state[rep + layout.GROUPS]
    has_proposal = state[rep + layout.LEAP] > 0
    if has_proposal:
        steps = steps_decided_before(state, rep, time)
        if steps > 0:
            commit(state, rep, grp, steps)
    if is_given_up(state, rep, req):
        state[req + layout.FINISH] = time
        announce_finish(state, rep, req, time)
    if has_proposal:
        propose(state, costs, rep, grp)


@kernel
def _take_arrival(state: Cells, time: int) -> int:
    """Request that arrives at ``time``, or NONE if a client slot has nothing to send or the frontend keeps it.

    Listed ones come first.
    """
    if state[layout.IS_CLOSED] == 0:
        req = _next_listed(state)
        if req != NONE and state[req + layout.ARRIVAL] + state[layout.FRONTEND] == time:
            state[layout.NEXT_REQUEST] += 1
            return req
    else:
        req = _due_request(state)
        if req != NONE and state[req + layout.ARRIVAL] + state[layout.FRONTEND] == time:
            state[layout.FREE_SLOTS] -= 1
            state[layout.NEXT_DUE] += 1
            due = state[req + layout.ARRIVAL]
            return _send_from_slot(state, time, due) if _passes_frontend(state, time, due) else NONE
    heap = state[layout.PENDING]
    capacity = state[layout.PENDING_CAPACITY]
    entry = state[heap + capacity]
    state[layout.PENDING_SIZE] = pop(state, heap, capacity, state[layout.PENDING_SIZE])
    if state[layout.IS_CLOSED] == 0:
        return entry
    if entry < 0:
        return _send_from_slot(state, time, -2 - entry)
    if state[layout.IS_CAPPED] == 1 and not _takes_next(state, entry):
        return NONE
    return _send_from_slot(state, time, entry) if _passes_frontend(state, time, entry) else NONE


@kernel
def _join_queue(state: Cells, rep: int, req: int, time: int) -> bool:
    """Put a request into a replica's queue; True if the replica has to propose anew."""
    is_first = state[rep + layout.WAIT_COUNT] == 0
    enqueue(state, rep, req)
    if state[rep + layout.KEY] == NEVER:
        state[rep + layout.DECISION] = max(time, state[rep + layout.END])
        state[rep + layout.KEY] = state[rep + layout.DECISION]
    if not is_first:
        return False
    is_full = state[rep + layout.RUN_COUNT] >= state[layout.MAX_SEQS] and state[rep + layout.RELEASING_HEAD] == NONE
    state[rep + layout.BLOCKED] = 1 if is_full else 0
    return state[rep + layout.LEAP] > 0 and not is_full


@kernel
def run_to_next_pass(state: Cells, costs: Cells) -> int:
    """Run until a replica is due for a full scheduling pass; returns its row.

    DONE if nothing is left before the horizon; PAUSED if the budget of turns is used up: go on with a new one.
    """
    while state[layout.BUDGET] > 0:
        state[layout.BUDGET] -= 1
        rep = _earliest(state)
        arrival = _next_arrival(state)
        key = state[rep + layout.KEY]
        if min(arrival, key) >= state[layout.HORIZON]:
            state[layout.NEXT_TIME] = min(arrival, key)
            return DONE
        tick = next_tick(state, arrival)
        deadline = _next_deadline(state)
        if deadline <= min(arrival if tick == NONE else tick, key) and deadline != NEVER:
            _pass_deadline(state, costs, deadline)
            continue
        if (arrival if tick == NONE else tick) > key:
            steps = state[rep + layout.LEAP]
            if steps == 0:
                return rep
        elif tick != NONE:
            rep = replica_to_show(state, tick)
            if rep == NONE:
                continue
            steps = steps_decided_before(state, rep, tick)
        else:
            req = _take_arrival(state, arrival)
            if req == NONE:
                continue
            state[req + layout.TARGET] = state[req + layout.PROMPT]
            rep = route(state, req, arrival)
            state[req + layout.REPLICA] = state[rep + layout.NUMBER]
            state[rep + layout.OUTSTANDING] += 1
            if _reject(state, rep, req, arrival) or not _join_queue(state, rep, req, arrival):
                continue
            steps = steps_decided_before(state, rep, arrival)
        grp = state[rep + layout.GROUPS]
        if steps > 0:
            commit(state, rep, grp, steps)
        propose(state, costs, rep, grp)
    return PAUSED
