"""Attention data parallelism with shared experts: the ranks of a replica schedule apart and step together.

Every rank is a scheduler with requests and KV of its own; the experts span all of them. So a step starts and ends at
the same time on every rank: all run the mixed kernels if one has a prefill, and a rank without work runs a dummy batch
as long as another has some. A step takes

    token(most tokens) + max over ranks (attention + sampling)

where all are padded to the most tokens of any rank while those fit a CUDA graph; above, experts work on the tokens
there are. The host of the busiest rank is the floor or the addend. Time a rank waits for a slower one is its bubble.
Source: vLLM 0.33, data-parallel engine cores with expert parallelism (reference 1.7). SGLang's ranks do the same with
its scheduler, each with prefill or decode.
"""

from simulator.engine import layout
from simulator.engine.cost import prefill_cost, ranks_token_cost, sample_cost
from simulator.engine.jit import kernel
from simulator.engine.layout import FRACTION_BITS, FRACTION_MASK, NEVER, Cells
from simulator.engine.prefix_cache import used_blocks
from simulator.engine.scheduler_sglang import schedule_sglang
from simulator.engine.scheduler_v1 import schedule_v1
from simulator.engine.sequences import release_due
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
def first_rank(state: Cells, rep: int) -> int:
    """Row of the first rank of the replica that rank ``rep`` belongs to."""
    number = state[rep + layout.NUMBER] // state[layout.RANKS] * state[layout.RANKS]
    return state[layout.REPLICAS] + number * layout.REPLICA_COLUMNS


@kernel
def _schedule_ranks(state: Cells, first: int, decision: int) -> tuple[int, int, int, int]:
    """Let every rank take its decision: (most tokens of a rank, tokens of all, most sequences, prefills of all)."""
    most_tokens = 0
    all_tokens = 0
    most_rows = 0
    all_prefills = 0
    for number in range(state[layout.RANKS]):
        rep = first + number * layout.REPLICA_COLUMNS
        grp = state[rep + layout.GROUPS]
        state[rep + layout.DECISION] = decision
        release_due(state, rep)
        state[rep + layout.PLANNED_USED] = used_blocks(state, rep)
        if state[layout.POLICY] == layout.SGLANG:
            tokens, prefills, pairs, reads, has_decodes = schedule_sglang(state, rep, grp)
        else:
            tokens, prefills, pairs, reads = schedule_v1(state, rep, grp)
            has_decodes = True
        state[rep + layout.PLANNED_TOKENS] = tokens
        state[rep + layout.PLANNED_PREFILLS] = prefills
        state[rep + layout.PLANNED_PAIRS] = pairs
        state[rep + layout.PLANNED_READS] = reads
        batch = state[grp + layout.DECODERS] if has_decodes else 0
        state[rep + layout.PLANNED_DECODES] = batch
        most_tokens = max(most_tokens, batch + tokens)
        all_tokens += batch + tokens
        most_rows = max(most_rows, batch + prefills)
        all_prefills += prefills
    return most_tokens, all_tokens, most_rows, all_prefills


@kernel
def _own_work(state: Cells, costs: Cells, rep: int) -> tuple[int, int]:
    """Attention of a rank in 2^-12 ps, and its sampling in ps."""
    grp = state[rep + layout.GROUPS]
    batch = state[rep + layout.PLANNED_DECODES]
    rows = batch + state[rep + layout.PLANNED_PREFILLS]
    tokens = state[rep + layout.PLANNED_TOKENS]
    attention = prefill_cost(costs, 0, tokens, state[rep + layout.PLANNED_PAIRS], state[rep + layout.PLANNED_READS])
    attention <<= FRACTION_BITS
    if batch > 0:
        attention += decode_attention(state, costs, grp, 0)
    return attention, sample_cost(costs, 0, rows) if rows > 0 else 0


@kernel
def step_together(state: Cells, costs: Cells, rep: int) -> bool:
    """Take one decision on all ranks and run its step; False if nobody had anything to run."""
    first = first_rank(state, rep)
    decision = state[rep + layout.DECISION]
    most_tokens, all_tokens, most_rows, prefills = _schedule_ranks(state, first, decision)
    if most_rows == 0:
        return False
    token_ps = ranks_token_cost(costs, most_tokens, all_tokens, state[layout.RANKS], prefills)
    slowest = 0
    for number in range(state[layout.RANKS]):
        attention, sample_ps = _own_work(state, costs, first + number * layout.REPLICA_COLUMNS)
        slowest = max(slowest, attention + (sample_ps << FRACTION_BITS))
    device = (token_ps << FRACTION_BITS) + slowest
    host = (state[layout.HOST_STEP] + state[layout.HOST_SEQ] * most_rows) << FRACTION_BITS
    duration = max(device, host) if state[layout.IS_ASYNC] == 1 else device + host
    start = state[first + layout.END]
    fraction = state[first + layout.END_FRACTION]
    if decision > start:
        start = decision
        fraction = 0
    clock = fraction + duration
    end = start + (clock >> FRACTION_BITS)
    for number in range(state[layout.RANKS]):
        rank = first + number * layout.REPLICA_COLUMNS
        _finish_rank(state, costs, rank, start, end, token_ps, duration - device)
        state[rank + layout.END_FRACTION] = clock & FRACTION_MASK
    return True


@kernel
def _finish_rank(state: Cells, costs: Cells, rep: int, start: int, end: int, token_ps: int, host: int) -> None:
    """Count what one rank did in a step from ``start`` to ``end``."""
    grp = state[rep + layout.GROUPS]
    batch = state[rep + layout.PLANNED_DECODES]
    tokens = state[rep + layout.PLANNED_TOKENS]
    prefills = state[rep + layout.PLANNED_PREFILLS]
    pairs = state[rep + layout.PLANNED_PAIRS]
    attention, sample_ps = _own_work(state, costs, rep)
    if state[layout.LOG_CAPACITY] > 0 and batch + prefills > 0:
        log_step(state, rep, start, end, tokens, prefills, pairs, batch, decode_reads(state, grp, batch))
    own = token_ps + sample_ps + ((attention + host) >> FRACTION_BITS)
    state[rep + layout.BUSY] += own
    state[rep + layout.BUBBLE_TIME] += end - start - own
    state[rep + layout.ACTIVE] += end - start
    state[rep + layout.TOKEN_TIME] += token_ps
    state[rep + layout.SAMPLE_TIME] += sample_ps
    add_time(state, rep + layout.ATTENTION_TIME, attention)
    add_time(state, rep + layout.HOST_TIME, host)
    if batch + prefills > 0:
        count_step(state, rep, batch, tokens, prefills, pairs, state[rep + layout.PLANNED_READS])
    add_occupancy(state, rep, state[rep + layout.PLANNED_USED], batch + prefills, end - start)
    state[rep + layout.END] = end
    state[rep + layout.DECISION] = start if state[layout.IS_ASYNC] == 1 else end
    apply_tokens(state, rep, grp, batch, end)


@kernel
def finish_lockstep_pass(state: Cells, rep: int, has_launched: bool, preempted: bool) -> bool:
    """Set the next decision of all ranks after a pass; False if the replica can never go on, which is a defect."""
    first = first_rank(state, rep)
    decision = state[first + layout.DECISION]
    is_over = not has_launched and decision >= state[first + layout.END]
    if not has_launched:
        decision = max(decision, state[first + layout.END])
    waiting = 0
    for number in range(state[layout.RANKS]):
        waiting += state[first + number * layout.REPLICA_COLUMNS + layout.WAIT_COUNT]
    if is_over and waiting > 0 and not preempted:
        return False
    for number in range(state[layout.RANKS]):
        rank = first + number * layout.REPLICA_COLUMNS
        state[rank + layout.DECISION] = decision
        state[rank + layout.KEY] = NEVER if is_over and waiting == 0 else decision
        release_due(state, rank)
    return True


@kernel
def preemptions(state: Cells, rep: int) -> int:
    """Count the preemptions of all ranks so far."""
    first = first_rank(state, rep)
    count = 0
    for number in range(state[layout.RANKS]):
        count += state[first + number * layout.REPLICA_COLUMNS + layout.PREEMPTED]
    return count
