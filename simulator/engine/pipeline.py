"""Pipeline stages: several micro-batches in flight, each with its own group of decoding requests.

Step k runs stage after stage; stage s starts when it is free and the step before it has handed over:
``start[k, s] = max(end[k - 1, s], end[k, s - 1] + send[s - 1])``. The scheduler may have ``stages`` micro-batches in
flight, one more when scheduling is asynchronous; it takes the next decision as soon as there is room, and if nothing
can run, when the oldest micro-batch is back. A request decodes in one micro-batch at a time: it may be scheduled again
when its token is back or, asynchronously, ``stages`` steps later; the first stage then waits for that token. So
the requests that finished their prefill together stay together. Host time delays a micro-batch when scheduling is
synchronous and is a floor under the first stage when it is not.
"""

from simulator.engine import layout
from simulator.engine.cost import prefill_cost, sample_cost, send_cost, token_cost
from simulator.engine.jit import kernel
from simulator.engine.layout import CLOCK_END, FRACTION_BITS, FRACTION_MASK, NEVER, NONE, Cells
from simulator.engine.sequences import end_run, release_due
from simulator.engine.step import (
    add_occupancy,
    add_time,
    apply_tokens,
    count_step,
    decode_attention,
    decode_reads,
    log_step,
)


@kernel
def _is_eligible(state: Cells, rep: int, grp: int) -> bool:
    """Whether a group may be scheduled again at this decision."""
    if state[grp + layout.BACK] <= state[rep + layout.DECISION]:
        return True
    this_launch = state[rep + layout.STEPS] + 1
    return state[layout.IS_ASYNC] == 1 and this_launch - state[grp + layout.LAST_LAUNCH] >= state[layout.STAGES]


@kernel
def next_group(state: Cells, rep: int) -> int:
    """Group whose turn it is: of those that decode the one that waits longest, else one without requests."""
    best = NONE
    empty = NONE
    for slot in range(state[layout.STAGES]):
        grp = state[rep + layout.GROUPS] + slot * layout.GROUP_COLUMNS
        if not _is_eligible(state, rep, grp):
            continue
        if state[grp + layout.DECODERS] == 0:
            empty = grp
        elif best == NONE or state[grp + layout.LAST_LAUNCH] < state[best + layout.LAST_LAUNCH]:
            best = grp
    return empty if best == NONE else best


@kernel
def _check_sums_of_stages(state: Cells, rep: int) -> None:
    """End the run before sums over stages, which grow faster than the clock, leave int64."""
    if max(state[rep + layout.BUSY], state[rep + layout.BUBBLE_TIME], state[rep + layout.SEND_TIME]) >= CLOCK_END:
        end_run(state, layout.STAGE_TIME)


@kernel
def launch_stages(
    state: Cells,
    costs: Cells,
    rep: int,
    grp: int,
    prefill_tokens: int,
    prefills: int,
    pairs: int,
    reads: int,
    used_before: int,
) -> None:
    """Send the micro-batch that was just scheduled through all stages."""
    batch = state[grp + layout.DECODERS]
    rows = batch + prefills
    tokens = batch + prefill_tokens
    decision = state[rep + layout.DECISION]
    host = state[layout.HOST_STEP] + state[layout.HOST_SEQ] * rows
    is_async = state[layout.IS_ASYNC] == 1
    ready = decision if is_async else decision + host
    if batch > 0:
        ready = max(ready, state[grp + layout.BACK])
    first_start = 0
    for stage in range(state[layout.STAGES]):
        token_ps = token_cost(costs, stage, tokens, prefills)
        sample_ps = sample_cost(costs, stage, rows)
        attention = prefill_cost(costs, stage, prefill_tokens, pairs, reads) << FRACTION_BITS
        if batch > 0:
            attention += decode_attention(state, costs, grp, stage)
        duration = token_ps + sample_ps + ((attention + FRACTION_MASK) >> FRACTION_BITS)
        free = state[rep + layout.STAGE_FREE] + stage
        start = max(ready, state[free])
        end = start + duration
        state[rep + layout.BUBBLE_TIME] += start - max(state[free], decision)
        state[rep + layout.BUSY] += duration
        state[rep + layout.TOKEN_TIME] += token_ps
        state[rep + layout.SAMPLE_TIME] += sample_ps
        add_time(state, rep + layout.ATTENTION_TIME, attention)
        state[free] = end
        if stage == 0:
            first_start = start
            if is_async:
                state[free] = max(end, start + host)
        send_ps = send_cost(costs, stage, tokens)
        state[rep + layout.SEND_TIME] += send_ps
        ready = end + send_ps
    _check_sums_of_stages(state, rep)
    if state[layout.LOG_CAPACITY] > 0:
        decode_kv = decode_reads(state, grp, batch)
        log_step(state, rep, first_start, end, prefill_tokens, prefills, pairs, batch, decode_kv)
    count_step(state, rep, batch, prefill_tokens, prefills, pairs, reads)
    elapsed = end - max(state[rep + layout.END], decision)
    state[rep + layout.ACTIVE] += elapsed
    add_occupancy(state, rep, used_before, state[rep + layout.RUN_COUNT], elapsed)
    launches = state[rep + layout.STEPS]
    in_flight = state[layout.IN_FLIGHT]
    state[state[rep + layout.ENDS] + launches % in_flight] = end
    state[grp + layout.LAST_LAUNCH] = launches
    state[grp + layout.BACK] = end
    state[rep + layout.END] = end
    oldest = state[state[rep + layout.ENDS] + (launches + 1) % in_flight]
    state[rep + layout.DECISION] = max(decision + host, oldest)
    apply_tokens(state, rep, grp, batch, end)


@kernel
def _next_output(state: Cells, rep: int) -> int:
    """Time at which the next micro-batch in flight is back, or NEVER if none is in flight."""
    time = NEVER
    for at in range(state[layout.IN_FLIGHT]):
        end = state[state[rep + layout.ENDS] + at]
        if end > state[rep + layout.DECISION]:
            time = min(time, end)
    return time


@kernel
def finish_pipeline_pass(state: Cells, rep: int, has_launched: bool) -> bool:
    """Set the next decision of a pipeline after a pass; False if the replica can never go on, which is a defect."""
    state[rep + layout.KEY] = state[rep + layout.DECISION]
    if has_launched:
        return True
    time = _next_output(state, rep)
    if time == NEVER:
        state[rep + layout.KEY] = NEVER if state[rep + layout.WAIT_COUNT] == 0 else state[rep + layout.DECISION]
        return state[rep + layout.WAIT_COUNT] == 0 or state[rep + layout.BLOCKED] == 0
    state[rep + layout.DECISION] = time
    state[rep + layout.KEY] = time
    release_due(state, rep)
    return True
