"""The decode pool of two: it takes the blocks of a prompt, has its KV sent, and lets it decode with its first token.

Blocks are taken where the request is offered, in order of arrival, or once enough are free. A transfer holds the link
of the rank that sends and that of the rank that receives; one that finds either busy waits for it. Sources: SGLang
0.5.10 ``disaggregation/decode.py`` (blocks before the prompt is computed, ``num_reserved_decode_tokens`` kept free for
each request), vLLM 0.18 ``nixl_connector.py`` (the decode scheduler allocates, then pulls), TensorRT-LLM 1.2
``PyExecutor._prepare_disagg_gen_transmission_complete`` and ``_handle_first_token_response`` (the first token comes
along and is sent to the client before the first step). A request preempted here has lost its KV and computes it anew.
While any that SGLang has retracted waits nobody else is given blocks (``process_decode_queue``), and one that runs
again takes those of its whole sequence at once (``resume_retracted_reqs``).
"""

from simulator.engine.blocks import blocks_for
from simulator.engine.bounds import ADMISSIONS_FULL, LAST_ADMISSION, NONE
from simulator.engine.clients import announce_finish, later
from simulator.engine.decoding import end_run, start_decoding
from simulator.engine.kernel import kernel
from simulator.engine.ordered_heap import push_in_order
from simulator.engine.pool_messages import ARRIVED, SENT, START, tell_prefill
from simulator.engine.prefix_cache import allocate, free_blocks, give_back
from simulator.engine.queues import join, leave
from simulator.engine.replica import Group, Replica
from simulator.engine.request import FINISHED, OFFERED, RECEIVING, Request
from simulator.engine.state import State
from simulator.engine.tables import list_at, peer, request


@kernel
def blocks_of_prompt(state: State, req: Request) -> int:
    """KV blocks that are taken for a prompt before its KV comes."""
    if state.reserves_output:
        return blocks_for(state, min(req.prompt + req.output - 1 + state.spare_tokens, state.max_model_len))
    return blocks_for(state, req.prompt)


@kernel
def send_kv(state: State, req: Request, time: int) -> None:
    """Put the KV of a request on the links of both ranks as soon as they are free; ``time`` is when it may go."""
    other = peer(state, 0)
    links = list_at(state, state.links)
    sender = request(other, req.number).replica
    receiver = other.num_replicas + req.replica
    start = max(time, links[sender], links[receiver])
    end = later(start, max(1, list_at(state, state.transfer_ps)[req.number]))
    links[sender] = end
    links[receiver] = end
    req.think_ps = end
    push_in_order(state, state.transfers, end, 2 * req.number + ARRIVED)
    tell_prefill(state, end, req.number, SENT)


@kernel
def _lacking_blocks(state: State, rep: Replica) -> int:
    """KV blocks for what is not computed yet of a retracted request that runs again: it computes its prompt anew."""
    blocks = 0
    for place in range(rep.num_partials):
        req = request(state, list_at(state, rep.partials)[place])
        blocks += blocks_for(state, req.target) - blocks_for(state, req.computed)
    return blocks


@kernel
def blocks_for_offer(state: State, rep: Replica, req: Request) -> int:
    """KV blocks that must be free where a request is offered: those of its prompt, and some for each request there."""
    others = rep.running.count + rep.waiting.count + rep.receiving
    kept = 0 if others == 0 else blocks_for(state, state.reserved_tokens * (others + 1))
    if state.is_sglang:
        kept += _lacking_blocks(state, rep)
    return blocks_of_prompt(state, req) + kept


@kernel
def _has_retracted(state: State, rep: Replica) -> bool:
    """Whether a request without KV waits: those wait behind the ones whose KV has come."""
    return rep.waiting.tail != NONE and request(state, rep.waiting.tail).remote == 0


@kernel
def take_offers(state: State, rep: Replica, time: int) -> None:
    """Take the blocks of the requests offered to a replica, in their order, while there are enough at ``time``."""
    if state.is_sglang and _has_retracted(state, rep):
        return
    while rep.offered.head != NONE:
        req = request(state, rep.offered.head)
        if blocks_for_offer(state, rep, req) > free_blocks(state, rep):
            return
        leave(state, rep.offered, req)
        allocate(state, rep, blocks_of_prompt(state, req))
        req.status = RECEIVING
        rep.receiving += 1
        if state.offers_first:
            tell_prefill(state, later(time, state.handover_ps), req.number, START)
        else:
            send_kv(state, req, time)


@kernel
def offer(state: State, rep: Replica, req: Request, time: int) -> None:
    """Let a request that arrives in the decode pool ask for its blocks."""
    req.status = OFFERED
    join(state, rep.offered, req)
    take_offers(state, rep, time)


@kernel
def _answer_at_once(state: State, rep: Replica, req: Request) -> None:
    """Answer a request whose first token was its last."""
    leave(state, rep.waiting, req)
    give_back(state, rep, req, blocks_of_prompt(state, req), 0)
    rep.is_blocked = False
    req.generated = 1
    req.computed = req.prompt
    req.remote = 0
    req.status = FINISHED
    req.first_token_ps = rep.decision_ps
    req.finish_ps = rep.decision_ps
    announce_finish(state, rep, req, rep.decision_ps)


@kernel
def join_received(state: State, rep: Replica, grp: Group) -> None:
    """Let those at the head of the queue whose KV and first token are there decode in this step, while seats last."""
    while rep.waiting.head != NONE:
        req = request(state, rep.waiting.head)
        if req.remote == 0:
            return  # preempted: its KV is gone
        if req.output == 1:
            _answer_at_once(state, rep, req)
            continue
        taken = grp.decoders + rep.over if state.is_sglang else rep.running.count
        if taken >= state.max_seqs:
            return
        leave(state, rep.waiting, req)
        req.remote = 0
        req.computed = req.prompt
        req.generated = 1
        req.scheduled_ps = rep.decision_ps
        req.admission = rep.next_admission
        rep.next_admission += 1
        if rep.next_admission > LAST_ADMISSION:
            end_run(state, ADMISSIONS_FULL)
        if state.first_chunk <= 1:
            req.first_token_ps = rep.decision_ps
        join(state, rep.running, req)
        start_decoding(state, grp, req)


@kernel
def drop_received(state: State, rep: Replica) -> bool:
    """Free the blocks of the last request whose KV waits for a seat, which loses it; False if there is none.

    It does what a retraction does where all that runs is one request that cannot grow.
    """
    at = rep.waiting.tail
    while at != NONE and request(state, at).remote == 0:
        at = request(state, at).previous
    if at == NONE:
        return False
    req = request(state, at)
    give_back(state, rep, req, blocks_of_prompt(state, req), 0)
    req.remote = 0
    req.preemptions += 1
    rep.preempted += 1
    return True
