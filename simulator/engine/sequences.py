"""Requests in and out of a replica's lists: waiting, running, in prefill, releasing; with them go slots and blocks.

Every change is O(1), but for the list of prefills, which is short.
"""

from simulator.engine.blocks import blocks_for
from simulator.engine.bounds import ADMISSIONS_FULL, LAST_ADMISSION, NONE
from simulator.engine.clients import announce_finish
from simulator.engine.decoding import end_run, kv_tokens, stop_decoding
from simulator.engine.items import forget_items
from simulator.engine.kernel import kernel
from simulator.engine.prefix_cache import give_back
from simulator.engine.queues import join, leave
from simulator.engine.radix_cache import keep_all, keep_nothing, keep_prompt
from simulator.engine.received import take_offers
from simulator.engine.replica import Replica
from simulator.engine.request import (
    DECODING,
    FINISHED,
    LEAVING,
    OVERRUNNING,
    PREFILLING,
    RELEASING,
    SENDING,
    TIMED_OUT,
    UNSEEN,
    WAITING,
    Request,
)
from simulator.engine.state import DECODE_POOL, PREFILL_POOL, State
from simulator.engine.tables import group, list_at, request


@kernel
def blocks_at_admission(state: State, req: Request, tokens: int) -> int:
    """KV blocks a request takes when it is admitted with ``tokens`` of its prompt, or by what the policy reserves."""
    if state.reserves_output:
        last = req.prompt + req.output - 1 + state.spare_tokens
        return blocks_for(state, min(last, state.max_model_len))
    return blocks_for(state, req.target if state.reserves_prompt else tokens)


@kernel
def blocks_held(state: State, req: Request) -> int:
    """KV blocks a running request holds."""
    if state.drafts > 0:
        return req.blocks
    if state.reserves_output:
        return blocks_for(state, req.prompt + req.output - 1)
    if state.reserves_prompt and req.status == PREFILLING:
        return blocks_for(state, req.target)
    return blocks_for(state, kv_tokens(state, req))


@kernel
def enqueue(state: State, rep: Replica, req: Request) -> None:
    """Put a request at the end of the waiting queue."""
    req.status = WAITING
    join(state, rep.waiting, req)


@kernel
def keep_unseen(state: State, rep: Replica, req: Request) -> None:
    """Put a request that arrives among those the scheduler has not seen."""
    req.status = UNSEEN
    join(state, rep.unseen, req)


@kernel
def receive(state: State, rep: Replica) -> None:
    """Let the scheduler see all that have arrived."""
    rep.skipped = 0
    while rep.unseen.count > 0:
        req = request(state, rep.unseen.head)
        leave(state, rep.unseen, req)
        enqueue(state, rep, req)


@kernel
def enqueue_behind_received(state: State, rep: Replica, req: Request) -> None:
    """Put a request behind those of a decode pool that hold blocks while they wait, and before all others.

    Otherwise one that was preempted could wait for blocks that are held behind it.
    """
    queue = rep.waiting
    before = queue.tail
    while before != NONE and request(state, before).remote == 0:
        before = request(state, before).previous
    if before == NONE:
        _enqueue_front(state, rep, req)
        return
    last = request(state, before)
    req.previous = before
    req.next = last.next
    if last.next == NONE:
        queue.tail = req.number
    else:
        request(state, last.next).previous = req.number
    last.next = req.number
    queue.count += 1


@kernel
def _enqueue_front(state: State, rep: Replica, req: Request) -> None:
    queue = rep.waiting
    req.previous = NONE
    req.next = queue.head
    if queue.head == NONE:
        queue.tail = req.number
    else:
        request(state, queue.head).previous = req.number
    queue.head = req.number
    queue.count += 1


@kernel
def admit(state: State, rep: Replica, req: Request) -> None:
    """Move a request from the waiting queue to the end of the running list, as a prefill."""
    leave(state, rep.waiting, req)
    req.status = PREFILLING
    req.admission = rep.next_admission
    rep.next_admission += 1
    if rep.next_admission > LAST_ADMISSION:
        end_run(state, ADMISSIONS_FULL)
    join(state, rep.running, req)
    list_at(state, rep.partials)[rep.num_partials] = req.number
    rep.num_partials += 1


@kernel
def _drop_partial(state: State, rep: Replica, req: Request) -> None:
    partials = list_at(state, rep.partials)
    kept = 0
    for at in range(rep.num_partials):
        if partials[at] != req.number:
            partials[kept] = partials[at]
            kept += 1
    rep.num_partials = kept


@kernel
def hold_for_release(state: State, rep: Replica, req: Request) -> None:
    """Keep slot and blocks of a finished request until its output is seen."""
    req.status = RELEASING
    if state.is_sglang and state.pool != PREFILL_POOL:
        req.status = OVERRUNNING
        rep.overrunning += 1
    req.next_releasing = NONE
    if rep.releasing.head == NONE:
        rep.releasing.head = req.number
    else:
        request(state, rep.releasing.tail).next_releasing = req.number
    rep.releasing.tail = req.number


@kernel
def forget_release(state: State, rep: Replica, req: Request) -> None:
    """Take a request out of the chain of those that are to be released."""
    req.status = FINISHED
    before = NONE
    at = rep.releasing.head
    while at != req.number:
        before = at
        at = request(state, at).next_releasing
    if before == NONE:
        rep.releasing.head = req.next_releasing
    else:
        request(state, before).next_releasing = req.next_releasing
    if req.next_releasing == NONE:
        rep.releasing.tail = before


@kernel
def note_result(state: State, rep: Replica, req: Request, time: int) -> None:
    """Remember that the first token after a prompt is back at ``time``, when the radix cache takes the prompt."""
    size = 2 * state.max_seqs + 2
    at = rep.first_result + rep.num_results
    if at >= size:
        at -= size
    ring = list_at(state, rep.results)
    ring[2 * at] = req.number
    ring[2 * at + 1] = time
    rep.num_results += 1


@kernel
def _forget_result(state: State, rep: Replica, req: Request) -> None:
    """Let a request that lost its blocks be none of those whose prompts the radix cache takes."""
    size = 2 * state.max_seqs + 2
    ring = list_at(state, rep.results)
    for k in range(rep.num_results):
        at = (rep.first_result + k) % size
        if ring[2 * at] == req.number:
            ring[2 * at] = NONE


@kernel
def _end_overrun(state: State, rep: Replica) -> None:
    """Let the first of the requests that are over go: its answer is seen now, and its seat stays taken."""
    req = request(state, rep.releasing.head)
    rep.releasing.head = req.next_releasing
    if rep.releasing.head == NONE:
        rep.releasing.tail = NONE
    tokens = kv_tokens(state, req)
    stop_decoding(state, req)
    leave(state, rep.running, req)
    req.generated = req.output
    req.status = FINISHED
    if state.stages == 1:
        rep.over += 1
    else:
        group(state, req.group).over += 1
    rep.overrunning -= 1
    if state.has_tree:
        keep_all(state, rep, req, tokens, blocks_for(state, tokens))
    else:
        rep.free += blocks_for(state, tokens)
    if state.stages == 1:
        announce_finish(state, rep, req, req.finish_ps)


@kernel
def _see_results(state: State, rep: Replica) -> None:
    """Take the results that are seen by the next decision: prompts join the radix cache, who is over leaves."""
    seen_ps = rep.decision_ps if state.stages == 1 else rep.seen_ps
    size = 2 * state.max_seqs + 2
    ring = list_at(state, rep.results)
    while rep.num_results > 0 and ring[2 * rep.first_result + 1] <= seen_ps:
        number = ring[2 * rep.first_result]
        rep.first_result += 1
        if rep.first_result == size:
            rep.first_result = 0
        rep.num_results -= 1
        if number == NONE:
            continue
        req = request(state, number)
        if number == rep.releasing.head and req.finish_ps <= seen_ps:
            _end_overrun(state, rep)
        else:
            keep_prompt(state, rep, req, req.target)
    while rep.releasing.head != NONE and request(state, rep.releasing.head).finish_ps <= seen_ps:
        _end_overrun(state, rep)


@kernel
def release_due(state: State, rep: Replica) -> None:
    """Free slots and blocks of requests whose last output is seen by the next decision."""
    if state.pool == DECODE_POOL and rep.offered.head != NONE:
        _release(state, rep)
        take_offers(state, rep, rep.decision_ps)
    else:
        _release(state, rep)


@kernel
def free_sent(state: State, rep: Replica, req: Request) -> None:
    """Free the blocks of a request of the prefill pool whose KV has left."""
    blocks = blocks_held(state, req)
    if state.has_tree:
        keep_all(state, rep, req, req.computed, blocks)
    else:
        give_back(state, rep, req, blocks, min(req.computed, req.prompt))


@kernel
def _give_up_blocks(state: State, rep: Replica, req: Request) -> None:
    """Free the blocks of a request that is over; the prefill pool holds them until their KV has left."""
    if state.pool != PREFILL_POOL:
        give_back(state, rep, req, blocks_held(state, req), min(req.computed, req.prompt + req.output - 1))
        req.status = FINISHED
        return
    if state.has_tree:
        keep_prompt(state, rep, req, req.target)
    if req.remote == 0:
        req.status = SENDING
        rep.sending += 1
    else:
        free_sent(state, rep, req)
        req.status = FINISHED


@kernel
def _release(state: State, rep: Replica) -> None:
    if state.is_sglang and state.pool != PREFILL_POOL:
        _see_results(state, rep)
        return
    seen_ps = rep.decision_ps if state.stages == 1 else rep.seen_ps
    while rep.releasing.head != NONE:
        req = request(state, rep.releasing.head)
        if req.finish_ps > seen_ps:
            return
        if req.status == LEAVING:
            leave(state, rep.waiting, req)
            req.status = FINISHED
        else:
            leave(state, rep.running, req)
            _give_up_blocks(state, rep, req)
        rep.is_blocked = False
        rep.releasing.head = req.next_releasing
    rep.releasing.tail = NONE


@kernel
def _hashed_tokens(state: State, rep: Replica, req: Request, status: int) -> int:
    """Leading tokens whose full KV blocks are hashed when a request of that status has to go at the next decision."""
    if not state.is_async or status not in (DECODING, RELEASING):
        return req.computed
    if state.stages == 1:
        return req.computed - req.hash_lag * (rep.decision_ps < rep.end_ps)
    if state.in_flight == state.stages and not state.decodes_always:
        return req.computed  # it only decodes when its last token is there
    unseen = req.last_decision - (rep.decisions - 1 - rep.unseen_results)
    return req.computed - max(0, min(req.hash_lag, unseen))


@kernel
def take_all_blocks(state: State, rep: Replica, req: Request) -> bool:
    """Take slot and blocks from a running request; True if it has to start over.

    One whose last token is already under way only gives up slot and blocks: it finishes all the same.
    """
    status = req.status
    blocks = blocks_held(state, req)
    is_over = req.finish_ps != NONE
    if status in (DECODING, OVERRUNNING):
        req.last_decision = max(req.last_decision, group(state, req.group).last_launch)
        stop_decoding(state, req)
        rep.surplus -= is_over
    elif status == PREFILLING:
        _drop_partial(state, rep, req)
        if state.has_items:
            forget_items(state, rep, req)
    leave(state, rep.running, req)
    if state.has_tree:
        keep_nothing(state, rep, req, blocks)
        _forget_result(state, rep, req)
    else:
        give_back(state, rep, req, blocks, _hashed_tokens(state, rep, req, status))
    rep.is_blocked = False
    rep.preempted += 1
    req.preemptions += 1
    if is_over:
        return False
    req.computed = 0
    req.target = req.prompt + req.generated
    return True


@kernel
def is_given_up(state: State, rep: Replica, req: Request) -> bool:
    """Drop a request whose client leaves, with slot and blocks; False if its last token is already under way."""
    status = req.status
    if status == WAITING:
        leave(state, rep.waiting, req)
        rep.is_blocked = False
    elif status == UNSEEN:
        leave(state, rep.unseen, req)
    elif status in (PREFILLING, DECODING):
        take_all_blocks(state, rep, req)
        rep.preempted -= 1
        req.preemptions -= 1
    else:
        return False
    req.status = TIMED_OUT
    return True


@kernel
def preempt(state: State, rep: Replica, req: Request) -> None:
    """Take all blocks from a running request; it starts over at the front of the waiting queue.

    One whose last token is under way stays there until that is seen.
    """
    req.status = WAITING if take_all_blocks(state, rep, req) else LEAVING
    if state.pool == DECODE_POOL:
        enqueue_behind_received(state, rep, req)
    else:
        _enqueue_front(state, rep, req)


@kernel
def has_unseen_results(rep: Replica, req: Request) -> bool:
    """Whether the scheduler has yet to see results of a waiting request that was preempted."""
    return req.status == LEAVING or req.last_decision >= rep.decisions - rep.unseen_results > 0
