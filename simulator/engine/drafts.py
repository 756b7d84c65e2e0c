"""A step with speculative decoding: every decoding sequence gets one token, and one more per draft accepted.

The i-th draft is accepted with probability a if all before it were: a sequence gains 1 + min(G, K) tokens, G geometric,
which is (1 - a^(K + 1)) / (1 - a) on average. The draw is a hash (two rounds of splitmix64) of the seed, the request
and its position in the answer: it depends neither on the batch nor on what ran before. Compute is always that of 1 + K
tokens. The draft model adds a constant to every step. Steps are not leapt over, since sequences advance at different
speeds.
"""

from typing import Final

from simulator.engine import layout
from simulator.engine.cost import decode_line, kv_segment, prefill_cost, sample_cost, token_cost
from simulator.engine.jit import kernel
from simulator.engine.layout import FRACTION_BITS, NEVER, NONE, Cells
from simulator.engine.leap import wait_for_output
from simulator.engine.sequences import release_due
from simulator.engine.step import add_occupancy, add_time, count_step, finish, log_step, run_on_device

# The constants of splitmix64 as signed integers.
_STRIDE: Final = -7046029254386353131
_FACTOR: Final = -4658895280553007687
_LAST_FACTOR: Final = -7723592293110705685
_DRAW_MASK: Final = (1 << 62) - 1


@kernel
def _mixed(x: int) -> int:
    """Finalise splitmix64; the masks make shifts of signed integers logical."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _FACTOR
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _LAST_FACTOR
    return x ^ ((x >> 31) & ((1 << 33) - 1))


@kernel
def _accepted(state: Cells, costs: Cells, req: int) -> int:
    """Draw how many drafts after the next token of a request are right."""
    number = (req - state[layout.REQUESTS]) // layout.REQUEST_COLUMNS
    stream = _mixed(state[layout.DRAFT_SEED] + (number + 1) * _STRIDE)
    draw = _mixed(stream + (state[req + layout.GENERATED] + 1) * _STRIDE) & _DRAW_MASK
    accepted = 0
    while accepted < state[layout.DRAFTS] and draw < costs[costs[layout.ACCEPTANCE] + accepted]:
        accepted += 1
    return accepted


@kernel
def _verify(state: Cells, costs: Cells, rep: int, req: int, end: int) -> None:
    """Count the tokens a decoding request gains in a step that ends at ``end``."""
    queries = state[req + layout.QUERIES]
    state[req + layout.QUERIES] = 0
    state[req + layout.EXPECTED] = state[req + layout.COMPUTED] + queries
    if queries > 0:
        lacking = state[req + layout.OUTPUT] - state[req + layout.GENERATED]
        gained = min(1 + min(_accepted(state, costs, req), queries - 1), lacking)
        state[req + layout.COMPUTED] += gained
        state[req + layout.GENERATED] += gained
        state[rep + layout.ACCEPTED_TOKENS] += gained - 1
        if gained == lacking:
            if lacking > 1 and state[layout.IS_ASYNC] == 1:
                state[req + layout.QUERIES] = 1 + state[layout.DRAFTS]  # its end is seen one decision too late
            finish(state, rep, req, end)
    if state[layout.IS_ASYNC] == 0:
        state[req + layout.EXPECTED] = state[req + layout.COMPUTED]


@kernel
def _complete_prefills(state: Cells, rep: int, end: int) -> None:
    """Give requests whose whole target is computed a token at ``end`` and let them decode with drafts."""
    row = state[rep + layout.PARTIAL_LIST]
    kept = 0
    for at in range(state[rep + layout.PARTIALS]):
        req = state[row + at]
        if state[req + layout.COMPUTED] < state[req + layout.TARGET]:
            state[row + kept] = req
            kept += 1
            continue
        state[req + layout.GENERATED] += 1
        state[req + layout.STATUS] = layout.VERIFYING
        state[req + layout.QUERIES] = 0
        state[req + layout.EXPECTED] = state[req + layout.COMPUTED]
        if state[req + layout.FIRST_TOKEN] == NONE:
            state[req + layout.FIRST_TOKEN] = end
        if state[req + layout.GENERATED] == state[req + layout.OUTPUT]:
            finish(state, rep, req, end)
    state[rep + layout.PARTIALS] = kept


@kernel
def _attention(state: Cells, costs: Cells, rep: int) -> int:
    """Attention of the planned decodes in 2^-12 ps."""
    batch = state[rep + layout.PLANNED_DECODES]
    if batch == 0:
        return 0
    tokens = state[rep + layout.PLANNED_DECODE_KV]
    cost, _ = decode_line(costs, costs[layout.DECODE], 0, batch, kv_segment(costs, tokens, 0), tokens)
    if state[layout.WINDOW] > 0:
        tokens = state[rep + layout.PLANNED_WINDOW_KV]
        windowed, _ = decode_line(costs, costs[layout.WINDOWED], 0, batch, kv_segment(costs, tokens, 0), tokens)
        cost += windowed
    return cost


@kernel
def launch_with_drafts(
    state: Cells, costs: Cells, rep: int, prefill_tokens: int, prefills: int, pairs: int, reads: int, used_before: int
) -> None:
    """Run the step that was just scheduled."""
    batch = state[rep + layout.PLANNED_DECODES]
    queries = state[rep + layout.PLANNED_DECODE_TOKENS]
    token_ps = token_cost(costs, 0, queries + prefill_tokens, prefills)
    sample_ps = sample_cost(costs, 0, queries + prefills)
    draft_ps = state[layout.DRAFT_STEP]
    attention = prefill_cost(costs, 0, prefill_tokens, pairs, reads) << FRACTION_BITS
    attention += _attention(state, costs, rep)
    device = ((token_ps + sample_ps + draft_ps) << FRACTION_BITS) + attention
    start, end = run_on_device(state, rep, device, batch + prefills)
    decode_kv = state[rep + layout.PLANNED_DECODE_KV]
    if state[layout.LOG_CAPACITY] > 0:
        log_step(state, rep, start, end, prefill_tokens, prefills, pairs, batch, decode_kv)
    state[rep + layout.TOKEN_TIME] += token_ps
    state[rep + layout.SAMPLE_TIME] += sample_ps
    state[rep + layout.DRAFT_TIME] += draft_ps
    add_time(state, rep + layout.ATTENTION_TIME, attention)
    count_step(state, rep, batch, prefill_tokens, prefills, pairs, reads)
    drafts = queries - batch
    state[rep + layout.DRAFT_TOKENS] += drafts
    state[rep + layout.DECODE_TOKENS] += drafts
    state[rep + layout.SAMPLED_ROWS] += drafts
    state[rep + layout.DECODE_KV_READS] += decode_kv
    add_occupancy(state, rep, used_before, batch + prefills, end - start)
    state[rep + layout.DECISION] = start if state[layout.IS_ASYNC] == 1 else end
    state[rep + layout.LAST_END] = end
    req = state[rep + layout.RUN_HEAD]
    while req != NONE:
        if state[req + layout.STATUS] == layout.VERIFYING:
            _verify(state, costs, rep, req, end)
        req = state[req + layout.NEXT]
    _complete_prefills(state, rep, end)
    release_due(state, rep)


@kernel
def finish_pass_with_drafts(state: Cells, rep: int, has_launched: bool) -> bool:
    """Set the next decision after a pass; False if the replica can never go on, which is a defect."""
    if not has_launched:
        is_stuck = state[rep + layout.RUN_COUNT] > 0 or state[rep + layout.BLOCKED] == 1
        if is_stuck and state[rep + layout.DECISION] >= state[rep + layout.END]:
            return False
        wait_for_output(state, rep)
    state[rep + layout.KEY] = state[rep + layout.DECISION]
    is_empty = state[rep + layout.RUN_COUNT] == 0 and state[rep + layout.WAIT_COUNT] == 0
    if is_empty and state[rep + layout.DECISION] >= state[rep + layout.END]:
        state[rep + layout.KEY] = NEVER
    return True
