"""The iteration log: one row per step, kept on request."""

from simulator.engine.jit import kernel
from simulator.engine.prefix_cache import free_blocks
from simulator.engine.replica import Replica
from simulator.engine.state import State
from simulator.engine.tables import log_row


@kernel
def log_step(
    state: State,
    rep: Replica,
    start: int,
    end: int,
    prefill_tokens: int,
    prefills: int,
    pairs: int,
    batch: int,
    decode_kv: int,
) -> None:
    """Write the row of a step that was just scheduled, before its tokens count."""
    log_row_of(
        state,
        rep,
        rep.decision_ps,
        start,
        end,
        prefill_tokens,
        prefills,
        pairs,
        batch,
        decode_kv,
        free_blocks(state, rep),
    )


@kernel
def log_row_of(
    state: State,
    rep: Replica,
    decision: int,
    start: int,
    end: int,
    prefill_tokens: int,
    prefills: int,
    pairs: int,
    batch: int,
    decode_kv: int,
    free: int,
) -> None:
    """Write one row, of a step decided at ``decision`` that leaves ``free`` blocks; rows beyond the end are dropped."""
    state.log_size += 1
    if state.log_size > state.log_capacity:
        return
    row = log_row(state, state.log_size - 1)
    row.replica = rep.number
    row.decision_ps = decision
    row.start_ps = start
    row.end_ps = end
    row.prefill_tokens = prefill_tokens
    row.decodes = batch
    row.prefills = prefills
    row.decode_kv = decode_kv
    row.pairs = pairs
    row.running = rep.running.count
    row.free = free
    row.waiting = rep.waiting.count
