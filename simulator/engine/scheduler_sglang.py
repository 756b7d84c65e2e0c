"""SGLang's scheduler: prefill before decode, admission by an estimate of tokens to come, retraction when it was wrong.

Source: SGLang 0.5.10 ``Scheduler.get_next_batch_to_run``, ``PrefillAdder`` and ``ScheduleBatch.retract_decode``,
default options (first come first served, no mixed chunks). A step is either prefill or decode. Prefill goes first: the
request whose prompt is partly computed, then the queue, up to the chunk size; the last one is cut there. A request is
admitted if the tokens it lacks and its whole answer (counted up to 4,096) are fewer than what is free after those
admitted with it and ``new_token_ratio`` of the answers still to come of the running batch. One that is not, or that
finds no seat, marks the batch as full, and nobody is looked at until it shrinks. The ratio starts at 0.7, falls to
0.098 over 600 decode steps, is set anew by a retraction and starts again after a pause. Where a decode finds no room,
those with the fewest generated tokens, then the longest prompts, go to the end of the queue until the others fit.

The schedule runs one step ahead of the results. A request whose last token is under way runs along in one more
decode, which is thrown away, and can be retracted meanwhile; so can one whose prompt has just been computed, and the
token under way is lost. Those that are over keep their seats until the next decode, which alone clears the running
batch.

With a receive interval of k above 1 (``SchedulerRecvSkipper``) the scheduler does not look for arrivals before every
step: each step adds its weight, 1 for a decode and 1,000 for a prefill, and it looks, and starts to count anew, once
the sum is k or more. So it looks after every prefill and after every k decodes; while nothing runs it spins, which
takes no time here.
"""

from typing import Final

from simulator.engine.blocks import blocks_for
from simulator.engine.bounds import NONE
from simulator.engine.decoding import LONG_ANSWER, tokens_generated
from simulator.engine.kernel import kernel
from simulator.engine.prefix_cache import free_blocks
from simulator.engine.queues import join, leave
from simulator.engine.radix_cache import keep_prompt, match
from simulator.engine.radix_nodes import NO_NODE, lock, make_room, unlock
from simulator.engine.received import drop_received, join_received
from simulator.engine.replica import Group, Replica
from simulator.engine.request import PREFILLING, Request
from simulator.engine.retraction import abort, order_running, retract
from simulator.engine.scheduler_v1 import begin_step, decode_growth, plan_chunk
from simulator.engine.sequences import admit, receive
from simulator.engine.state import DECODE_POOL, PREFILL_POOL, State
from simulator.engine.tables import list_at, request

_RATIO: Final = 0.7
_LEAST_SHARE: Final = 0.14  # of the first ratio
_RANKS_SHARE: Final = 0.3  # SGLang reserves less where attention is data-parallel
_RATIO_STEPS: Final = 600
_SPARE_STEPS: Final = 20
_OTHERS_SEEN: Final = 1 << 30  # more tokens than any request has
_PREFILL_WEIGHT: Final = 1000  # SGLANG_SCHEDULER_RECV_SKIPPER_WEIGHT_DEFAULT; that of a decode is 1


@kernel
def _decode_steps(state: State, rep: Replica, grp: Group) -> int:
    """Decode steps so far: of all micro-batches, which share one ratio."""
    return grp.epoch if state.stages == 1 else rep.decode_steps


@kernel
def reset_ratio(state: State, rep: Replica, grp: Group) -> None:
    """Let the ratio start again, as after a pause."""
    rep.ratio_asked = 0
    rep.ratio_epoch = _decode_steps(state, rep, grp)


@kernel
def _new_token_ratio(state: State, rep: Replica, grp: Group) -> float:
    """Share of the answers still to come that admission keeps free."""
    first = _RATIO * _RANKS_SHARE if state.ranks > 1 else _RATIO
    least = first * _LEAST_SHARE
    ratio = first if rep.ratio_asked == 0 else min(1.0, rep.ratio_needed / rep.ratio_asked)
    steps = _decode_steps(state, rep, grp) - rep.ratio_epoch
    if state.stages > 1 and steps == 0:
        return ratio  # a retraction may find less to be needed; the next step raises it to the least
    return max(ratio - (first - least) / _RATIO_STEPS * steps, least)


@kernel
def _in_flight(state: State, rep: Replica, grp: Group) -> int:
    """Count the requests, the last of the running batch, with a token under way that the scheduler has not seen."""
    if state.stages > 1 or rep.decision_ps >= rep.end_ps:
        return 0
    return min(rep.joined, grp.decoders) if rep.had_prefill else grp.decoders


@kernel
def _is_in_batch(req: Request, grp: Group) -> bool:
    """Whether a running request is in the running batch: with pipeline stages there is one for each micro-batch."""
    return req.status != PREFILLING and req.group == grp.number


@kernel
def _summed_as_sglang_does(state: State, rep: Replica, grp: Group, ratio: float) -> float:
    """Sum what is kept free for each request of the running batch, rounded as often as in SGLang."""
    first_in_flight = grp.decoders - _in_flight(state, rep, grp)
    reserved = 0.0
    place = 0
    at = rep.running.head
    while at != NONE and place < grp.decoders:
        req = request(state, at)
        if _is_in_batch(req, grp):
            to_come = req.finish_epoch - grp.epoch + int(place >= first_in_flight)
            reserved += min(to_come, LONG_ANSWER) * ratio
            place += 1
        at = req.next
    return reserved


@kernel
def _reserved_tokens(state: State, rep: Replica, grp: Group) -> float:
    """Tokens kept free for the answers of the running batch, as far as the scheduler has seen them.

    They are compared with whole numbers alone: how a sum was rounded matters only next to one.
    """
    ratio = _new_token_ratio(state, rep, grp)
    reserved = (grp.finish_epochs - grp.decoders * grp.epoch + _in_flight(state, rep, grp)) * ratio
    above = reserved - int(reserved)
    rounding = 1e-6 + 1e-15 * grp.decoders * reserved
    if grp.long_answers > 0 or above < rounding or above > 1 - rounding:
        return _summed_as_sglang_does(state, rep, grp, ratio)
    return reserved


@kernel
def merge(state: State, rep: Replica, grp: Group) -> None:
    """Let the prompts computed in the last step join the running batch."""
    if not rep.was_prefill:
        return
    rep.was_prefill = False
    is_cut = rep.num_partials > 0 if state.stages == 1 else rep.had_cut
    if is_cut:
        rep.is_blocked = False
    if not state.is_async and rep.over > rep.over_before:
        # Over with their prefill, and seen before the next decision: they never join.
        rep.joined -= rep.over - rep.over_before
        rep.over = rep.over_before
        rep.is_blocked = False
    if rep.joined > 0 and grp.decoders + rep.over == rep.joined:
        rep.is_blocked = False


@kernel
def begin_decode(state: State, rep: Replica, grp: Group) -> None:
    """Clear the running batch of those that are over, before it decodes."""
    merge(state, rep, grp)
    if rep.over > 0:
        rep.over = 0
        rep.is_blocked = False


@kernel
def _whole_pages(state: State, tokens: int) -> int:
    return blocks_for(state, tokens) * state.block_size


@kernel
def _admit(state: State, rep: Replica, found: int, last: int) -> None:
    """Admit the head of the queue on what the cache holds of it, a path that is locked already."""
    req = request(state, rep.waiting.head)
    admit(state, rep, req)
    if req.scheduled_ps == NONE:
        req.scheduled_ps = rep.decision_ps
        req.hit_tokens = found
    rep.hits += found
    req.computed = found
    req.node = last
    req.held = found


@kernel
def _room(state: State, rep: Replica, reserved: float) -> float:
    """Tokens free beside those reserved and those this step has taken so far, with the answers of whom it admitted."""
    planned = rep.planned
    return free_blocks(state, rep) * state.block_size - (reserved + planned.taken + planned.answers)


@kernel
def _plan_prompt(state: State, rep: Replica, req: Request, chunk: int) -> None:
    """Plan a chunk of a running request; its blocks are taken when the step is complete."""
    planned = rep.planned
    planned.need += blocks_for(state, req.computed + chunk) - blocks_for(state, req.computed)
    plan_chunk(state, rep, req, chunk)
    pages = _whole_pages(state, chunk)
    planned.left += chunk - pages
    planned.inputs -= pages
    planned.taken += pages + state.block_size
    if req.computed == req.target:
        planned.answers += min(req.output, LONG_ANSWER)


@kernel
def _continue_chunked(state: State, rep: Replica, reserved: float) -> None:
    """Plan the next chunk of the prompt that is partly computed: a whole one where the estimate leaves nothing."""
    req = request(state, list_at(state, rep.partials)[0])
    room = int(_room(state, rep, reserved))
    if room > rep.planned.left or room <= 0:
        room = rep.planned.left
    _plan_prompt(state, rep, req, min(req.target - req.computed, room))


@kernel
def _admit_head(state: State, rep: Replica, reserved: float) -> bool:
    """Admit the head of the queue if it fits; False if nobody behind it may be looked at."""
    planned = rep.planned
    page = state.block_size
    req = request(state, rep.waiting.head)
    found, last = match(state, rep, req)
    lacking = req.target - found
    total = lacking + min(max(req.output - req.generated, 0), LONG_ANSWER)
    if total >= _room(state, rep, reserved):
        rep.is_blocked = True
        return False
    pages = _whole_pages(state, lacking)
    if pages >= planned.inputs and planned.prefills > 0:
        return False
    lock(state, rep, last, NO_NODE)
    chunk = lacking if pages <= planned.left else planned.left // page * page
    is_too_large = total >= _room(state, rep, reserved)
    if is_too_large or chunk <= 0:
        unlock(state, rep, last)
        rep.is_blocked = rep.is_blocked or is_too_large
        return False
    _admit(state, rep, found, last)
    _plan_prompt(state, rep, req, chunk)
    if _room(state, rep, reserved) <= 0 or free_blocks(state, rep) * page <= planned.taken:
        rep.is_blocked = True
        return False
    return planned.inputs > 0 and planned.left > 0


@kernel
def _seats(state: State, rep: Replica, grp: Group, admitted: int) -> int:
    """Prompts a step may hold: seats that those of the running batch leave, of a pipeline's at most those of all.

    The ``admitted`` ones of this step have none yet, while a prompt that goes on has one and counts once more.
    """
    taken = grp.decoders + rep.over
    if state.stages == 1:
        return state.max_seqs - taken
    return min(max(1, state.max_seqs // state.stages) - taken, state.max_seqs - rep.running.count + admitted)


@kernel
def plan_prefills(state: State, rep: Replica, grp: Group) -> None:
    """Plan a step of prompts: the one that is partly computed, then the queue while prompts and answers fit."""
    if rep.num_partials == 0 and (rep.is_blocked or rep.waiting.count == 0):
        return
    if state.stages > 1 and rep.num_partials > 0 and _seats(state, rep, grp, 0) <= 0:
        rep.is_blocked = True
        return  # the prompt goes on in a micro-batch that has a seat for it
    planned = rep.planned
    planned.inputs = state.max_prefill_tokens
    planned.need = 0
    planned.taken = 0
    planned.answers = 0
    reserved = _reserved_tokens(state, rep, grp)
    if rep.num_partials > 0:
        _continue_chunked(state, rep, reserved)
    admitted = 0
    while rep.waiting.count > 0:
        is_full = planned.prefills >= _seats(state, rep, grp, admitted)
        if state.pool == PREFILL_POOL:
            # Who is computed keeps its seat until its KV has left.
            is_full = rep.running.count + rep.sending >= state.max_seqs
        if is_full:
            rep.is_blocked = True
        if rep.is_blocked or not _admit_head(state, rep, reserved):
            break
        admitted += 1
    if planned.prefills > 0:
        # Where pages are larger than a token, SGLang makes room for one more per request.
        spare = planned.prefills if state.block_size > 1 else 0
        make_room(state, rep, blocks_for(state, planned.tokens) + spare)
        rep.free -= planned.need


@kernel
def _move_batch_last(state: State, rep: Replica, grp: Group) -> None:
    """Let the running batch of a micro-batch stand behind all others, in its own order."""
    left = grp.decoders
    at = rep.running.head
    while left > 0:
        req = request(state, at)
        at = req.next
        if _is_in_batch(req, grp):
            leave(state, rep.running, req)
            join(state, rep.running, req)
            left -= 1


@kernel
def _sort_running(state: State, rep: Replica, grp: Group) -> None:
    """Order the running batch as a retraction does: most generated tokens first, then the shortest prompt."""
    first_in_flight = grp.decoders - _in_flight(state, rep, grp)
    if state.stages > 1:
        _move_batch_last(state, rep, grp)
    place = 0
    others = 0
    at = rep.running.head
    while at != NONE:
        req = request(state, at)
        at = req.next
        if _is_in_batch(req, grp):
            # What is sorted by lasts until the batch has been retracted from.
            req.seen = tokens_generated(state, req) - int(place >= first_in_flight)
            place += 1
        else:
            req.seen = _OTHERS_SEEN - others  # they stay in front, in their order
            others += 1
    order_running(state, rep)


@kernel
def _retract(state: State, rep: Replica, grp: Group) -> None:
    """Retract from the end of the running batch until the others fit, and reserve by what they have generated."""
    _sort_running(state, rep, grp)
    is_first = True
    is_aborted = False
    while True:
        growth = decode_growth(state, grp)
        if not is_first:
            make_room(state, rep, growth)
            if rep.free >= growth:
                break
        if grp.decoders == 1:
            # Of a pipeline other micro-batches may hold what it lacks.
            is_aborted = state.stages > 1
            break
        is_first = False
        req = request(state, rep.running.tail)
        retract(state, rep, req, req.seen)
        make_room(state, rep, blocks_for(state, grp.decoders * _SPARE_STEPS))
    if is_aborted:
        abort(state, rep, request(state, rep.running.tail))
    rep.is_blocked = False
    generated = 0
    asked = 0
    at = rep.running.head
    while at != NONE:
        req = request(state, at)
        at = req.next
        if _is_in_batch(req, grp):
            generated += req.seen
            asked += req.output
    rep.ratio_needed = generated + _SPARE_STEPS * grp.decoders
    rep.ratio_asked = asked + 1
    rep.ratio_epoch = _decode_steps(state, rep, grp) + int(not is_aborted)  # this step does not lower it


@kernel
def allocate_decode(state: State, rep: Replica, growth: int, batch: int) -> None:
    """Take the blocks of a decode step, evicting where they are not free."""
    make_room(state, rep, growth)
    if state.block_size > 1:
        # SGLang makes room for a page of every sequence.
        make_room(state, rep, batch)
    rep.free -= growth


@kernel
def plan_decodes(state: State, rep: Replica, grp: Group) -> bool:
    """Plan a step in which the running batch decodes; False if it is empty."""
    begin_decode(state, rep, grp)
    if grp.decoders == 0:
        return False
    growth = decode_growth(state, grp)
    make_room(state, rep, growth)
    if rep.free < growth:
        _retract(state, rep, grp)
        if grp.decoders == 0:
            return False
        growth = decode_growth(state, grp)
        while rep.free < growth:
            if state.pool != DECODE_POOL or not drop_received(state, rep):
                return False
    allocate_decode(state, rep, growth, grp.decoders)
    rep.planned.decodes = grp.decoders
    rep.had_prefill = False
    return True


@kernel
def note_prefills(state: State, rep: Replica) -> None:
    """Remember whose prompts the planned step completes: they join the running batch at the next decision."""
    last = request(state, list_at(state, rep.partials)[rep.num_partials - 1])
    rep.had_cut = last.computed < last.target
    rep.joined = rep.planned.prefills - int(rep.had_cut)
    rep.was_prefill = True
    rep.over_before = rep.over


@kernel
def schedule_sglang(state: State, rep: Replica, grp: Group) -> bool:
    """Plan one step, of prompts, or of decodes if there is none; False if there is nothing to run."""
    begin_step(state, rep)
    if state.pool == PREFILL_POOL:
        rep.is_blocked = False  # nobody decodes here, so a batch is never full for long
    if rep.decision_ps > rep.end_ps:
        # It has been idle: it spins, looks for requests every time, and has cleared a batch of none but those over.
        reset_ratio(state, rep, grp)
        rep.skipped = state.recv_interval
        if grp.decoders == 0 and rep.over > 0:
            rep.over = 0
            rep.over_before = 0
            rep.is_blocked = False
    if rep.num_partials > 0 and state.has_tree:
        req = request(state, list_at(state, rep.partials)[0])
        keep_prompt(state, rep, req, req.computed)
    while True:
        if rep.skipped >= state.recv_interval:
            receive(state, rep)
        merge(state, rep, grp)
        if state.passes_first_token:
            join_received(state, rep, grp)
        plan_prefills(state, rep, grp)
        planned = rep.planned
        if planned.prefills > 0:
            note_prefills(state, rep)
            rep.had_prefill = True
            rep.skipped += _PREFILL_WEIGHT
            return True
        had_over = rep.over > 0
        if plan_decodes(state, rep, grp):
            rep.skipped += 1
            return True
        rep.skipped += 1
        if rep.decision_ps < rep.end_ps:
            return False
        # Nothing is under way: the next turn takes no time, and may find the batch empty or a request that arrived.
        reset_ratio(state, rep, grp)
        if not had_over:
            if rep.unseen.count == 0:
                return False
            rep.skipped = state.recv_interval
