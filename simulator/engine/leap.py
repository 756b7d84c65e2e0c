"""Leap over a run of decode-only steps at once, ending on exactly the clock that single steps would reach.

While nobody joins or leaves, step i of a leap costs ``d + i * g`` (KV grows by one token per sequence and step, and the
cost is linear in KV between two knots), so n steps take ``n d + g n (n - 1) / 2``. A leap ends where any of that
stops being true: a finish, a knot, a full sliding window, the host's floor, a block that is not there. What arrives in
between cuts it short: steps decided before the arrival stand, the rest are proposed again.
"""

from math import sqrt

from simulator.engine.blocks import full_blocks, phase
from simulator.engine.bounds import FRACTION_BITS, LONGEST_LEAP, NEVER, NONE
from simulator.engine.cost import decode_line, kv_segment, sample_cost, steps_in_segment, token_cost
from simulator.engine.costs import Costs
from simulator.engine.decoding import FINISH, WINDOW, next_epoch
from simulator.engine.kernel import kernel
from simulator.engine.prefix_cache import free_blocks
from simulator.engine.replica import Group, Replica
from simulator.engine.sequences import release_due
from simulator.engine.state import ALONE, State
from simulator.engine.tables import group, list_at


@kernel
def elapsed(cost: int, growth: int, steps: int) -> int:
    """Time of the first ``steps`` steps in 2^-12 ps."""
    return steps * cost + growth * (steps * (steps - 1) // 2)


@kernel
def blocks_needed(state: State, grp: Group, steps: int) -> int:
    """Count the new KV blocks of all decoding sequences over the next ``steps`` steps."""
    if state.reserves_output:
        return 0
    size = state.block_size
    rounds = full_blocks(state, steps)
    need = rounds * grp.decoders
    at = phase(state, grp.epoch)
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
    if state.reserves_output or (full_blocks(state, limit) + 1) * batch <= free:
        return limit
    steps = free // batch * size
    free %= batch
    residue = list_at(state, grp.residue)
    at = phase(state, grp.epoch)
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
def _changes_after_a_step(rep: Replica) -> bool:
    """Whether anything but another decode of the same sequences may follow the next step.

    What is released after it may admit somebody, or a prompt of the other pool, and SGLang then sees that those who
    overrun are over.
    """
    if rep.overrunning > 0:
        return True
    is_wanted = rep.waiting.count > 0 or rep.offered.head != NONE
    return is_wanted and (rep.releasing.head != NONE or rep.over > 0)


@kernel
def _steps_alike(state: State, rep: Replica, grp: Group, limit: int) -> int:
    """Longest leap, at most ``limit``, of steps that decode the same sequences and find their blocks."""
    steps = 1
    if state.is_leaping and not _changes_after_a_step(rep):
        # SGLang's scheduler sees who is over a step late: that step is as those before it.
        late = int(state.is_sglang and state.is_async)
        steps = min(limit, next_epoch(state, grp.finishes, FINISH) - grp.epoch + late)
    steps = min(steps, _steps_to_next_look(state, rep, steps))
    fed = _steps_within_blocks(state, rep, grp, steps)
    if fed < steps and rep.num_results > 0:
        return min(fed, 1)  # prompts that join the radix cache after it may free blocks
    return fed


@kernel
def propose(state: State, costs: Costs, rep: Replica, grp: Group) -> None:
    """Decide what a replica does next if nothing arrives: idle, one full scheduling pass, or a leap."""
    rep.leap_steps = 0
    rep.key_ps = rep.decision_ps
    has_waiting = rep.waiting.count > 0
    if _needs_a_pass(state, rep, grp):
        return
    if grp.decoders == 0:
        # Of two pools one may run before: KV that leaves frees blocks, and whose KV comes passes those that lack them.
        if has_waiting and not state.is_sglang and state.pool == ALONE:
            wait_for_output(state, rep)
        elif not has_waiting and rep.decision_ps >= rep.end_ps:
            rep.key_ps = NEVER
        return
    batch = grp.decoders
    cost, growth, steps = _attention(state, costs, grp)
    steps = _steps_alike(state, rep, grp, steps)
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
        rep.key_ps = start + ((fraction + elapsed(cost, growth, started_before)) >> FRACTION_BITS)


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
            rep.key_ps = NEVER  # until KV has left a prefill pool, or come into a decode pool
            return rep.sending + rep.receiving > 0
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
        while last < steps and elapsed(cost, growth, last + 1) < span:
            last += 1
        while last > 0 and elapsed(cost, growth, last) >= span:
            last -= 1
        started = last + 1
    return min(steps, started + state.is_async)
