"""SGLang's scheduler: prefill before decode, admission by an estimate of tokens to come, retraction when it was wrong.

Source: SGLang 0.5 ``Scheduler.get_next_batch_to_run``, ``PrefillAdder`` and ``ScheduleBatch.retract_decode``, default
options (first come first served, no mixed chunks). A step is either prefill or decode. Prefill goes first: the request
whose prompt is partly computed, then the queue, up to the chunk size; the last one is cut there. A request is admitted
if the tokens it lacks and its whole answer (counted up to 4,096) are fewer than what is free after reserving
``new_token_ratio`` of the answers still to come of all decoding requests. One that is not blocks the queue until a
request leaves. The ratio starts at 0.7, falls to 0.098 over 600 decode steps and is set anew by a retraction: decoding
requests with the fewest generated tokens, then the longest prompts, go to the end of the queue until 20 tokens per
remaining one are free.

With a receive interval of k above 1 (``SchedulerRecvSkipper``) the scheduler does not look for arrivals before every
step: each step adds its weight, 1 for a decode and 1,000 for a prefill, and it looks, and starts to count anew, once
the sum is k or more. So it looks after every prefill and after every k decodes; while nothing runs it spins, which
takes no time here.

A prompt is found in the radix cache from the decision after the one that scheduled it. Not modelled: the slot that a
finished request takes for one more step when scheduling overlaps.
"""

from typing import Final

from simulator.engine.bounds import NONE
from simulator.engine.decoding import tokens_generated
from simulator.engine.jit import kernel
from simulator.engine.prefix_cache import allocate, free_blocks, match, publish
from simulator.engine.replica import Group, Replica
from simulator.engine.request import DECODING
from simulator.engine.scheduler_v1 import admit_on, begin_step, decode_growth, plan_chunk
from simulator.engine.sequences import blocks_for, receive, retract
from simulator.engine.state import State
from simulator.engine.tables import list_at, request

_CLIP: Final = 4096  # tokens of an answer that admission counts
_RATIO: Final = 700_000_000  # 1e-9
_LEAST_SHARE: Final = 14  # percent of the first ratio
_RANKS_SHARE: Final = 30  # percent: SGLang reserves less where attention is data-parallel
_RATIO_STEPS: Final = 600
_SPARE_STEPS: Final = 20
_PREFILL_WEIGHT: Final = 1000  # SGLANG_SCHEDULER_RECV_SKIPPER_WEIGHT_DEFAULT; that of a decode is 1


@kernel
def _first_ratio(state: State) -> int:
    return _RATIO * _RANKS_SHARE // 100 if state.ranks > 1 else _RATIO


@kernel
def _reserved_tokens(state: State, rep: Replica, grp: Group) -> int:
    """Tokens kept free for the answers of decoding requests."""
    epoch = grp.epoch
    to_come = 0
    at = rep.running.head
    while at != NONE:
        req = request(state, at)
        if req.status == DECODING:
            to_come += min(req.finish_epoch - epoch, _CLIP)
        at = req.next
    first = _first_ratio(state)
    least = first * _LEAST_SHARE // 100
    decayed = (first - least) * (epoch - rep.ratio_epoch) // _RATIO_STEPS
    ratio = max(rep.new_token_ratio - decayed, least)
    return int(float(to_come) * float(ratio) * 1e-9)


@kernel
def _continue_chunked(state: State, rep: Replica) -> None:
    """Continue the prompt that is partly computed, as far as chunk size and blocks go."""
    if rep.num_partials == 0:
        return
    req = request(state, list_at(state, rep.partials)[0])
    done = req.computed
    held = blocks_for(state, done)
    room = (held + free_blocks(state, rep)) * state.block_size - done
    chunk = min(req.target - done, rep.planned.left, room)
    if chunk > 0:
        allocate(state, rep, blocks_for(state, done + chunk) - held)
        plan_chunk(state, rep, req, chunk)


@kernel
def _retract_one(state: State, rep: Replica) -> None:
    """Retract the decoding request with the fewest generated tokens, of those the one with the longest prompt."""
    worst = NONE
    fewest = 0
    longest = 0
    at = rep.running.head
    while at != NONE:
        req = request(state, at)
        if req.status == DECODING:
            generated = tokens_generated(state, req)
            if worst == NONE or generated < fewest or (generated == fewest and req.prompt > longest):
                worst = at
                fewest = generated
                longest = req.prompt
        at = req.next
    retract(state, rep, request(state, worst))


@kernel
def _retract(state: State, rep: Replica, grp: Group) -> None:
    """Retract until there is room for some steps, and reserve more from now on."""
    _retract_one(state, rep)
    while grp.decoders > 1:
        free_tokens = free_blocks(state, rep) * state.block_size
        if free_tokens >= grp.decoders * _SPARE_STEPS:
            break
        _retract_one(state, rep)
    generated = 0
    asked = 0
    at = rep.running.head
    while at != NONE:
        req = request(state, at)
        if req.status == DECODING:
            generated += tokens_generated(state, req)
            asked += req.output
        at = req.next
    if asked > 0:
        needed = generated + _SPARE_STEPS * grp.decoders
        rep.new_token_ratio = min(1_000_000_000, needed * 1_000_000_000 // asked)
        rep.ratio_epoch = grp.epoch


@kernel
def _publish_scheduled(state: State, rep: Replica) -> None:
    """Put the units that this step completes into the cache."""
    for at in range(rep.num_partials):
        req = request(state, list_at(state, rep.partials)[at])
        publish(state, rep, req, req.chunk_start, req.computed)
        req.chunk_start = req.computed


@kernel
def _admit_waiting(state: State, rep: Replica, grp: Group) -> None:
    """Admit from the head of the queue while its prompt and its answer fit beside those that are reserved."""
    if rep.waiting.count == 0 or rep.is_blocked:
        return
    reserved = _reserved_tokens(state, rep, grp)
    while rep.planned.left > 0 and rep.waiting.count > 0:
        req = request(state, rep.waiting.head)
        found, unused = match(state, rep, req)
        hit = found * state.block_size
        lacking = req.target - hit
        answer = min(req.output - req.generated, _CLIP)
        free = free_blocks(state, rep) - unused
        is_full = rep.running.count >= state.max_seqs
        if is_full or lacking + answer >= free * state.block_size - reserved:
            rep.is_blocked = True
            break
        chunk = min(lacking, rep.planned.left)
        admit_on(state, rep, req, found, blocks_for(state, hit + chunk) - found)
        plan_chunk(state, rep, req, chunk)
        if chunk == lacking:
            reserved += answer


@kernel
def schedule_sglang(state: State, rep: Replica, grp: Group) -> bool:
    """Plan one step, of prompts, or of decodes if there is none; False if there is nothing to run."""
    begin_step(state, rep)
    if rep.skipped >= state.recv_interval or (grp.decoders == 0 and rep.num_partials == 0):
        receive(state, rep)
    if rep.running.count == 0:
        rep.new_token_ratio = _first_ratio(state)
        rep.ratio_epoch = grp.epoch
    _continue_chunked(state, rep)
    _admit_waiting(state, rep, grp)
    if rep.planned.prefills > 0:
        rep.skipped += _PREFILL_WEIGHT
        if state.is_caching:
            _publish_scheduled(state, rep)
        return True
    if grp.decoders > 0 and decode_growth(state, grp) > free_blocks(state, rep):
        _retract(state, rep, grp)
    if grp.decoders == 0 or decode_growth(state, grp) > free_blocks(state, rep):
        return False
    allocate(state, rep, decode_growth(state, grp))
    rep.planned.decodes = grp.decoders
    rep.skipped += 1
    return True
