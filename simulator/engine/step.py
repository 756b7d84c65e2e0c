"""Put one scheduled step on the device: its duration, its clock, and what its tokens change.

A step starts when the device is free and its decision is taken. Synchronous scheduling adds the host's time to the
device's; asynchronous scheduling hides it, so the host is only a floor, and the next decision is taken at the start of
this step instead of at its end. A finished request keeps slot and blocks until a decision that its last output
precedes: the next one when scheduling is synchronous, the one after it when it is not.
"""

from simulator.engine.bounds import ADMISSION_BITS, FRACTION_BITS, FRACTION_MASK, NONE, OCCUPANCY_BITS, OCCUPANCY_MASK
from simulator.engine.clients import announce_output
from simulator.engine.cost import decode_line, kv_segment, prefill_cost, sample_cost, token_cost
from simulator.engine.costs import Costs
from simulator.engine.decoding import (
    FINISH,
    FIRST_CHUNK,
    WINDOW,
    is_first_alive,
    start_decoding,
    stop_decoding,
)
from simulator.engine.heap import first_key, first_payload, pop
from simulator.engine.items import count_items, items_cost
from simulator.engine.iteration_log import log_planned
from simulator.engine.kernel import kernel
from simulator.engine.prefix_cache import used_blocks
from simulator.engine.replica import Duration, Group, Integral, Replica
from simulator.engine.request import DECODING, Request
from simulator.engine.sequences import hold_for_release, note_result, release_due
from simulator.engine.state import PREFILL_POOL, State
from simulator.engine.tables import list_at, request


@kernel
def add_time(total: Duration, amount: int) -> None:
    """Add ``amount`` of 2^-12 ps to a sum."""
    amount += total.fraction
    total.ps += amount >> FRACTION_BITS
    total.fraction = amount & FRACTION_MASK


@kernel
def note_peak(state: State, rep: Replica) -> int:
    """Count used blocks and remember the most there ever were."""
    used = used_blocks(state, rep)
    rep.peak_blocks = max(rep.peak_blocks, used)
    return used


@kernel
def _add_product(total: Integral, count: int, duration: int) -> None:
    """Add ``count`` times ``duration`` ps to a sum."""
    rest = count * (duration & OCCUPANCY_MASK) + total.rest
    total.whole += count * (duration >> OCCUPANCY_BITS) + (rest >> OCCUPANCY_BITS)
    total.rest = rest & OCCUPANCY_MASK


@kernel
def add_occupancy(state: State, rep: Replica, used_before: int, running: int, duration: int) -> None:
    """Add ``duration`` ps to the integrals; used blocks count as the mean of both ends."""
    used = used_before + note_peak(state, rep)
    _add_product(rep.used_block_time, used, duration)
    _add_product(rep.running_time, running, duration)


@kernel
def decode_reads(grp: Group, batch: int) -> int:
    """Tokens of KV that ``batch`` sequences of a group, all or none, see in their next step."""
    return grp.decode_kv + batch if batch > 0 else 0


@kernel
def finish(state: State, rep: Replica, req: Request, end: int) -> None:
    """Answer a request at ``end``; it keeps slot and blocks until that is seen.

    SGLang's client hears of it then as well: until then the request can be retracted, but for pipelines, in which only
    a micro-batch that is back is retracted from.
    """
    req.finish_ps = end
    if req.first_token_ps == NONE:
        req.first_token_ps = end
    if not state.is_sglang or state.pool == PREFILL_POOL or state.stages > 1:
        announce_output(state, rep, req, end)
    hold_for_release(state, rep, req)


@kernel
def settle(state: State, rep: Replica, grp: Group, end: int) -> None:
    """After a step of ``grp`` that ends at ``end``, and the next decision known: finish and release what is due."""
    epoch = grp.epoch
    while grp.windows.size > 0 and first_key(state, grp.windows) >> ADMISSION_BITS <= epoch:
        if is_first_alive(state, grp.windows, WINDOW):
            grp.window_open -= 1
        pop(state, grp.windows)
    while grp.firsts.size > 0 and first_key(state, grp.firsts) >> ADMISSION_BITS <= epoch:
        if is_first_alive(state, grp.firsts, FIRST_CHUNK):
            request(state, first_payload(state, grp.firsts)).first_token_ps = end
        pop(state, grp.firsts)
    while grp.finishes.size > 0 and first_key(state, grp.finishes) >> ADMISSION_BITS <= epoch:
        if is_first_alive(state, grp.finishes, FINISH):
            req = request(state, first_payload(state, grp.finishes))
            if state.decodes_always and req.last_decision < rep.decisions:
                finish(state, rep, req, end)
                req.status = DECODING  # on, until the tokens before its last are seen
                req.last_decision = max(req.last_decision, grp.last_launch)
                rep.surplus += 1
            elif state.is_sglang:
                finish(state, rep, req, end)
            else:
                stop_decoding(state, req)
                req.last_decision = rep.decisions
                finish(state, rep, req, end)
        pop(state, grp.finishes)
    release_due(state, rep)


@kernel
def decode_attention(state: State, costs: Costs, grp: Group, stage: int) -> int:
    """Attention of one decode step of a group in 2^-12 ps."""
    batch = grp.decoders
    tokens = grp.decode_kv + batch
    j = kv_segment(costs, tokens, grp.kv_segment)
    grp.kv_segment = j
    if stage == 0:
        knot = list_at(costs, costs.kv_knots)[j]
        if grp.line_batch != batch or grp.line_segment != j:
            grp.line_cost, grp.line_slope = decode_line(costs, costs.decode, 0, batch, j, knot)
            grp.line_batch = batch
            grp.line_segment = j
        cost = grp.line_cost + grp.line_slope * (tokens - knot)
    else:
        cost, _ = decode_line(costs, costs.decode, stage, batch, j, tokens)
    if state.window > 0:
        tokens = grp.window_kv + grp.window_open
        j = kv_segment(costs, tokens, grp.window_segment)
        grp.window_segment = j
        windowed, _ = decode_line(costs, costs.windowed, stage, batch, j, tokens)
        cost += windowed
    return cost


@kernel
def _complete_prefills(state: State, rep: Replica, grp: Group, end: int) -> None:
    """Give requests whose whole target is computed a token at ``end`` and let them decode."""
    partials = list_at(state, rep.partials)
    kept = 0
    for at in range(rep.num_partials):
        req = request(state, partials[at])
        if req.computed < req.target:
            partials[kept] = req.number
            kept += 1
            continue
        req.generated += 1
        if state.is_sglang and state.pool == PREFILL_POOL:
            finish(state, rep, req, end)  # it never joins a running batch
            continue
        if req.first_token_ps == NONE and req.generated >= state.first_chunk:
            req.first_token_ps = end
        start_decoding(state, grp, req)
        if state.has_tree:
            note_result(state, rep, req, end)
    rep.num_partials = kept


@kernel
def count_step(state: State, rep: Replica) -> None:
    """Add the planned step to the replica's sums of what steps did."""
    planned = rep.planned
    rep.steps += 1
    rep.prefill_tokens += planned.tokens
    rep.decode_tokens += planned.decodes
    if planned.decodes > 0 and state.stages == 1:
        rep.surplus_tokens += rep.overrunning
    rep.prefill_pairs += planned.pairs
    rep.prefill_kv_reads += planned.reads
    rep.sampled_rows += planned.decodes + planned.prefills
    if planned.prefills == 0:
        rep.decode_steps += 1
    list_at(state, rep.histogram)[planned.decodes + planned.prefills] += 1


@kernel
def apply_tokens(state: State, rep: Replica, grp: Group, heir: Group, batch: int, end: int) -> None:
    """Count the tokens of a step that ends at ``end``, whose next decision is known, and finish who is done.

    Sequences that the token budget did not reach decode in ``heir`` from now on.
    """
    rep.last_end_ps = end
    if batch > 0:
        grp.epoch += 1
        grp.decode_kv += batch
        grp.window_kv += grp.window_open
        rep.decode_kv_reads += grp.decode_kv
    at = rep.starved_head
    rep.starved_head = NONE
    while at != NONE:
        req = request(state, at)
        start_decoding(state, heir, req)
        req.chunk_start = NONE
        at = req.next_releasing
    _complete_prefills(state, rep, grp, end)
    settle(state, rep, grp, end)


@kernel
def run_on_device(state: State, rep: Replica, device: int, rows: int) -> tuple[int, int]:
    """Move a replica's clock over a step of ``rows`` sequences and ``device`` 2^-12 ps: its start and end in ps."""
    host = (state.host_step_ps + state.host_seq_ps * rows) << FRACTION_BITS
    duration = max(device, host) if state.is_async else device + host
    start = rep.end_ps
    fraction = rep.end_fraction
    if rep.decision_ps > start:
        start = rep.decision_ps
        fraction = 0
    clock = fraction + duration
    end = start + (clock >> FRACTION_BITS)
    rep.busy_ps += end - start
    rep.active_ps += end - start
    add_time(rep.host, duration - device)
    rep.end_ps = end
    rep.end_fraction = clock & FRACTION_MASK
    return start, end


@kernel
def launch(state: State, costs: Costs, rep: Replica, grp: Group) -> None:
    """Run the planned step."""
    planned = rep.planned
    batch = planned.decodes
    rows = batch + planned.prefills
    token_ps = token_cost(costs, 0, batch + planned.tokens, planned.prefills)
    sample_ps = sample_cost(costs, 0, rows)
    attention = prefill_cost(costs, 0, planned.tokens, planned.pairs, planned.reads, batch) << FRACTION_BITS
    if batch > 0:
        attention += decode_attention(state, costs, grp, 0)
    encoder_ps = items_cost(costs, planned)
    device = ((encoder_ps + token_ps + sample_ps) << FRACTION_BITS) + attention
    start, end = run_on_device(state, rep, device, rows)
    if state.log_capacity > 0:
        log_planned(state, rep, start, end, decode_reads(grp, batch))
    rep.token_ps += token_ps
    rep.sample_ps += sample_ps
    add_time(rep.attention, attention)
    count_items(rep, encoder_ps)
    count_step(state, rep)
    add_occupancy(state, rep, planned.used, rows, end - start)
    rep.decision_ps = start if state.is_async else end
    apply_tokens(state, rep, grp, grp, batch, end)
