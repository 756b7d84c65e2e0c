"""Pipeline stages: several micro-batches in flight, each with its own group of decoding requests.

Step k runs stage after stage; stage s starts when it is free and the step before it has handed over:
``start[k, s] = max(end[k - 1, s], end[k, s - 1] + send[s - 1])``.

Source: vLLM 0.33, ``EngineCore.step_with_batch_queue`` and ``AsyncScheduler``. The engine queues decisions, ``stages``
of them, or one more where it schedules ahead; it waits for the oldest only when the queue is full. A decision that
finds nothing to run takes a place in it all the same. So a sequence that decodes at one decision may do so again
``stages`` decisions later, when its token is back, or, scheduled ahead, will be when the first stage starts: group k
decodes at every decision that leaves the rest k. Where sequences decode in every micro-batch (``decodes_always``) there
is one group, and the first stage waits for its tokens each time.

Host time delays a micro-batch when scheduling is synchronous and is a floor under the first stage when it is not.
"""

from simulator.engine.bounds import CLOCK_END, FRACTION_BITS, FRACTION_MASK, NEVER, NONE, STAGE_TIME_FULL
from simulator.engine.cost import prefill_cost, sample_cost, send_cost, token_cost
from simulator.engine.costs import Costs
from simulator.engine.decoding import end_run, kv_tokens, stop_decoding
from simulator.engine.items import count_items, items_cost
from simulator.engine.iteration_log import log_planned
from simulator.engine.kernel import kernel
from simulator.engine.replica import Group, Replica
from simulator.engine.request import DECODING, RELEASING
from simulator.engine.sequences import has_unseen_results, release_due
from simulator.engine.state import State
from simulator.engine.step import add_occupancy, add_time, apply_tokens, count_step, decode_attention, decode_reads
from simulator.engine.tables import group, list_at, request


@kernel
def next_group(state: State, rep: Replica) -> Group:
    """Return the group whose turn it is to decode at the next decision."""
    turn = rep.turn + 1
    if state.decodes_always or turn == state.stages:
        turn = 0
    return group(state, rep.first_group + turn)


@kernel
def count_decision(state: State, rep: Replica) -> None:
    """Give the next decision its number."""
    rep.decisions += 1
    rep.turn += 1
    if rep.turn == state.stages:
        rep.turn = 0


@kernel
def forget_decision(state: State, rep: Replica) -> None:
    """Take the number of a decision back that was not taken."""
    rep.decisions -= 1
    rep.turn -= 1
    if rep.turn < 0:
        rep.turn += state.stages


@kernel
def begin_decision(state: State, rep: Replica) -> Group:
    """Count a decision; returns the group whose turn it is to decode."""
    grp = next_group(state, rep)
    count_decision(state, rep)
    if rep.surplus > 0:
        _end_surplus(state, rep)
    return grp


@kernel
def _end_surplus(state: State, rep: Replica) -> None:
    """Stop sequences of which all tokens but the last are seen, or whose context is full: they only wait for that one.

    vLLM takes all but one of the tokens under way for drafts that may be rejected, and schedules on.
    """
    seen = rep.decisions - 1 - rep.unseen_results
    at = rep.releasing.head
    while at != NONE:
        req = request(state, at)
        at = req.next_releasing
        if req.status == DECODING and (req.last_decision <= seen or kv_tokens(state, req) + 2 > state.max_model_len):
            stop_decoding(state, req)
            req.status = RELEASING
            rep.surplus -= 1


@kernel
def check_sums_of_stages(state: State, rep: Replica) -> None:
    """End the run before sums over stages, which grow faster than the clock, leave int64."""
    if max(rep.busy_ps, rep.bubble_ps, rep.send_ps) >= CLOCK_END:
        end_run(state, STAGE_TIME_FULL)


@kernel
def apply_micro_batch(state: State, rep: Replica, grp: Group, batch: int, end: int) -> None:
    """Count the tokens of a micro-batch that is back at ``end``.

    Sequences that the token budget did not reach decode at the next decision.
    """
    back = grp.back_ps
    grp.back_ps = end
    heir = next_group(state, rep)
    starved = 0
    rep.surplus_tokens += rep.surplus
    at = rep.starved_head
    while at != NONE:
        req = request(state, at)
        starved += 1
        rep.surplus_tokens -= req.finish_ps != NONE
        at = req.next_releasing
    apply_tokens(state, rep, grp, heir, batch, end)
    grp.last_launch = rep.decisions
    if starved > 0 and heir.decoders == starved:
        heir.back_ps = back


@kernel
def launch_stages(state: State, costs: Costs, rep: Replica, grp: Group) -> None:
    """Send the planned micro-batch through all stages."""
    planned = rep.planned
    batch = planned.decodes
    rows = batch + planned.prefills
    tokens = batch + planned.tokens
    decision = rep.decision_ps
    host = state.host_step_ps + state.host_seq_ps * rows
    is_async = state.is_async
    ready = decision if is_async else decision + host
    if batch > 0:
        ready = max(ready, grp.back_ps)
    free = list_at(state, rep.stage_free)
    first_start = 0
    attention = 0
    for stage in range(state.stages):
        token_ps = token_cost(costs, stage, tokens, planned.prefills)
        sample_ps = sample_cost(costs, stage, rows)
        if list_at(costs, costs.attention_repeats)[stage] == 0:
            attention = prefill_cost(costs, stage, planned.tokens, planned.pairs, planned.reads, batch) << FRACTION_BITS
            if batch > 0:
                attention += decode_attention(state, costs, grp, stage)
        duration = token_ps + sample_ps + ((attention + FRACTION_MASK) >> FRACTION_BITS)
        if stage == 0:
            encoder_ps = items_cost(costs, planned)
            duration += encoder_ps
            count_items(rep, encoder_ps)
        start = max(ready, free[stage])
        end = start + duration
        rep.bubble_ps += start - max(free[stage], decision)
        rep.busy_ps += duration
        rep.token_ps += token_ps
        rep.sample_ps += sample_ps
        add_time(rep.attention, attention)
        free[stage] = end
        if stage == 0:
            first_start = start
            if is_async:
                free[stage] = max(end, start + host)
        send_ps = send_cost(costs, stage, tokens)
        rep.send_ps += send_ps
        ready = end + send_ps
    check_sums_of_stages(state, rep)
    if state.log_capacity > 0:
        log_planned(state, rep, first_start, end, decode_reads(grp, batch))
    count_step(state, rep)
    elapsed = end - max(rep.end_ps, decision)
    rep.active_ps += elapsed
    add_occupancy(state, rep, planned.used, rep.running.count, elapsed)
    rep.end_ps = end
    rep.decision_ps += host
    apply_micro_batch(state, rep, grp, batch, end)


@kernel
def queue_decision(state: State, rep: Replica) -> None:
    """Queue a decision; one that scheduled nothing lies behind the step before it, and is seen as soon as that is."""
    rep.last_end += 1
    if rep.last_end == state.in_flight:
        rep.last_end = 0
    list_at(state, rep.ends)[rep.last_end] = rep.end_ps
    rep.unseen_results += 1


@kernel
def see_oldest(state: State, rep: Replica) -> None:
    """Wait for the oldest decision under way and see what it gave."""
    rep.unseen_results -= 1
    oldest = rep.last_end - rep.unseen_results
    if oldest < 0:
        oldest += state.in_flight
    rep.seen_ps = list_at(state, rep.ends)[oldest]
    rep.decision_ps = max(rep.decision_ps, rep.seen_ps)
    if rep.releasing.head != NONE:
        release_due(state, rep)
        rep.tells_workers = rep.running.count == 0 and rep.waiting.count == 0


@kernel
def _drain(state: State, rep: Replica) -> None:
    """See one more decision under way when no request is left; take none but the one that tells who has finished."""
    if rep.tells_workers:
        rep.tells_workers = False
        queue_decision(state, rep)
    else:
        forget_decision(state, rep)
    if rep.unseen_results > 0:
        see_oldest(state, rep)
    rep.key_ps = rep.decision_ps if rep.unseen_results > 0 else NEVER


@kernel
def finds_nothing(state: State, rep: Replica) -> bool:
    """Whether the next decision, taken at the time of the last one, is known to schedule nothing."""
    if rep.running.count == 0 or rep.num_partials > 0 or rep.surplus > 0:
        return False
    if rep.waiting.count > 0 and (not rep.is_blocked or has_unseen_results(rep, request(state, rep.waiting.head))):
        return False
    return next_group(state, rep).decoders == 0


@kernel
def finish_pipeline_pass(state: State, rep: Replica, has_launched: bool) -> bool:
    """Queue a decision and set the next one; False if the replica can never go on, which is a defect."""
    if not has_launched and rep.running.count == 0 and rep.waiting.count == 0:
        _drain(state, rep)
        return True
    rep.empties = 0 if has_launched else rep.empties + 1
    queue_decision(state, rep)
    if rep.unseen_results == state.in_flight:
        see_oldest(state, rep)
    while rep.decision_ps == rep.key_ps and finds_nothing(state, rep):
        count_decision(state, rep)
        rep.empties += 1
        queue_decision(state, rep)
        if rep.unseen_results == state.in_flight:
            see_oldest(state, rep)
    rep.key_ps = rep.decision_ps
    if rep.empties > 4 * state.in_flight and rep.sending + rep.receiving > 0:
        rep.key_ps = NEVER  # until KV has left a prefill pool, or come into a decode pool
        rep.empties = 0
    return rep.empties <= 4 * state.in_flight
