"""SGLang on pipeline stages: as many slots as stages, each with a running batch of its own, take turns to decide.

Source: SGLang 0.5.10 ``SchedulerPPMixin.event_loop_pp``, ``Scheduler.get_num_allocatable_reqs`` and
``ScheduleBatch.retract_decode``, default options (``pp_async_batch_depth`` 0, no overlap schedule, which pipelines turn
off). The first stage decides for the slot whose turn it is, sends its micro-batch on its way, waits until that of the
next slot is back, launched ``stages - 1`` turns before, and takes its results. A slot that found nothing has nothing to
wait for, so empty turns take no time. One that arrives meanwhile is seen at the next turn.

The queue, the KV pool, the radix cache, the ratio of answers to come and the prompt that is partly computed belong to
all slots: its chunks run in one micro-batch after the other, and it joins the batch of the slot that ran the last one.
The running batch, what is known of it and the mark that it is full are those of a slot. So are its seats, a share of
all, beyond which a prompt that began in another slot waits too. Admission keeps free what the slot's own batch will
need and nothing for the others, and a retraction takes from the own batch alone. Where that is one request and others
hold all KV, it is aborted.
"""

from simulator.engine.bounds import NEVER, NONE
from simulator.engine.kernel import kernel
from simulator.engine.pipeline import begin_decision
from simulator.engine.radix_cache import keep_prompt
from simulator.engine.replica import Group, Replica
from simulator.engine.scheduler_sglang import merge, note_prefills, plan_decodes, plan_prefills, reset_ratio
from simulator.engine.scheduler_v1 import begin_step
from simulator.engine.sequences import release_due
from simulator.engine.state import State
from simulator.engine.tables import list_at, request


@kernel
def begin_slot(state: State, rep: Replica) -> Group:
    """Take up the slot whose turn it is, with its running batch."""
    grp = begin_decision(state, rep)
    rep.is_blocked = grp.is_blocked
    rep.over = grp.over
    rep.over_before = grp.over_before
    rep.joined = grp.joined
    rep.was_prefill = grp.was_prefill
    rep.had_cut = grp.had_cut
    return grp


@kernel
def _put_back(rep: Replica, grp: Group) -> None:
    """Leave a slot, with what is known of its running batch."""
    grp.is_blocked = rep.is_blocked
    grp.over = rep.over
    grp.over_before = rep.over_before
    grp.joined = rep.joined
    grp.was_prefill = rep.was_prefill
    grp.had_cut = rep.had_cut


@kernel
def schedule_slot(state: State, rep: Replica, grp: Group) -> bool:
    """Plan the micro-batch of a slot, of prompts, or of decodes if there is none; False if there is nothing to run."""
    begin_step(state, rep)
    if rep.num_partials > 0 and state.has_tree:
        req = request(state, list_at(state, rep.partials)[0])
        keep_prompt(state, rep, req, req.computed)
    merge(state, rep, grp)
    plan_prefills(state, rep, grp)
    has_work = rep.planned.prefills > 0
    if has_work:
        note_prefills(state, rep)
    else:
        has_work = plan_decodes(state, rep, grp)
    _put_back(rep, grp)
    return has_work


@kernel
def _queue_turn(state: State, rep: Replica, has_launched: bool) -> None:
    """Queue the micro-batch of a turn; what an empty one waits for is over."""
    rep.last_end += 1
    if rep.last_end == state.in_flight:
        rep.last_end = 0
    list_at(state, rep.ends)[rep.last_end] = rep.end_ps if has_launched else 0
    rep.unseen_results += 1


@kernel
def _see_next(state: State, rep: Replica) -> None:
    """Wait for the micro-batch of the next slot, where there is one, and take its results."""
    rep.unseen_results -= 1
    oldest = rep.last_end - rep.unseen_results
    if oldest < 0:
        oldest += state.in_flight
    end = list_at(state, rep.ends)[oldest]
    if end > rep.seen_ps:
        rep.seen_ps = end
        rep.decision_ps = max(rep.decision_ps, end)
        if rep.releasing.head != NONE or rep.num_results > 0:
            release_due(state, rep)


@kernel
def finish_slot(state: State, rep: Replica, grp: Group, has_launched: bool) -> bool:
    """End a turn and set the next one; False if the replica can never go on, which is a defect.

    After a round of empty turns the server is idle: it spins, and the next request begins a new round.
    """
    rep.empties = 0 if has_launched else rep.empties + 1
    _queue_turn(state, rep, has_launched)
    if rep.unseen_results == state.in_flight:
        _see_next(state, rep)
    rep.key_ps = rep.decision_ps
    is_idle = rep.turn == 0 and rep.empties >= state.stages  # the first turn of a round leaves 1
    if is_idle:
        reset_ratio(state, rep, grp)
        if rep.running.count == 0 and rep.waiting.count == 0:
            rep.key_ps = NEVER
    return rep.empties <= 4 * state.stages
