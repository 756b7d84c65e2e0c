"""Pipeline stages: several micro-batches in flight, each with its own group of decoding requests.

Step k runs stage after stage; stage s starts when it is free and the step before it has handed over:
``start[k, s] = max(end[k - 1, s], end[k, s - 1] + send[s - 1])``. The scheduler may have ``stages`` micro-batches in
flight, one more when scheduling is asynchronous; it takes the next decision as soon as there is room, and if nothing
can run, when the oldest micro-batch is back. A request decodes in one micro-batch at a time: it may be scheduled again
when its token is back or, asynchronously, ``stages`` steps later; the first stage then waits for that token. So
the requests that finished their prefill together stay together. Host time delays a micro-batch when scheduling is
synchronous and is a floor under the first stage when it is not.
"""

from simulator.engine.bounds import CLOCK_END, FRACTION_BITS, FRACTION_MASK, NEVER, NONE, STAGE_TIME_FULL
from simulator.engine.cost import prefill_cost, sample_cost, send_cost, token_cost
from simulator.engine.costs import Costs
from simulator.engine.decoding import end_run
from simulator.engine.iteration_log import log_planned
from simulator.engine.jit import kernel
from simulator.engine.replica import Group, Replica
from simulator.engine.sequences import release_due
from simulator.engine.state import State
from simulator.engine.step import add_occupancy, add_time, apply_tokens, count_step, decode_attention, decode_reads
from simulator.engine.tables import group, list_at


@kernel
def _is_eligible(state: State, rep: Replica, grp: Group) -> bool:
    """Whether a group may be scheduled again at this decision."""
    if grp.back_ps <= rep.decision_ps:
        return True
    this_launch = rep.steps + 1
    return state.is_async and this_launch - grp.last_launch >= state.stages


@kernel
def next_group(state: State, rep: Replica) -> int:
    """Index of the group whose turn it is: of those that decode the one that waits longest, else one without requests.

    NONE if no group may be scheduled.
    """
    best = NONE
    longest_ago = 0
    empty = NONE
    for number in range(rep.first_group, rep.first_group + state.stages):
        grp = group(state, number)
        if not _is_eligible(state, rep, grp):
            continue
        if grp.decoders == 0:
            empty = number
        elif best == NONE or grp.last_launch < longest_ago:
            best = number
            longest_ago = grp.last_launch
    return empty if best == NONE else best


@kernel
def _check_sums_of_stages(state: State, rep: Replica) -> None:
    """End the run before sums over stages, which grow faster than the clock, leave int64."""
    if max(rep.busy_ps, rep.bubble_ps, rep.send_ps) >= CLOCK_END:
        end_run(state, STAGE_TIME_FULL)


@kernel
def _note_launch(state: State, rep: Replica, grp: Group, host: int, end: int) -> None:
    """Remember when a micro-batch is back; the next decision is taken once there is room for another one."""
    launches = rep.steps
    in_flight = state.in_flight
    ends = list_at(state, rep.ends)
    ends[launches % in_flight] = end
    grp.last_launch = launches
    grp.back_ps = end
    rep.end_ps = end
    oldest = ends[(launches + 1) % in_flight]
    rep.decision_ps = max(rep.decision_ps + host, oldest)


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
    for stage in range(state.stages):
        token_ps = token_cost(costs, stage, tokens, planned.prefills)
        sample_ps = sample_cost(costs, stage, rows)
        attention = prefill_cost(costs, stage, planned.tokens, planned.pairs, planned.reads, batch) << FRACTION_BITS
        if batch > 0:
            attention += decode_attention(state, costs, grp, stage)
        duration = token_ps + sample_ps + ((attention + FRACTION_MASK) >> FRACTION_BITS)
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
    _check_sums_of_stages(state, rep)
    if state.log_capacity > 0:
        log_planned(state, rep, first_start, end, decode_reads(grp, batch))
    count_step(state, rep)
    elapsed = end - max(rep.end_ps, decision)
    rep.active_ps += elapsed
    add_occupancy(state, rep, planned.used, rep.running.count, elapsed)
    _note_launch(state, rep, grp, host, end)
    apply_tokens(state, rep, grp, batch, end)


@kernel
def _next_output(state: State, rep: Replica) -> int:
    """Time at which the next micro-batch in flight is back, or NEVER if none is in flight."""
    time = NEVER
    for at in range(state.in_flight):
        end = list_at(state, rep.ends)[at]
        if end > rep.decision_ps:
            time = min(time, end)
    return time


@kernel
def finish_pipeline_pass(state: State, rep: Replica, has_launched: bool) -> bool:
    """Set the next decision of a pipeline after a pass; False if the replica can never go on, which is a defect."""
    rep.key_ps = rep.decision_ps
    if has_launched:
        return True
    time = _next_output(state, rep)
    if time == NEVER:
        rep.key_ps = NEVER if rep.waiting.count == 0 else rep.decision_ps
        return rep.waiting.count == 0 or not rep.is_blocked
    rep.decision_ps = time
    rep.key_ps = time
    release_due(state, rep)
    return True
