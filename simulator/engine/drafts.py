"""A step with speculative decoding: every decoding sequence gets one token, and one more per draft accepted.

The i-th draft is accepted with probability a if all before it were: a sequence gains 1 + min(G, K) tokens, G geometric,
which is (1 - a^(K + 1)) / (1 - a) on average. The draw is a hash (two rounds of splitmix64) of the seed, the request
and its position in the answer: it depends neither on the batch nor on what ran before. Compute is always that of 1 + K
tokens. The draft model adds a constant to every step, or to those after which somebody verifies its drafts. Steps are
not leapt over, since sequences advance at different speeds.
"""

from typing import Final

from simulator.engine.bounds import FRACTION_BITS, NEVER, NONE
from simulator.engine.cost import decode_line, kv_segment, prefill_cost, sample_cost, token_cost
from simulator.engine.costs import Costs
from simulator.engine.items import count_items, items_cost
from simulator.engine.iteration_log import log_planned
from simulator.engine.kernel import kernel
from simulator.engine.leap import wait_for_output
from simulator.engine.replica import Replica
from simulator.engine.request import VERIFYING, Request
from simulator.engine.sequences import release_due
from simulator.engine.state import State
from simulator.engine.step import add_occupancy, add_time, count_step, finish, run_on_device
from simulator.engine.tables import list_at, request

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
def _accepted(state: State, costs: Costs, req: Request) -> int:
    """Draw how many drafts after the next token of a request are right."""
    stream = _mixed(state.draft_seed + (req.number + 1) * _STRIDE)
    draw = _mixed(stream + (req.generated + 1) * _STRIDE) & _DRAW_MASK
    bounds = list_at(costs, costs.acceptance)
    accepted = 0
    while accepted < state.drafts and draw < bounds[accepted]:
        accepted += 1
    return accepted


@kernel
def _verify(state: State, costs: Costs, rep: Replica, req: Request, end: int) -> None:
    """Count the tokens a decoding request gains in a step that ends at ``end``."""
    queries = req.queries
    req.queries = 0
    req.expected = req.computed + queries
    req.sure = req.generated + int(queries > 0)
    if queries > 0:
        lacking = req.output - req.generated
        gained = min(1 + min(_accepted(state, costs, req), queries - 1), lacking)
        req.computed += gained
        req.generated += gained
        if req.first_token_ps == NONE and req.generated >= state.first_chunk:
            req.first_token_ps = end
        rep.accepted_tokens += gained - 1
        if gained == lacking:
            if lacking > 1 and state.is_async:
                req.queries = 1 + state.drafts  # its end is seen one decision too late
            finish(state, rep, req, end)
    if not state.is_async:
        req.expected = req.computed
        req.sure = req.generated


@kernel
def _complete_prefills(state: State, rep: Replica, end: int) -> None:
    """Give requests whose whole target is computed a token at ``end`` and let them decode with drafts."""
    partials = list_at(state, rep.partials)
    kept = 0
    for at in range(rep.num_partials):
        req = request(state, partials[at])
        if req.computed < req.target:
            partials[kept] = req.number
            kept += 1
            continue
        req.generated += 1
        req.status = VERIFYING
        req.queries = 0
        req.expected = req.computed
        req.sure = req.generated
        if req.first_token_ps == NONE and req.generated >= state.first_chunk:
            req.first_token_ps = end
        if req.generated == req.output:
            finish(state, rep, req, end)
    rep.num_partials = kept


@kernel
def draft_ps(state: State, rep: Replica) -> int:
    """Time of the draft model in the planned step.

    Drafts are verified neither after part of a prompt nor by a sequence that has its last token for sure.
    """
    if not state.skips_drafts or rep.planned.needs_drafts:
        return state.draft_step_ps
    for at in range(rep.num_partials):
        req = request(state, list_at(state, rep.partials)[at])
        if req.computed == req.target and req.generated + 1 < req.output:
            return state.draft_step_ps
    return 0


@kernel
def attention_with_drafts(state: State, costs: Costs, rep: Replica) -> int:
    """Attention of the planned decodes in 2^-12 ps."""
    batch = rep.planned.decodes
    if batch == 0:
        return 0
    tokens = rep.planned.decode_kv
    cost, _ = decode_line(costs, costs.decode, 0, batch, kv_segment(costs, tokens, 0), tokens)
    if state.window > 0:
        tokens = rep.planned.window_kv
        windowed, _ = decode_line(costs, costs.windowed, 0, batch, kv_segment(costs, tokens, 0), tokens)
        cost += windowed
    return cost


@kernel
def count_drafts(rep: Replica) -> None:
    """Add the drafts of the planned step to the replica's sums, beside what is counted of every step."""
    planned = rep.planned
    drafts = planned.decode_tokens - planned.decodes
    rep.draft_tokens += drafts
    rep.decode_tokens += drafts
    rep.sampled_rows += drafts
    rep.decode_kv_reads += planned.decode_kv


@kernel
def verify_drafts(state: State, costs: Costs, rep: Replica, end: int) -> None:
    """Count the tokens that every sequence of the planned step gains when it ends, the next decision being known."""
    rep.last_end_ps = end
    at = rep.running.head
    while at != NONE:
        req = request(state, at)
        if req.status == VERIFYING:
            _verify(state, costs, rep, req, end)
        at = req.next
    _complete_prefills(state, rep, end)
    release_due(state, rep)


@kernel
def launch_with_drafts(state: State, costs: Costs, rep: Replica) -> None:
    """Run the planned step."""
    planned = rep.planned
    batch = planned.decodes
    queries = planned.decode_tokens
    token_ps = token_cost(costs, 0, queries + planned.tokens, planned.prefills)
    sample_ps = sample_cost(costs, 0, queries + planned.prefills)
    drafting_ps = draft_ps(state, rep)
    attention = prefill_cost(costs, 0, planned.tokens, planned.pairs, planned.reads, batch) << FRACTION_BITS
    attention += attention_with_drafts(state, costs, rep)
    encoder_ps = items_cost(costs, planned)
    device = ((encoder_ps + token_ps + sample_ps + drafting_ps) << FRACTION_BITS) + attention
    start, end = run_on_device(state, rep, device, batch + planned.prefills)
    if state.log_capacity > 0:
        log_planned(state, rep, start, end, planned.decode_kv)
    rep.token_ps += token_ps
    rep.sample_ps += sample_ps
    rep.draft_ps += drafting_ps
    add_time(rep.attention, attention)
    count_items(rep, encoder_ps)
    count_step(state, rep)
    count_drafts(rep)
    add_occupancy(state, rep, planned.used, batch + planned.prefills, end - start)
    rep.decision_ps = start if state.is_async else end
    verify_drafts(state, costs, rep, end)


@kernel
def finish_pass_with_drafts(state: State, rep: Replica, has_launched: bool) -> bool:
    """Set the next decision after a pass; False if the replica can never go on, which is a defect."""
    if not has_launched:
        is_stuck = rep.running.count > 0 or rep.is_blocked
        if is_stuck and rep.decision_ps >= rep.end_ps:
            rep.key_ps = NEVER  # until KV has come into a decode pool
            return rep.receiving > 0
        wait_for_output(state, rep)
    rep.key_ps = rep.decision_ps
    is_empty = rep.running.count == 0 and rep.waiting.count == 0
    if is_empty and rep.decision_ps >= rep.end_ps:
        rep.key_ps = NEVER
    return True
