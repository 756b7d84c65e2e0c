"""The event loop: which replica acts next, and what an arrival does to the one it is sent to.

Every replica has proposed what it does next if nothing arrives: a scheduling pass, or a leap over some decode steps.
``Replica.key_ps`` is the time of the last decision that the proposal takes. A turn of the loop carries out whatever has
the earliest time, a proposal or an arrival. That is exact: a step can only cause things that happen after the decision
to run it (an answer, hence the next request of its client), so when a proposal is carried out, every arrival before
its last decision is known already. An arrival before that cuts the proposal short: the steps decided by then have run,
the rest is proposed again. A scheduling pass is left to the caller, which knows the policy.
"""

from typing import Final

from simulator.engine.blocks import blocks_for
from simulator.engine.bounds import DONE, NEVER, NONE, PAUSED
from simulator.engine.clients import announce_finish, later, next_arrival, take_arrival, tell_router
from simulator.engine.commit import commit
from simulator.engine.costs import Costs
from simulator.engine.heap import first_key
from simulator.engine.kernel import kernel
from simulator.engine.leap import blocks_needed, propose, steps_decided_before
from simulator.engine.ordered_heap import pop_in_order
from simulator.engine.pool_messages import SEND, SENT, START, offer_to_decode, tell_prefill
from simulator.engine.prefix_cache import free_blocks
from simulator.engine.received import blocks_for_offer, offer, send_kv
from simulator.engine.replica import Replica
from simulator.engine.request import (
    DECODING,
    FINISHED,
    OFFERED,
    PREFILLING,
    REJECTED_BUDGET,
    REJECTED_CONTEXT,
    REJECTED_KV,
    SENDING,
    TIMED_OUT,
    UNSEEN,
    WAITING,
    Request,
)
from simulator.engine.router import next_tick, replica_to_show, route
from simulator.engine.sequences import enqueue, enqueue_behind_received, free_sent, is_given_up, keep_unseen
from simulator.engine.state import ALONE, DECODE_POOL, PREFILL_POOL, State
from simulator.engine.tables import group, peer, replica, request

# Of its KV SGLang leaves these beside the longest prompt and answer; longer answers it cuts (``max_req_len``).
_SGLANG_SPARE_TOKENS: Final = 2


@kernel
def _rejection(state: State, req: Request, time: int) -> int:
    """Status of a request that arrives at ``time`` and can never run, else 0."""
    if state.timeout_ps > 0 and time - req.arrival_ps >= state.timeout_ps:
        return TIMED_OUT
    kv = req.prompt + req.output - 1
    if kv + 1 > state.max_model_len:
        return REJECTED_CONTEXT
    slots = kv + state.spare_tokens
    if state.drafts > 0:
        slots = min(slots, state.max_model_len)
    if blocks_for(state, slots) > state.num_blocks:
        return REJECTED_KV
    if state.is_sglang and kv + 1 > state.num_blocks * state.block_size - _SGLANG_SPARE_TOKENS:
        return REJECTED_KV
    if not state.is_chunked and kv > state.max_tokens:
        return REJECTED_BUDGET
    return 0


@kernel
def _reject(state: State, rep: Replica, req: Request, time: int) -> bool:
    """Answer a request that can never run at once; False if it can run."""
    status = _rejection(state, req, time)
    if status == 0:
        return False
    req.status = status
    req.finish_ps = time
    announce_finish(state, rep, req, time)
    if state.pool == DECODE_POOL:
        _cancel_prompt(state, req, time)
    return True


@kernel
def _cancel_prompt(state: State, req: Request, time: int) -> None:
    """Let the prefill pool forget a request that the decode pool cannot run, and free its blocks."""
    if not state.offers_first:
        tell_prefill(state, time, req.number, SENT)
        return
    first = peer(state, 0)
    prompt = request(first, req.number)
    prompt.status = req.status
    prompt.finish_ps = time
    tell_router(first, replica(first, prompt.replica), prompt)


@kernel
def _earliest(state: State) -> Replica:
    """Find the replica whose proposal ends first."""
    best = replica(state, 0)
    for number in range(1, state.num_replicas):
        rep = replica(state, number)
        if rep.key_ps < best.key_ps:
            best = rep
    return best


@kernel
def _next_deadline(state: State) -> int:
    """Time at which the client gives up the oldest request under way, or NEVER: requests are sent in their order."""
    if state.timeout_ps == 0:
        return NEVER
    while state.next_deadline < state.next_request:
        req = request(state, state.next_deadline)
        if req.status in (UNSEEN, WAITING, PREFILLING, DECODING):
            return later(req.arrival_ps, state.timeout_ps)
        state.next_deadline += 1
    return NEVER


@kernel
def _cut_short(state: State, rep: Replica, time: int) -> None:
    """Run the steps of a proposed leap that are decided before ``time``."""
    steps = steps_decided_before(state, rep, time)
    if steps > 0:
        commit(state, rep, group(state, rep.first_group), steps)


@kernel
def _pass_deadline(state: State, costs: Costs, time: int) -> None:
    """Let the client give up the oldest request at ``time``; what was decided before that has run."""
    req = request(state, state.next_deadline)
    state.next_deadline += 1
    rep = replica(state, req.replica)
    has_proposal = rep.leap_steps > 0
    if has_proposal:
        _cut_short(state, rep, time)
    if is_given_up(state, rep, req):
        req.finish_ps = time
        announce_finish(state, rep, req, time)
    if has_proposal:
        propose(state, costs, rep, group(state, rep.first_group))


@kernel
def _join_queue(state: State, rep: Replica, req: Request, time: int) -> bool:
    """Put a request into a replica's queue; True if the replica has to propose anew."""
    is_first = rep.waiting.count == 0
    if state.pool == DECODE_POOL:
        is_first = is_first or request(state, rep.waiting.head).remote == 0
        req.status = WAITING
        enqueue_behind_received(state, rep, req)
        rep.is_blocked = rep.is_blocked and not is_first
    elif state.recv_interval > 1:
        is_first = rep.unseen.count == 0
        keep_unseen(state, rep, req)
    else:
        enqueue(state, rep, req)
    if rep.key_ps == NEVER:
        rep.decision_ps = max(time, rep.end_ps)
        rep.key_ps = rep.decision_ps
    if not is_first:
        return False
    if state.recv_interval > 1 or state.is_sglang:
        return rep.leap_steps > 0
    rep.is_blocked = rep.running.count >= state.max_seqs and rep.releasing.head == NONE
    if state.passes_first_token and req.output == 1:
        rep.is_blocked = False  # it needs no seat
    return rep.leap_steps > 0 and not rep.is_blocked


@kernel
def _arrive(state: State, costs: Costs, time: int) -> None:
    """Let what arrives at ``time`` join the queue of the replica it is sent to."""
    index = take_arrival(state, time)
    if index == NONE:
        return
    req = request(state, index)
    req.target = req.prompt
    rep = replica(state, route(state, req, time))
    req.replica = rep.number
    rep.outstanding += 1
    if _reject(state, rep, req, time):
        return
    if state.pool == DECODE_POOL:
        _offer(state, costs, rep, req, time)
    elif state.offers_first:
        req.status = OFFERED
        offer_to_decode(state, time, req.number)
    else:
        _queue(state, costs, rep, req, time)


@kernel
def _offer(state: State, costs: Costs, rep: Replica, req: Request, time: int) -> None:
    """Offer a request to a replica; it sees the blocks that steps decided before ``time`` have left."""
    grp = group(state, rep.first_group)
    has_proposal = rep.leap_steps > 0
    if has_proposal:
        # With enough for the whole leap as well it makes no difference how much of it has run.
        needed = blocks_for_offer(state, rep, req) + blocks_needed(state, grp, rep.leap_steps)
        has_proposal = needed > free_blocks(state, rep)
    if has_proposal:
        _cut_short(state, rep, time)
    offer(state, rep, req, time)
    if has_proposal:
        propose(state, costs, rep, grp)


@kernel
def _queue(state: State, costs: Costs, rep: Replica, req: Request, time: int) -> None:
    """Put a request into a replica's queue; what was proposed beyond ``time`` is proposed anew where that matters."""
    if _join_queue(state, rep, req, time):
        _cut_short(state, rep, time)
        propose(state, costs, rep, group(state, rep.first_group))


@kernel
def _next_message(state: State) -> int:
    """Time of the next message from the other of two pools, or NEVER."""
    if state.pool == ALONE or state.transfers.size == 0:
        return NEVER
    return first_key(state, state.transfers)


@kernel
def _see_sent(state: State, req: Request, time: int) -> None:
    """Free the blocks of a prompt whose KV has left, and let who waits for blocks go on."""
    req.remote = 1
    if req.status != SENDING:
        return  # its own scheduler has not let go of it yet, or it was preempted meanwhile
    rep = replica(state, req.replica)
    free_sent(state, rep, req)
    req.status = FINISHED
    rep.sending -= 1
    rep.is_blocked = False
    if rep.key_ps == NEVER and rep.waiting.count > 0:
        rep.decision_ps = max(time, rep.end_ps)
        rep.key_ps = rep.decision_ps


@kernel
def _take_message(state: State, costs: Costs, time: int) -> None:
    """Do what the other pool asks for at ``time``."""
    entry = pop_in_order(state, state.transfers)
    req = request(state, entry >> 1)
    event = entry & 1
    if state.pool == PREFILL_POOL:
        if event == START:
            _queue(state, costs, replica(state, req.replica), req, time)
        else:
            _see_sent(state, req, time)
    elif event == SEND:
        send_kv(state, req, time)
    else:
        rep = replica(state, req.replica)
        rep.receiving -= 1
        req.remote = req.prompt
        _queue(state, costs, rep, req, time)


@kernel
def next_time(state: State) -> int:
    """Time of what comes next in a state, or NEVER."""
    return min(_earliest(state).key_ps, next_arrival(state), _next_message(state))


@kernel
def run_to_next_pass(state: State, costs: Costs) -> int:
    """Run until a replica is due for a full scheduling pass; returns its number.

    DONE if nothing is left before the horizon; PAUSED if the budget of turns is used up: go on with a new one.
    """
    while state.budget > 0:
        state.budget -= 1
        rep = _earliest(state)
        key = rep.key_ps
        arrival = next_arrival(state)
        message = _next_message(state)
        if min(arrival, key, message) >= state.horizon_ps:
            state.next_time_ps = min(arrival, key, message)
            return DONE
        if message <= min(arrival, key) and message != NEVER:
            _take_message(state, costs, message)
            continue
        tick = next_tick(state, arrival)
        event = arrival if tick == NONE else tick
        deadline = _next_deadline(state)
        if deadline <= min(event, key) and deadline != NEVER:
            _pass_deadline(state, costs, deadline)
            continue
        if event > key:
            if rep.leap_steps == 0:
                return rep.number
            commit(state, rep, group(state, rep.first_group), rep.leap_steps)
            propose(state, costs, rep, group(state, rep.first_group))
        elif tick != NONE:
            number = replica_to_show(state, tick)
            if number != NONE:
                rep = replica(state, number)
                _cut_short(state, rep, tick)
                propose(state, costs, rep, group(state, rep.first_group))
        else:
            _arrive(state, costs, arrival)
    return PAUSED
