"""Retraction of SGLang: who is taken out of the running batch where a decode finds no room, and what that loses.

Source: SGLang 0.5.10 ``ScheduleBatch.retract_decode`` and ``release_req``.
"""

from simulator.engine.bounds import NONE
from simulator.engine.clients import announce_finish
from simulator.engine.kernel import kernel
from simulator.engine.queues import leave
from simulator.engine.replica import Replica
from simulator.engine.request import ABORTED, OVERRUNNING, Request
from simulator.engine.sequences import enqueue, forget_release, take_all_blocks
from simulator.engine.state import State
from simulator.engine.tables import request


@kernel
def retract(state: State, rep: Replica, req: Request, seen: int) -> None:
    """Take all blocks from a request of SGLang's running batch; it starts over at the end of the waiting queue.

    Of its answer the ``seen`` tokens that are back remain; one under way is lost, and is not the last one any more.
    """
    if req.status == OVERRUNNING:
        forget_release(state, rep, req)
        req.status = OVERRUNNING
        req.finish_ps = NONE
        rep.overrunning -= 1
    take_all_blocks(state, rep, req)
    req.generated = seen
    req.target = req.prompt + seen
    if req.first_token_ps > rep.decision_ps:
        req.first_token_ps = NONE
    enqueue(state, rep, req)


@kernel
def abort(state: State, rep: Replica, req: Request) -> None:
    """Answer the only request of a running batch with an error: it cannot grow, and nobody is left to retract."""
    take_all_blocks(state, rep, req)
    rep.preempted -= 1
    req.preemptions -= 1
    req.status = ABORTED
    req.finish_ps = rep.decision_ps
    announce_finish(state, rep, req, rep.decision_ps)


@kernel
def _goes_before(req: Request, other: Request) -> bool:
    """Whether a retraction keeps a request rather than the other: more tokens seen, or a shorter prompt."""
    return req.seen > other.seen or (req.seen == other.seen and req.prompt < other.prompt)


@kernel
def order_running(state: State, rep: Replica) -> None:
    """Sort the running list by who is retracted last, first; equal ones keep their order.

    The list is that of the last retraction with newcomers behind, so nearly sorted: each moves forward to its place.
    """
    queue = rep.running
    at = queue.head
    while at != NONE:
        req = request(state, at)
        at = req.next
        before = req.previous
        if before == NONE or not _goes_before(req, request(state, before)):
            continue
        while before != NONE and _goes_before(req, request(state, before)):
            before = request(state, before).previous
        leave(state, queue, req)
        after = queue.head if before == NONE else request(state, before).next
        req.previous = before
        req.next = after
        if before == NONE:
            queue.head = req.number
        else:
            request(state, before).next = req.number
        request(state, after).previous = req.number
        queue.count += 1
