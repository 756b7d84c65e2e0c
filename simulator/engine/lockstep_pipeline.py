"""Attention-data-parallel ranks on pipeline stages: each schedules apart, and a micro-batch of all runs together.

A decision is taken by all ranks of a replica at once and makes one micro-batch of what each of them plans. The ranks of
a stage share its experts, so the stage begins and ends a micro-batch on all of them at the same time (``lockstep`` says
what that takes), and the next stage gets it when the rank with the most tokens has handed over. Everything else is as
in ``pipeline``: all ranks hold the same queue of decisions, so their counters never part.

What happens where a rank has nothing to run is the engine's own (``State.needs_all_ranks``):

* vLLM 0.33 (``DPEngineCoreProc.run_busy_loop``): an engine core that has scheduled nothing runs a dummy batch, once per
  turn of its loop, so every turn of all cores is one micro-batch. A turn in which nobody has anything is free here;
  vLLM runs dummies then too, which are over before a stage gets the next micro-batch. With synchronous scheduling a
  rank waits for the last stage of its dummies, which is not modelled.
* TensorRT-LLM 1.0 (``PyExecutor._executor_loop_pp``): a micro-batch runs only if every rank has scheduled something
  (``can_queue``); who was scheduled in vain is scheduled again in the next turn. A rank without any request gets a
  dummy one, which is under way as long as others are: meanwhile that rank has nothing to schedule.
"""

from simulator.engine.bounds import FRACTION_BITS, FRACTION_MASK, NEVER, NONE
from simulator.engine.cost import ranks_token_cost, send_cost
from simulator.engine.costs import Costs
from simulator.engine.decoding import start_decoding, stop_decoding
from simulator.engine.items import count_items, items_cost
from simulator.engine.iteration_log import log_planned
from simulator.engine.kernel import kernel
from simulator.engine.lockstep import awaits_kv, first_rank, own_work
from simulator.engine.pipeline import (
    apply_micro_batch,
    begin_decision,
    check_sums_of_stages,
    count_decision,
    finds_nothing,
    forget_decision,
    next_group,
    queue_decision,
    see_oldest,
)
from simulator.engine.replica import Group, Replica
from simulator.engine.request import DECODING
from simulator.engine.scheduler_v1 import admission, begin_step, schedule_v1
from simulator.engine.sequences import has_unseen_results
from simulator.engine.state import State
from simulator.engine.step import add_occupancy, add_time, count_step, decode_reads
from simulator.engine.tables import group, list_at, replica, request


@kernel
def _can_admit(state: State, rep: Replica, grp: Group) -> bool:
    """Whether a rank would admit a prompt into this micro-batch."""
    begin_step(state, rep)
    rep.planned.left -= grp.decoders
    at = rep.waiting.head
    while at != NONE and rep.planned.left > 0:
        req = request(state, at)
        at = req.next
        if has_unseen_results(rep, req):
            continue
        chunk, _, _ = admission(state, rep, req)
        return chunk > 0
    return False


@kernel
def _has_work(state: State, rep: Replica, grp: Group) -> bool:
    """Whether a rank has something to schedule, be it the dummy of a rank without requests."""
    if rep.running.count == 0 and rep.waiting.count == 0:
        return rep.dummy_decision < rep.decisions - rep.unseen_results
    return grp.decoders > 0 or rep.num_partials > 0 or _can_admit(state, rep, grp)


@kernel
def _pass_on(state: State, rep: Replica, grp: Group) -> None:
    """Let the sequences that would have decoded do so at the next decision."""
    heir = next_group(state, rep)
    if heir.number == grp.number:
        return
    at = rep.running.head
    while at != NONE and grp.decoders > 0:
        req = request(state, at)
        if req.status == DECODING and req.group == grp.number:
            stop_decoding(state, req)
            start_decoding(state, heir, req)
            req.chunk_start = NONE
        at = req.next
    heir.back_ps = max(heir.back_ps, grp.back_ps)


@kernel
def _group_of(state: State, rep: Replica) -> Group:
    """Return the group that decodes at the decision being taken."""
    return group(state, rep.first_group + (0 if state.decodes_always else rep.turn))


@kernel
def _all_have_work(state: State, first: Replica) -> bool:
    """Whether every rank has something to schedule; where one has not, all sequences wait for the next decision."""
    for number in range(first.number, first.number + state.ranks):
        rep = replica(state, number)
        if not _has_work(state, rep, _group_of(state, rep)):
            for waiting in range(first.number, first.number + state.ranks):
                rank = replica(state, waiting)
                _pass_on(state, rank, _group_of(state, rank))
            return False
    for number in range(first.number, first.number + state.ranks):
        rep = replica(state, number)
        if rep.running.count == 0 and rep.waiting.count == 0:
            rep.dummy_decision = rep.decisions
    return True


@kernel
def _schedule_ranks(state: State, first: Replica) -> tuple[int, int, int, int]:
    """Let every rank plan its part: (most tokens of a rank, tokens of all, most sequences, prefills of all)."""
    most_tokens = 0
    all_tokens = 0
    most_rows = 0
    all_prefills = 0
    for number in range(first.number, first.number + state.ranks):
        rep = replica(state, number)
        schedule_v1(state, rep, _group_of(state, rep))
        planned = rep.planned
        most_tokens = max(most_tokens, planned.decodes + planned.tokens)
        all_tokens += planned.decodes + planned.tokens
        most_rows = max(most_rows, planned.decodes + planned.prefills)
        all_prefills += planned.prefills
    return most_tokens, all_tokens, most_rows, all_prefills


@kernel
def _ready_ps(state: State, first: Replica, host: int) -> int:
    """Time from which the first stage may run: the decision, and the tokens of everybody who decodes."""
    ready = first.decision_ps if state.is_async else first.decision_ps + host
    for number in range(first.number, first.number + state.ranks):
        rep = replica(state, number)
        if rep.planned.decodes > 0:
            ready = max(ready, _group_of(state, rep).back_ps)
    return ready


@kernel
def _work_of_ranks(state: State, costs: Costs, first: Replica, stage: int, times: int) -> int:
    """Time of encoder, attention and sampling on the slowest rank of a stage, in whole ps.

    What every rank does goes to its sums, for ``times`` stages that cost the same.
    """
    slowest = 0
    for number in range(first.number, first.number + state.ranks):
        rep = replica(state, number)
        attention, sample_ps = own_work(state, costs, rep, _group_of(state, rep), stage)
        own = sample_ps + ((attention + FRACTION_MASK) >> FRACTION_BITS)
        if stage == 0:
            encoder_ps = items_cost(costs, rep.planned)
            own += encoder_ps
            count_items(rep, encoder_ps)
        slowest = max(slowest, own)
        rep.busy_ps += times * own
        rep.bubble_ps -= times * own
        rep.sample_ps += times * sample_ps
        add_time(rep.attention, times * attention)
    return slowest


@kernel
def _run_stages(
    state: State, costs: Costs, first: Replica, most_tokens: int, all_tokens: int, prefills: int, host: int
) -> tuple[int, int]:
    """Send the micro-batch of all ranks through the stages: when the first begins, when the last ends."""
    ready = _ready_ps(state, first, host)
    free = list_at(state, first.stage_free)
    alike = list_at(costs, costs.stages_alike)
    first_start = 0
    end = 0
    slowest = 0
    token_ps = 0
    send_ps = 0
    span = 0  # that the devices of all stages were free or busy with it
    for stage in range(state.stages):
        if state.has_items:
            slowest = _work_of_ranks(state, costs, first, stage, 1)  # the first stage encodes too
        elif alike[stage] > 0:
            slowest = _work_of_ranks(state, costs, first, stage, alike[stage])
        tokens_ps = ranks_token_cost(costs, stage, most_tokens, all_tokens, state.ranks, prefills)
        start = max(ready, free[stage])
        end = start + tokens_ps + slowest
        sending_ps = send_cost(costs, stage, most_tokens)
        span += end - max(free[stage], first.decision_ps)
        token_ps += tokens_ps
        send_ps += sending_ps
        free[stage] = end
        if stage == 0:
            first_start = start
            if state.is_async:
                free[stage] = max(end, start + host)
        ready = end + sending_ps
    for number in range(first.number, first.number + state.ranks):
        rep = replica(state, number)
        rep.busy_ps += token_ps
        rep.bubble_ps += span - token_ps
        rep.token_ps += token_ps
        rep.send_ps += send_ps
    return first_start, end


@kernel
def _finish_rank(state: State, rep: Replica, start: int, end: int, host: int) -> None:
    """Count what one rank did in a micro-batch that began at ``start`` and ends at ``end``."""
    check_sums_of_stages(state, rep)
    grp = _group_of(state, rep)
    planned = rep.planned
    batch = planned.decodes
    if batch + planned.prefills > 0:
        if state.log_capacity > 0:
            log_planned(state, rep, start, end, decode_reads(grp, batch))
        count_step(state, rep)
    elapsed = end - max(rep.end_ps, rep.decision_ps)
    rep.active_ps += elapsed
    add_occupancy(state, rep, planned.used, rep.running.count, elapsed)
    rep.end_ps = end
    rep.decision_ps += host
    apply_micro_batch(state, rep, grp, batch, end)


@kernel
def run_stages_together(state: State, costs: Costs, rep: Replica) -> bool:
    """Take one decision on all ranks and send its micro-batch through the stages; False if there is none."""
    first = first_rank(state, rep)
    decision = rep.decision_ps
    for number in range(first.number, first.number + state.ranks):
        rank = replica(state, number)
        rank.decision_ps = decision
        rank.key_ps = decision
        begin_decision(state, rank)
    if state.needs_all_ranks and not _all_have_work(state, first):
        return False
    most_tokens, all_tokens, most_rows, prefills = _schedule_ranks(state, first)
    if most_rows == 0:
        return False
    host = state.host_step_ps + state.host_seq_ps * most_rows
    start, end = _run_stages(state, costs, first, most_tokens, all_tokens, prefills, host)
    for number in range(first.number, first.number + state.ranks):
        _finish_rank(state, replica(state, number), start, end, host)
    return True


@kernel
def _are_idle(state: State, first: Replica) -> bool:
    """Whether no rank has a request."""
    for number in range(first.number, first.number + state.ranks):
        rep = replica(state, number)
        if rep.running.count > 0 or rep.waiting.count > 0:
            return False
    return True


@kernel
def _queue_on_all(state: State, first: Replica) -> None:
    """Queue a decision on all ranks; a full queue waits for its oldest."""
    for number in range(first.number, first.number + state.ranks):
        rep = replica(state, number)
        queue_decision(state, rep)
        if rep.unseen_results == state.in_flight:
            see_oldest(state, rep)


@kernel
def _drain(state: State, first: Replica) -> None:
    """See one more decision under way when no request is left; take none but the one that tells who has finished."""
    tells = False
    for number in range(first.number, first.number + state.ranks):
        rep = replica(state, number)
        tells = tells or rep.tells_workers
        rep.tells_workers = False
    for number in range(first.number, first.number + state.ranks):
        rep = replica(state, number)
        if tells:
            queue_decision(state, rep)
        else:
            forget_decision(state, rep)
        if rep.unseen_results > 0:
            see_oldest(state, rep)


@kernel
def _all_find_nothing(state: State, first: Replica) -> bool:
    """Whether the next decision, taken at the time of the last one, is known to schedule nothing on any rank."""
    if first.decision_ps != first.key_ps or state.needs_all_ranks or _are_idle(state, first):
        return False
    for number in range(first.number, first.number + state.ranks):
        rep = replica(state, number)
        is_idle = rep.running.count == 0 and rep.waiting.count == 0
        if not is_idle and not finds_nothing(state, rep):
            return False
    return True


@kernel
def finish_stages_together(state: State, rep: Replica, has_launched: bool) -> bool:
    """Queue a decision of all ranks and set the next one; False if they can never go on, which is a defect."""
    first = first_rank(state, rep)
    is_over = False
    if not has_launched and _are_idle(state, first):
        _drain(state, first)
        is_over = first.unseen_results == 0
    else:
        first.empties = 0 if has_launched else first.empties + 1
        _queue_on_all(state, first)
        while _all_find_nothing(state, first):
            for number in range(first.number, first.number + state.ranks):
                count_decision(state, replica(state, number))
            first.empties += 1
            _queue_on_all(state, first)
    if first.empties > 4 * state.in_flight and awaits_kv(state, first):
        is_over = True  # until KV has left a prefill pool, or come into a decode pool
        first.empties = 0
    for number in range(first.number, first.number + state.ranks):
        rank = replica(state, number)
        rank.key_ps = NEVER if is_over else rank.decision_ps
    return first.empties <= 4 * state.in_flight
