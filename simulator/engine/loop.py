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
from simulator.engine.bounds import NEVER, NONE
from simulator.engine.clients import announce_finish, later, next_arrival, take_arrival
from simulator.engine.commit import commit
from simulator.engine.costs import Costs
from simulator.engine.kernel import kernel
from simulator.engine.leap import propose, steps_decided_before
from simulator.engine.replica import Replica
from simulator.engine.request import (
    DECODING,
    PREFILLING,
    REJECTED_BUDGET,
    REJECTED_CONTEXT,
    REJECTED_KV,
    TIMED_OUT,
    UNSEEN,
    WAITING,
    Request,
)
from simulator.engine.router import next_tick, replica_to_show, route
from simulator.engine.sequences import enqueue, is_given_up, keep_unseen
from simulator.engine.state import State
from simulator.engine.tables import group, replica, request

DONE: Final = -1
PAUSED: Final = -3
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
    return True


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
    if state.recv_interval > 1:
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
    if not _reject(state, rep, req, time) and _join_queue(state, rep, req, time):
        _cut_short(state, rep, time)
        propose(state, costs, rep, group(state, rep.first_group))


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
        if min(arrival, key) >= state.horizon_ps:
            state.next_time_ps = min(arrival, key)
            return DONE
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
