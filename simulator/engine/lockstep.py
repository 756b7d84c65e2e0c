"""Attention data parallelism with shared experts: the ranks of a replica schedule apart and step together.

Every rank is a scheduler with requests and KV of its own; the experts span all of them. So a step starts and ends at
the same time on every rank: all run the mixed kernels if one has a prefill, and a rank without work runs a dummy batch
as long as another has some. A step takes

    token(most tokens) + max over ranks (encoder + attention + sampling)

where all are padded to the most tokens of any rank while those fit a CUDA graph; above, experts work on the tokens
there are. The host of the busiest rank is the floor or the addend. Time a rank waits for a slower one is its bubble.
Source: vLLM 0.33, data-parallel engine cores with expert parallelism (reference 1.7). SGLang's ranks do the same with
its scheduler, each with prefill or decode. With drafts every rank schedules as in ``scheduler_drafts``; the draft model
has experts or collectives of its own, so it runs on all ranks where one has drafts to verify.
"""

from simulator.engine.bounds import FRACTION_BITS, FRACTION_MASK, NEVER
from simulator.engine.cost import prefill_cost, ranks_token_cost, sample_cost
from simulator.engine.costs import Costs
from simulator.engine.drafts import attention_with_drafts, count_drafts, draft_ps, verify_drafts
from simulator.engine.items import count_items, items_cost
from simulator.engine.iteration_log import log_planned
from simulator.engine.kernel import kernel
from simulator.engine.replica import Group, Replica
from simulator.engine.scheduler_drafts import schedule_with_drafts
from simulator.engine.scheduler_sglang import schedule_sglang
from simulator.engine.scheduler_v1 import schedule_v1
from simulator.engine.sequences import release_due
from simulator.engine.state import SGLANG, State
from simulator.engine.step import add_occupancy, add_time, apply_tokens, count_step, decode_attention, decode_reads
from simulator.engine.tables import group, list_at, replica
from simulator.engine.waiting import hold_ranks


@kernel
def first_rank(state: State, rep: Replica) -> Replica:
    """Return the first rank of the replica that rank ``rep`` belongs to."""
    return replica(state, rep.number // state.ranks * state.ranks)


@kernel
def _schedule_ranks(state: State, first: Replica, decision: int) -> tuple[int, int, int, int]:
    """Let every rank take its decision: (most tokens of a rank, tokens of all, most sequences, prefills of all)."""
    most_tokens = 0
    all_tokens = 0
    most_rows = 0
    all_prefills = 0
    for number in range(first.number, first.number + state.ranks):
        rep = replica(state, number)
        rep.decision_ps = decision
        release_due(state, rep)
    hold_ranks(state, first)
    for number in range(first.number, first.number + state.ranks):
        rep = replica(state, number)
        grp = group(state, rep.first_group)
        if state.policy == SGLANG:
            schedule_sglang(state, rep, grp)
        elif state.drafts > 0:
            schedule_with_drafts(state, rep)
        else:
            schedule_v1(state, rep, grp)
        planned = rep.planned
        tokens = planned.tokens + _decode_tokens(state, rep)
        most_tokens = max(most_tokens, tokens)
        all_tokens += tokens
        most_rows = max(most_rows, planned.decodes + planned.prefills)
        all_prefills += planned.prefills
    return most_tokens, all_tokens, most_rows, all_prefills


@kernel
def _decode_tokens(state: State, rep: Replica) -> int:
    """Tokens of the planned decodes of a rank, drafts included."""
    return rep.planned.decode_tokens if state.drafts > 0 else rep.planned.decodes


@kernel
def own_work(state: State, costs: Costs, rep: Replica, grp: Group, stage: int) -> tuple[int, int]:
    """Attention of a rank, of which ``grp`` decodes, in 2^-12 ps, and its sampling in ps, which the rank remembers.

    What stages before this one did of the same step has been asked for already.
    """
    planned = rep.planned
    batch = planned.decodes
    rows = _decode_tokens(state, rep) + planned.prefills
    if rows == 0:
        rep.step_attention = 0
        rep.step_sample_ps = 0
        return 0, 0
    if list_at(costs, costs.attention_repeats)[stage] == 0:
        attention = prefill_cost(costs, stage, planned.tokens, planned.pairs, planned.reads, batch)
        attention <<= FRACTION_BITS
        if state.drafts > 0:
            attention += attention_with_drafts(state, costs, rep)
        elif batch > 0:
            attention += decode_attention(state, costs, grp, stage)
        rep.step_attention = attention
    rep.step_sample_ps = sample_cost(costs, stage, rows)
    return rep.step_attention, rep.step_sample_ps


@kernel
def _drafting_ps(state: State, first: Replica) -> int:
    """Time of the draft model, which runs on all ranks if it does on one."""
    longest = 0
    if state.drafts > 0:
        for number in range(first.number, first.number + state.ranks):
            rep = replica(state, number)
            if rep.planned.decodes + rep.planned.prefills > 0:
                longest = max(longest, draft_ps(state, rep))
    return longest


@kernel
def step_together(state: State, costs: Costs, rep: Replica) -> bool:
    """Take one decision on all ranks and run its step; False if nobody had anything to run."""
    first = first_rank(state, rep)
    decision = rep.decision_ps
    most_tokens, all_tokens, most_rows, prefills = _schedule_ranks(state, first, decision)
    if most_rows == 0:
        return False
    token_ps = ranks_token_cost(costs, 0, most_tokens, all_tokens, state.ranks, prefills)
    drafting_ps = _drafting_ps(state, first)
    slowest = 0
    for number in range(first.number, first.number + state.ranks):
        rank = replica(state, number)
        attention, sample_ps = own_work(state, costs, rank, group(state, rank.first_group), 0)
        slowest = max(slowest, attention + ((items_cost(costs, rank.planned) + sample_ps) << FRACTION_BITS))
    device = ((token_ps + drafting_ps) << FRACTION_BITS) + slowest
    host = (state.host_step_ps + state.host_seq_ps * most_rows) << FRACTION_BITS
    duration = max(device, host) if state.is_async else device + host
    start = first.end_ps
    fraction = first.end_fraction
    if decision > start:
        start = decision
        fraction = 0
    clock = fraction + duration
    end = start + (clock >> FRACTION_BITS)
    for number in range(first.number, first.number + state.ranks):
        rank = replica(state, number)
        _finish_rank(state, costs, rank, start, end, token_ps, drafting_ps, duration - device)
        rank.end_fraction = clock & FRACTION_MASK
    return True


@kernel
def _finish_rank(
    state: State, costs: Costs, rep: Replica, start: int, end: int, token_ps: int, drafting_ps: int, host: int
) -> None:
    """Count what one rank did in a step from ``start`` to ``end``."""
    grp = group(state, rep.first_group)
    batch = rep.planned.decodes
    rows = batch + rep.planned.prefills
    attention = rep.step_attention
    sample_ps = rep.step_sample_ps
    if state.log_capacity > 0 and rows > 0:
        reads = rep.planned.decode_kv if state.drafts > 0 else decode_reads(grp, batch)
        log_planned(state, rep, start, end, reads)
    encoder_ps = items_cost(costs, rep.planned)
    own = encoder_ps + token_ps + drafting_ps + sample_ps + ((attention + host) >> FRACTION_BITS)
    rep.busy_ps += own
    rep.bubble_ps += end - start - own
    rep.active_ps += end - start
    rep.token_ps += token_ps
    rep.sample_ps += sample_ps
    add_time(rep.attention, attention)
    add_time(rep.host, host)
    count_items(rep, encoder_ps)
    if rows > 0:
        count_step(state, rep)
    add_occupancy(state, rep, rep.planned.used, rows, end - start)
    rep.end_ps = end
    rep.decision_ps = start if state.is_async else end
    if state.drafts > 0:
        rep.draft_ps += drafting_ps
        if rows > 0:
            count_drafts(rep)
            verify_drafts(state, costs, rep, end)
    else:
        apply_tokens(state, rep, grp, grp, batch, end)


@kernel
def awaits_kv(state: State, first: Replica) -> bool:
    """Whether a rank holds blocks whose KV has not left a prefill pool, or not come into a decode pool."""
    blocked = 0
    for number in range(first.number, first.number + state.ranks):
        rep = replica(state, number)
        blocked += rep.sending + rep.receiving
    return blocked > 0


@kernel
def finish_lockstep_pass(state: State, rep: Replica, has_launched: bool, preempted: bool) -> bool:
    """Set the next decision of all ranks after a pass; False if the replica can never go on, which is a defect."""
    first = first_rank(state, rep)
    decision = first.decision_ps
    is_over = not has_launched and decision >= first.end_ps
    if not has_launched:
        decision = max(decision, first.end_ps)
    waiting = 0
    for number in range(first.number, first.number + state.ranks):
        waiting += replica(state, number).waiting.count
    is_stuck = is_over and waiting > 0 and not preempted
    if is_stuck and not awaits_kv(state, first):
        return False
    for number in range(first.number, first.number + state.ranks):
        rank = replica(state, number)
        rank.decision_ps = decision
        rank.key_ps = NEVER if is_over and (waiting == 0 or is_stuck) else decision
        release_due(state, rank)
    return True


@kernel
def preemptions(state: State, rep: Replica) -> int:
    """Count the preemptions of all ranks so far."""
    first = first_rank(state, rep)
    count = 0
    for number in range(first.number, first.number + state.ranks):
        count += replica(state, number).preempted
    return count
