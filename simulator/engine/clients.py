"""What clients send and when: requests at times of their own, after an answer, or from slots that wait for answers.

An open loop is a list of requests in order of arrival. In a session a request follows the answer to another one. A
closed loop has slots, each of which sends the next request when its last one is answered; a capped loop has slots too,
but its requests have times before which none is sent. What an answer causes waits in the heap ``State.pending`` until
its time has come. The frontend delays every arrival by a constant, and lets those of slots pass one by one.
"""

from simulator.engine.bounds import CLOCK_END, NEVER, NONE
from simulator.engine.heap import first_key, first_payload, pop, push
from simulator.engine.kernel import kernel
from simulator.engine.ordered_heap import pop_in_order
from simulator.engine.pool_messages import SEND, offer_to_decode, tell_decode
from simulator.engine.replica import Replica
from simulator.engine.request import UNSENT, Request
from simulator.engine.state import DECODE_POOL, PREFILL_POOL, State
from simulator.engine.tables import list_at, peer, request


@kernel
def later(time: int, pause: int) -> int:
    """Add ``pause`` to ``time``; what lies beyond the clock's end lies at its end, where nothing happens any more."""
    return time + pause if pause < CLOCK_END - time else max(time, CLOCK_END)


@kernel
def _tell_client(state: State, req: Request, time: int) -> None:
    """Tell the client that a request was answered at ``time``.

    What it sends in return is seen strictly later: it was not there when the next decision was taken.
    """
    if state.is_closed:
        push(state, state.pending, time + max(state.frontend_ps, 1), time)
    at = req.first_child
    while at != NONE:
        child = request(state, at)
        child.arrival_ps = later(time, child.think_ps)
        push(state, state.pending, later(time, max(child.think_ps + state.frontend_ps, 1)), at)
        at = child.next_child


@kernel
def tell_router(state: State, rep: Replica, req: Request) -> None:
    """Let the router know of a request that is over, once its time has come."""
    req.next_finished = NONE
    if rep.finished.head == NONE:
        rep.finished.head = req.number
    else:
        request(state, rep.finished.tail).next_finished = req.number
    rep.finished.tail = req.number


@kernel
def announce_finish(state: State, rep: Replica, req: Request, time: int) -> None:
    """Tell client and router that a request was answered at ``time``; of two pools the client is the first one's."""
    tell_router(state, rep, req)
    if state.pool != DECODE_POOL:
        _tell_client(state, req, time)
        return
    first = peer(state, 0)
    _tell_client(first, request(first, req.number), time)
    if first.pending.size > 0:
        state.horizon_ps = min(state.horizon_ps, first_key(first, first.pending))


@kernel
def announce_prompt(state: State, rep: Replica, req: Request, time: int) -> None:
    """Tell the decode pool that a prompt is computed at ``time``."""
    tell_router(state, rep, req)
    if state.offers_first:
        tell_decode(state, time, req.number, SEND)
    else:
        offer_to_decode(state, later(time, state.handover_ps), req.number)


@kernel
def announce_output(state: State, rep: Replica, req: Request, time: int) -> None:
    """Tell whoever waits for it that a request has all its tokens at ``time``."""
    if state.pool == PREFILL_POOL:
        announce_prompt(state, rep, req, time)
    else:
        announce_finish(state, rep, req, time)


@kernel
def _next_listed(state: State) -> int:
    """Index of the first request of the open-loop list that is not sent yet and follows no other, or NONE."""
    while state.next_request < state.num_requests:
        req = request(state, state.next_request)
        if req.status == UNSENT and req.think_ps == NONE:
            return state.next_request
        state.next_request += 1
    return NONE


@kernel
def _next_due(state: State) -> int:
    """Index of the next request of a capped loop that a free slot will send once it is due, or NONE."""
    return NONE if state.free_slots == 0 or state.next_due >= state.num_requests else state.next_due


@kernel
def _next_timed(state: State) -> int:
    """Index of the next request that arrives at a time of its own, or NONE."""
    return _next_due(state) if state.is_closed else _next_listed(state)


@kernel
def next_arrival(state: State) -> int:
    """Time of the next known arrival, or NEVER."""
    index = _next_timed(state)
    arrival = NEVER if index == NONE else request(state, index).arrival_ps + state.frontend_ps
    if state.pending.size > 0:
        arrival = min(arrival, first_key(state, state.pending))
    return arrival


@kernel
def _passes_frontend(state: State, time: int, sent: int) -> bool:
    """Whether what a slot sends at ``sent`` arrives at ``time``.

    The client may send it later, since it prepares one request after the other, and the frontend may keep it until it
    has passed others.
    """
    out = time
    if state.client_gap_ps > 0:
        sent = max(sent, later(state.client_last_ps, state.client_gap_ps))
        state.client_last_ps = sent
        out = max(out, later(sent, state.frontend_ps))
    out = max(out, later(state.frontend_last_ps, state.frontend_gap_ps))
    state.frontend_last_ps = out
    if out == time:
        return True
    push(state, state.pending, out, -2 - sent)
    return False


@kernel
def _send_from_slot(state: State, time: int, sent: int) -> int:
    """Index of the request a free slot sent at ``sent`` and that arrives at ``time``, or NONE if there is none left.

    Opens the measured phase after the warm-up.
    """
    if state.burst_left > 0:
        state.burst_left -= 1
    elif state.phase_left > 0:
        state.phase_left -= 1
        if state.phase_left == 0:
            state.send_limit = state.num_requests
            left = state.num_requests - state.next_request
            starts = list_at(state, state.slot_starts)
            for slot in range(1, min(state.concurrency, left)):
                push(state, state.pending, later(time, starts[slot]), later(sent, starts[slot]))
    index = state.next_request
    if index >= state.send_limit:
        return NONE
    state.next_request += 1
    request(state, index).arrival_ps = sent
    return index


@kernel
def _takes_next(state: State, freed: int) -> bool:
    """Whether a slot of a capped loop that is free from ``freed`` on has a request due; it waits for one if not."""
    if state.next_due < state.num_requests and request(state, state.next_due).arrival_ps <= freed:
        state.next_due += 1
        return True
    state.free_slots += 1
    return False


@kernel
def take_arrival(state: State, time: int) -> int:
    """Index of the request that arrives at ``time``, or NONE if a slot has nothing to send or the frontend keeps it.

    Those with a time of their own come first.
    """
    index = _next_timed(state)
    if index != NONE and request(state, index).arrival_ps + state.frontend_ps == time:
        if not state.is_closed:
            state.next_request += 1
            return index
        state.free_slots -= 1
        state.next_due += 1
        due = request(state, index).arrival_ps
        return _send_from_slot(state, time, due) if _passes_frontend(state, time, due) else NONE
    if state.pool == DECODE_POOL:
        return pop_in_order(state, state.pending)
    entry = first_payload(state, state.pending)
    pop(state, state.pending)
    if not state.is_closed:
        return entry
    if entry < 0:
        return _send_from_slot(state, time, -2 - entry)
    if state.is_capped and not _takes_next(state, entry):
        return NONE
    return _send_from_slot(state, time, entry) if _passes_frontend(state, time, entry) else NONE
