"""Run steps of a leap that was proposed (``leap``): their blocks, their time, what they finish, their rows of the log.

Everything is as single steps would leave it. A leap has parts where something happens within it: what is seen after the
first step may free blocks for the others, and who has the last token before the last step overruns in that one.
"""

from simulator.engine.blocks import full_blocks, phase
from simulator.engine.bounds import ADMISSION_BITS, FRACTION_BITS, FRACTION_MASK, NONE
from simulator.engine.decoding import FINISH, FIRST_CHUNK, is_first_alive
from simulator.engine.heap import first_key, first_payload, pop
from simulator.engine.iteration_log import log_decodes
from simulator.engine.kernel import kernel
from simulator.engine.leap import blocks_needed, elapsed
from simulator.engine.prefix_cache import allocate, free_blocks, used_blocks
from simulator.engine.replica import Group, Replica
from simulator.engine.scheduler_sglang import allocate_decode, begin_decode
from simulator.engine.sequences import release_due
from simulator.engine.state import State
from simulator.engine.step import add_occupancy, add_time, finish, note_peak, settle
from simulator.engine.tables import list_at, request


@kernel
def _end_of_step(rep: Replica, number: int) -> int:
    """Time at which step ``number`` of the leap ends; 0 is its start."""
    clock = elapsed(rep.step_cost, rep.step_growth, number)
    return rep.leap_start_ps + ((rep.leap_start_fraction + clock) >> FRACTION_BITS)


@kernel
def _decision_of(state: State, rep: Replica, number: int) -> int:
    """Time at which step ``number`` of the leap is decided."""
    if number == 1:
        return rep.decision_ps
    return _end_of_step(rep, number - 2 if state.is_async else number - 1)


@kernel
def _log_part(state: State, rep: Replica, grp: Group, first: int, last: int) -> None:
    """Write the rows of single steps ``first`` to ``last``, whose blocks are not taken yet."""
    free = free_blocks(state, rep) + blocks_needed(state, grp, first - 1)
    decision = _decision_of(state, rep, first)
    start = _end_of_step(rep, first - 1)
    for done in range(first, last + 1):
        end = _end_of_step(rep, done)
        decode_kv = grp.decode_kv + done * grp.decoders
        left = free - blocks_needed(state, grp, done)
        log_decodes(state, rep, decision, start, end, grp.decoders, decode_kv, left)
        decision = start if state.is_async else end
        start = end


@kernel
def _take_decodes(state: State, rep: Replica, grp: Group, first: int, last: int, need: int) -> None:
    """Take the blocks of SGLang's steps ``first`` to ``last``, ``need`` in all, evicting where single steps would."""
    batch = grp.decoders
    if rep.free >= need + batch:
        rep.free -= need
        return
    residue = list_at(state, grp.residue)
    step = first - 1
    while step < last:
        # As long as there is a block for every sequence nothing is evicted, and so many steps take just as many.
        rounds = min(rep.free // batch - 1, full_blocks(state, last - step))
        if rounds > 0:
            rep.free -= rounds * batch
            step += rounds * state.block_size
        else:
            allocate_decode(state, rep, residue[phase(state, grp.epoch + step)], batch)
            step += 1


@kernel
def _run_part(state: State, rep: Replica, grp: Group, first: int, last: int) -> None:
    """Let steps ``first`` to ``last`` of a leap take their blocks, and log them."""
    if state.log_capacity > 0:
        _log_part(state, rep, grp, first, last)
    need = blocks_needed(state, grp, last)
    if first > 1:
        need -= blocks_needed(state, grp, first - 1)
    if not state.is_sglang:
        allocate(state, rep, need)
        return
    used = used_blocks(state, rep)
    _take_decodes(state, rep, grp, first, last, need)
    add_occupancy(state, rep, used, grp.decoders, _end_of_step(rep, last) - _end_of_step(rep, first - 1))


@kernel
def _is_first_apart(state: State, rep: Replica, grp: Group) -> bool:
    """Begin the first step; whether it is a part: something is seen after it, or SGLang's batch is new in it."""
    if not state.is_sglang:
        return rep.releasing.head != NONE
    is_new = rep.over > 0 or rep.was_prefill or rep.num_results > 0
    begin_decode(state, rep, grp)
    rep.had_prefill = False
    return is_new


@kernel
def _has_overrun(state: State, grp: Group, steps: int) -> bool:
    """Whether somebody has the last token one step before the end of a leap, and decodes once more."""
    return state.is_sglang and steps > 1 and first_key(state, grp.finishes) >> ADMISSION_BITS < grp.epoch + steps


@kernel
def _finish_before_last(state: State, rep: Replica, grp: Group, steps: int) -> None:
    """Answer those who decode once more in the last step of a leap."""
    end = _end_of_step(rep, steps - 1)
    while grp.finishes.size > 0 and first_key(state, grp.finishes) >> ADMISSION_BITS < grp.epoch + steps:
        if is_first_alive(state, grp.finishes, FINISH):
            finish(state, rep, request(state, first_payload(state, grp.finishes)), end)
        pop(state, grp.finishes)


@kernel
def _send_first_chunks(state: State, rep: Replica, grp: Group, steps: int) -> None:
    """Send the first chunks that are complete within the next ``steps`` steps of the leap, each when its step ends."""
    while grp.firsts.size > 0 and first_key(state, grp.firsts) >> ADMISSION_BITS <= grp.epoch + steps:
        if is_first_alive(state, grp.firsts, FIRST_CHUNK):
            step = (first_key(state, grp.firsts) >> ADMISSION_BITS) - grp.epoch
            request(state, first_payload(state, grp.firsts)).first_token_ps = _end_of_step(rep, step)
        pop(state, grp.firsts)


@kernel
def _count(state: State, rep: Replica, grp: Group, steps: int) -> None:
    """Add a leap to the replica's sums."""
    batch = grp.decoders
    token = steps * rep.step_token_ps
    sample = steps * rep.step_sample_ps
    attention = elapsed(rep.step_attention, rep.attention_growth, steps)
    duration = elapsed(rep.step_cost, rep.step_growth, steps)
    rep.steps += steps
    rep.decode_steps += steps
    rep.token_ps += token
    rep.sample_ps += sample
    add_time(rep.attention, attention)
    add_time(rep.host, duration - attention - ((token + sample) << FRACTION_BITS))
    rep.decode_tokens += steps * batch
    rep.surplus_tokens += rep.overrunning  # in the last step alone
    rep.sampled_rows += steps * batch
    rep.decode_kv_reads += steps * grp.decode_kv + batch * (steps * (steps + 1) // 2)
    list_at(state, rep.histogram)[batch] += steps
    if state.recv_interval > 1:
        before = 0 if rep.skipped >= state.recv_interval else rep.skipped
        rep.skipped = (before + steps - 1) % state.recv_interval + 1


@kernel
def commit(state: State, rep: Replica, grp: Group, steps: int) -> None:
    """Run the first ``steps`` steps of the proposed leap."""
    used = used_blocks(state, rep)
    done = 0
    if _is_first_apart(state, rep, grp) and steps > 1:
        _run_part(state, rep, grp, 1, 1)
        note_peak(state, rep)
        rep.decision_ps = rep.leap_start_ps
        release_due(state, rep)
        done = 1
    has_overrun = _has_overrun(state, grp, steps)
    if has_overrun and done < steps - 1:
        _run_part(state, rep, grp, done + 1, steps - 1)
        done = steps - 1
    _run_part(state, rep, grp, done + 1, steps)
    _send_first_chunks(state, rep, grp, steps)
    if has_overrun:
        _finish_before_last(state, rep, grp, steps)
    _count(state, rep, grp, steps)
    first = rep.leap_start_ps
    clock = rep.leap_start_fraction + elapsed(rep.step_cost, rep.step_growth, steps)
    end = first + (clock >> FRACTION_BITS)
    rep.busy_ps += end - first
    rep.active_ps += end - first
    batch = grp.decoders
    if not state.is_sglang:
        add_occupancy(state, rep, used, batch, end - first)
    grp.epoch += steps
    grp.decode_kv += steps * batch
    grp.window_kv += steps * grp.window_open
    rep.decision_ps = _end_of_step(rep, steps - 1) if state.is_async else end
    rep.end_ps = end
    rep.end_fraction = clock & FRACTION_MASK
    rep.last_end_ps = end
    rep.leap_steps = 0
    settle(state, rep, grp, end)
