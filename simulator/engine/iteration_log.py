"""The iteration log: one row per step, kept on request; rows beyond its end are counted, not kept."""

from simulator.engine.kernel import kernel
from simulator.engine.prefix_cache import free_blocks
from simulator.engine.replica import Replica
from simulator.engine.state import State
from simulator.engine.tables import log_row


@kernel
def log_decodes(
    state: State, rep: Replica, decision: int, start: int, end: int, batch: int, decode_kv: int, free: int
) -> None:
    """Write the row of a step without prefill, decided at ``decision``, that leaves ``free`` blocks."""
    state.log_size += 1
    if state.log_size > state.log_capacity:
        return
    row = log_row(state, state.log_size - 1)
    row.replica = rep.number
    row.decision_ps = decision
    row.start_ps = start
    row.end_ps = end
    row.prefill_tokens = 0
    row.decodes = batch
    row.prefills = 0
    row.decode_kv = decode_kv
    row.pairs = 0
    row.running = rep.running.count
    row.free = free
    row.waiting = rep.waiting.count


@kernel
def log_planned(state: State, rep: Replica, start: int, end: int, decode_kv: int) -> None:
    """Write the row of the planned step, before its tokens count."""
    planned = rep.planned
    log_decodes(state, rep, rep.decision_ps, start, end, planned.decodes, decode_kv, free_blocks(state, rep))
    if state.log_size <= state.log_capacity:
        row = log_row(state, state.log_size - 1)
        row.prefill_tokens = planned.tokens
        row.prefills = planned.prefills
        row.pairs = planned.pairs
