"""Leap over a run of decode-only steps at once, ending on exactly the clock that single steps would reach.

While nobody joins or leaves, step i of a leap costs ``d + i * g`` (KV grows by one token per sequence and step, and the
cost is linear in KV between two knots), so n steps take ``n d + g n (n - 1) / 2``. A leap ends where any of that
stops being true: a finish, a knot, a full sliding window, the host's floor, a block that is not there. What arrives in
between cuts it short: steps decided before the arrival stand, the rest are proposed again.
"""

from math import sqrt

from simulator.engine.bounds import ADMISSION_BITS, FRACTION_BITS, FRACTION_MASK, LONGEST_LEAP, NEVER, NONE
from simulator.engine.cost import decode_line, kv_segment, sample_cost, steps_in_segment, token_cost
from simulator.engine.costs import Costs
from simulator.engine.decoding import FINISH, FIRST_CHUNK, WINDOW, is_first_alive, next_epoch
from simulator.engine.heap import first_key, first_payload, pop
from simulator.engine.iteration_log import log_decodes
from simulator.engine.jit import kernel
from simulator.engine.prefix_cache import allocate, free_blocks, used_blocks
from simulator.engine.replica import Group, Replica
from simulator.engine.scheduler_sglang import allocate_decode, begin_decode
from simulator.engine.sequences import release_due
from simulator.engine.state import State
from simulator.engine.step import add_occupancy, add_time, note_peak, settle
from simulator.engine.tables import group, list_at, request


@kernel
def _elapsed(cost: int, growth: int, steps: int) -> int:
    """Time of the first ``steps`` steps in 2^-12 ps."""
    return steps * cost + growth * (steps * (steps - 1) // 2)


@kernel
def _blocks_needed(state: State, grp: Group, steps: int) -> int:
    """Count the new KV blocks of all decoding sequences over the next ``steps`` steps."""
    if state.reserves_output:
        return 0
    size = state.block_size
    rounds = steps // size
    need = rounds * grp.decoders
    at = grp.epoch % size
    residue = list_at(state, grp.residue)
    for _ in range(steps - rounds * size):
        need += residue[at]
        at += 1
        if at == size:
            at = 0
    return need


@kernel
def _steps_within_blocks(state: State, rep: Replica, grp: Group, limit: int) -> int:
    """Longest leap, at most ``limit``, that the free blocks can feed."""
    size = state.block_size
    free = free_blocks(state, rep)
    batch = grp.decoders
    if state.reserves_output or (limit // size + 1) * batch <= free:
        return limit
    steps = free // batch * size
    free %= batch
    residue = list_at(state, grp.residue)
    at = grp.epoch % size
    while steps < limit and residue[at] <= free:
        free -= residue[at]
        steps += 1
        at += 1
        if at == size:
            at = 0
    return min(steps, limit)


@kernel
def _attention(state: State, costs: Costs, grp: Group) -> tuple[int, int, int]:
    """Attention of the group's next step, its growth per step, and the steps for which that growth holds."""
    batch = grp.decoders
    tokens = grp.decode_kv + batch
    j = kv_segment(costs, tokens, grp.kv_segment)
    grp.kv_segment = j
    cost, slope = decode_line(costs, costs.decode, 0, batch, j, tokens)
    growth = slope * batch
    steps = steps_in_segment(costs, j, tokens, batch)
    if state.window > 0:
        opened = grp.window_open
        tokens = grp.window_kv + opened
        j = kv_segment(costs, tokens, grp.window_segment)
        grp.window_segment = j
        windowed, slope = decode_line(costs, costs.windowed, 0, batch, j, tokens)
        cost += windowed
        growth += slope * opened
        if opened > 0:
            steps = min(steps, next_epoch(state, grp.windows, WINDOW) - grp.epoch)
            steps = min(steps, steps_in_segment(costs, j, tokens, opened))
    return cost, growth, steps


@kernel
def _steps_to_next_look(state: State, rep: Replica, limit: int) -> int:
    """Count the steps before the scheduler sees those that have arrived; ``limit`` where nobody has."""
    return state.recv_interval - rep.skipped if rep.unseen.count > 0 else limit


@kernel
def _needs_a_pass(state: State, rep: Replica, grp: Group) -> bool:
    """Whether the next decision may be anything but to decode on."""
    if rep.num_partials > 0 or (rep.waiting.count > 0 and (not rep.is_blocked or rep.was_prefill)):
        return True
    return rep.unseen.count > 0 and (grp.decoders == 0 or rep.skipped >= state.recv_interval)


@kernel
def _sees_results_next(state: State, rep: Replica) -> bool:
    """Whether SGLang's scheduler knows more, or its running batch is another one, after the next decode."""
    if not state.is_sglang:
        return False
    return rep.overrunning > 0 or rep.over > 0 or rep.num_results > 0 or rep.was_prefill


@kernel
def _take_blocks(state: State, rep: Replica, grp: Group, need: int, steps: int) -> None:
    """Take the blocks of the next ``steps`` decodes, ``need`` in all."""
    if not state.is_sglang:
        allocate(state, rep, need)
        return
    if rep.free >= need + grp.decoders:
        rep.free -= need
        return
    residue = list_at(state, grp.residue)
    for step in range(steps):
        allocate_decode(state, rep, residue[(grp.epoch + step) % state.block_size], grp.decoders)


@kernel
def propose(state: State, costs: Costs, rep: Replica, grp: Group) -> None:
    """Decide what a replica does next if nothing arrives: idle, one full scheduling pass, or a leap."""
    rep.leap_steps = 0
    rep.key_ps = rep.decision_ps
    has_waiting = rep.waiting.count > 0
    if _needs_a_pass(state, rep, grp):
        return
    if grp.decoders == 0:
        if has_waiting and not state.is_sglang:
            wait_for_output(state, rep)
        elif not has_waiting and rep.decision_ps >= rep.end_ps:
            rep.key_ps = NEVER
        return
    batch = grp.decoders
    cost, growth, steps = _attention(state, costs, grp)
    # What is released after the first step may admit somebody.
    if not state.is_leaping or (has_waiting and rep.releasing.head != NONE) or _sees_results_next(state, rep):
        steps = 1
    else:
        steps = min(steps, next_epoch(state, grp.finishes, FINISH) - grp.epoch)
    steps = min(steps, _steps_to_next_look(state, rep, steps))
    steps = _steps_within_blocks(state, rep, grp, steps)
    if steps == 0:
        return
    rep.step_attention = cost
    rep.attention_growth = growth
    rep.step_token_ps = token_cost(costs, 0, batch, 0)
    rep.step_sample_ps = sample_cost(costs, 0, batch)
    cost += (rep.step_token_ps + rep.step_sample_ps) << FRACTION_BITS
    host = (state.host_step_ps + state.host_seq_ps * batch) << FRACTION_BITS
    if not state.is_async:
        cost += host
    elif cost >= host:
        if growth < 0:
            steps = min(steps, (cost - host) // -growth + 1)
    else:
        if growth > 0:
            steps = min(steps, (host - cost + growth - 1) // growth)
        cost = host
        growth = 0
    _propose_leap(state, rep, cost, growth, steps)


@kernel
def _propose_leap(state: State, rep: Replica, cost: int, growth: int, steps: int) -> None:
    """Record a leap, no longer than 62 bits hold, and the time of its last decision."""
    steps = min(steps, max(1, LONGEST_LEAP // max(1, cost, cost + growth * (steps - 1))))
    start = rep.end_ps
    fraction = rep.end_fraction
    if rep.decision_ps > start:
        start = rep.decision_ps
        fraction = 0
    rep.leap_steps = steps
    rep.step_cost = cost
    rep.step_growth = growth
    rep.leap_start_ps = start
    rep.leap_start_fraction = fraction
    started_before = steps - 1 - state.is_async
    if started_before >= 0:
        # Asynchronous: the last step is decided at the start of the one before it.
        rep.key_ps = start + ((fraction + _elapsed(cost, growth, started_before)) >> FRACTION_BITS)


@kernel
def wait_for_output(state: State, rep: Replica) -> None:
    """Take the next decision when the step under way has ended: nothing can run before."""
    rep.decision_ps = max(rep.decision_ps, rep.end_ps)
    release_due(state, rep)
    if not state.is_sglang:
        rep.is_blocked = False
    rep.key_ps = rep.decision_ps


@kernel
def finish_pass(state: State, costs: Costs, rep: Replica, has_launched: bool) -> bool:
    """Propose what follows a scheduling pass; False if the replica can never go on, which is a defect."""
    if not has_launched:
        # All output is back, nobody was preempted, and still nothing can run.
        is_stuck = rep.running.count > 0 or rep.is_blocked or (state.is_sglang and rep.waiting.count > 0)
        if is_stuck and rep.decision_ps >= rep.end_ps:
            return False
        wait_for_output(state, rep)
    propose(state, costs, rep, group(state, rep.first_group))
    return True


@kernel
def steps_decided_before(state: State, rep: Replica, time: int) -> int:
    """How many steps of the proposed leap are decided strictly before ``time``."""
    if time <= rep.decision_ps:
        return 0
    span = ((time - rep.leap_start_ps) << FRACTION_BITS) - rep.leap_start_fraction
    cost = rep.step_cost
    growth = rep.step_growth
    steps = rep.leap_steps
    started = 0
    if span > 0:
        # Largest count whose last start lies before `time`: solve for it, then correct the rounding.
        half = float(cost) - 0.5 * float(growth)
        root = sqrt(max(0.0, half * half + 2.0 * float(growth) * float(span)))
        last = min(int(2.0 * float(span) / max(1.0, half + root)), steps)
        while last < steps and _elapsed(cost, growth, last + 1) < span:
            last += 1
        while last > 0 and _elapsed(cost, growth, last) >= span:
            last -= 1
        started = last + 1
    return min(steps, started + state.is_async)


@kernel
def _count(state: State, rep: Replica, grp: Group, steps: int) -> None:
    """Add a leap to the replica's sums."""
    batch = grp.decoders
    token = steps * rep.step_token_ps
    sample = steps * rep.step_sample_ps
    attention = _elapsed(rep.step_attention, rep.attention_growth, steps)
    elapsed = _elapsed(rep.step_cost, rep.step_growth, steps)
    rep.steps += steps
    rep.decode_steps += steps
    rep.token_ps += token
    rep.sample_ps += sample
    add_time(rep.attention, attention)
    add_time(rep.host, elapsed - attention - ((token + sample) << FRACTION_BITS))
    rep.decode_tokens += steps * batch
    rep.surplus_tokens += steps * rep.overrunning
    rep.sampled_rows += steps * batch
    rep.decode_kv_reads += steps * grp.decode_kv + batch * (steps * (steps + 1) // 2)
    list_at(state, rep.histogram)[batch] += steps


@kernel
def _end_of_step(rep: Replica, number: int) -> int:
    """Time at which step ``number`` of the leap ends; 0 is its start."""
    clock = _elapsed(rep.step_cost, rep.step_growth, number)
    return rep.leap_start_ps + ((rep.leap_start_fraction + clock) >> FRACTION_BITS)


@kernel
def _log_leap(state: State, rep: Replica, grp: Group, first: int, steps: int, free: int, decision: int) -> None:
    """Write the rows that single steps ``first`` to ``steps`` would have written.

    ``decision`` is when the first of them was decided, ``free`` the blocks there would be had none of the leap
    taken any.
    """
    start = _end_of_step(rep, first - 1)
    for done in range(first, steps + 1):
        end = _end_of_step(rep, done)
        decode_kv = grp.decode_kv + done * grp.decoders
        left = free - _blocks_needed(state, grp, done)
        log_decodes(state, rep, decision, start, end, grp.decoders, decode_kv, left)
        decision = start if state.is_async else end
        start = end


@kernel
def _grow_and_release(state: State, rep: Replica, grp: Group) -> int:
    """Take the blocks of a leap's first step and release what is due before its second; returns the blocks."""
    need = _blocks_needed(state, grp, 1)
    allocate(state, rep, need)
    note_peak(state, rep)
    rep.decision_ps = rep.leap_start_ps
    release_due(state, rep)
    return need


@kernel
def _send_first_chunks(state: State, rep: Replica, grp: Group, steps: int) -> None:
    """Send the first chunks that are complete within the next ``steps`` steps of the leap, each when its step ends."""
    while grp.firsts.size > 0 and first_key(state, grp.firsts) >> ADMISSION_BITS <= grp.epoch + steps:
        if is_first_alive(state, grp.firsts, FIRST_CHUNK):
            step = (first_key(state, grp.firsts) >> ADMISSION_BITS) - grp.epoch
            request(state, first_payload(state, grp.firsts)).first_token_ps = _end_of_step(rep, step)
        pop(state, grp.firsts)


@kernel
def commit(state: State, rep: Replica, grp: Group, steps: int) -> None:
    """Run the first ``steps`` steps of the proposed leap."""
    if state.is_sglang:
        begin_decode(state, rep, grp)
        rep.had_prefill = False
    cost = rep.step_cost
    growth = rep.step_growth
    batch = grp.decoders
    first = rep.leap_start_ps
    fraction = rep.leap_start_fraction
    used = used_blocks(state, rep)
    need = _blocks_needed(state, grp, steps)
    has_log = state.log_capacity > 0
    if rep.releasing.head != NONE and steps > 1:
        # Blocks of requests that finished before come back after the first of these steps is scheduled.
        if has_log:
            _log_leap(state, rep, grp, 1, 1, free_blocks(state, rep), rep.decision_ps)
        taken = _grow_and_release(state, rep, grp)
        need -= taken
        if has_log:
            decision = first if state.is_async else _end_of_step(rep, 1)
            _log_leap(state, rep, grp, 2, steps, free_blocks(state, rep) + taken, decision)
    elif has_log:
        _log_leap(state, rep, grp, 1, steps, free_blocks(state, rep), rep.decision_ps)
    _take_blocks(state, rep, grp, need, steps)
    if state.recv_interval > 1:
        before = 0 if rep.skipped >= state.recv_interval else rep.skipped
        rep.skipped = (before + steps - 1) % state.recv_interval + 1
    clock = fraction + _elapsed(cost, growth, steps)
    end = first + (clock >> FRACTION_BITS)
    _count(state, rep, grp, steps)
    _send_first_chunks(state, rep, grp, steps)
    rep.busy_ps += end - first
    rep.active_ps += end - first
    add_occupancy(state, rep, used, batch, end - first)
    grp.epoch += steps
    grp.decode_kv += steps * batch
    grp.window_kv += steps * grp.window_open
    rep.end_ps = end
    rep.end_fraction = clock & FRACTION_MASK
    rep.last_end_ps = end
    rep.decision_ps = end
    if state.is_async:
        rep.decision_ps = first + ((fraction + _elapsed(cost, growth, steps - 1)) >> FRACTION_BITS)
    rep.leap_steps = 0
    settle(state, rep, grp, end)
