"""SGLang's scheduler: prefill before decode, admission by an estimate of tokens to come, retraction when it was wrong.

Source: SGLang 0.5 ``Scheduler.get_next_batch_to_run``, ``PrefillAdder`` and ``ScheduleBatch.retract_decode``, default
options (first come first served, no mixed chunks). A step is either prefill or decode. Prefill goes first: the request
whose prompt is partly computed, then the queue, up to the chunk size; the last one is cut there. A request is admitted
if the tokens it lacks and its whole answer (counted up to 4,096) are fewer than what is free after reserving
``new_token_ratio`` of the answers still to come of all decoding requests. One that is not blocks the queue until a
request leaves. The ratio starts at 0.7, falls to 0.098 over 600 decode steps and is set anew by a retraction: decoding
requests with the fewest generated tokens, then the longest prompts, go to the end of the queue until 20 tokens per
remaining one are free.

A prompt is found in the radix cache from the decision after the one that scheduled it. Not modelled: the slot that a
finished request takes for one more step when scheduling overlaps.
"""

from typing import Final

from simulator.engine import layout
from simulator.engine.jit import kernel
from simulator.engine.layout import NONE, Cells
from simulator.engine.prefix_cache import allocate, free_blocks, match, publish
from simulator.engine.scheduler_v1 import admit_head, decode_growth, prefill_chunk
from simulator.engine.sequences import blocks_for, retract

_CLIP: Final = 4096  # tokens of an answer that admission counts
_RATIO: Final = 700_000_000  # 1e-9
_LEAST_SHARE: Final = 14  # percent of the first ratio
_RANKS_SHARE: Final = 30  # percent: SGLang reserves less where attention is data-parallel
_RATIO_STEPS: Final = 600
_SPARE_STEPS: Final = 20


@kernel
def _first_ratio(state: Cells) -> int:
    return _RATIO * _RANKS_SHARE // 100 if state[layout.RANKS] > 1 else _RATIO


@kernel
def _reserved_tokens(state: Cells, rep: int, grp: int) -> int:
    """Tokens kept free for the answers of decoding requests."""
    epoch = state[grp + layout.EPOCH]
    to_come = 0
    req = state[rep + layout.RUN_HEAD]
    while req != NONE:
        if state[req + layout.STATUS] == layout.DECODING:
            to_come += min(state[req + layout.FINISH_EPOCH] - epoch, _CLIP)
        req = state[req + layout.NEXT]
    first = _first_ratio(state)
    least = first * _LEAST_SHARE // 100
    decayed = (first - least) * (epoch - state[rep + layout.RATIO_EPOCH]) // _RATIO_STEPS
    ratio = max(state[rep + layout.NEW_TOKEN_RATIO] - decayed, least)
    return int(float(to_come) * float(ratio) * 1e-9)


@kernel
def _continue_chunked(state: Cells, rep: int) -> tuple[int, int, int]:
    """Continue the prompt that is partly computed, as far as chunk size and blocks go: (tokens, pairs, KV reads)."""
    if state[rep + layout.PARTIALS] == 0:
        return 0, 0, 0
    req = state[state[rep + layout.PARTIAL_LIST]]
    done = state[req + layout.COMPUTED]
    held = blocks_for(state, done)
    room = (held + free_blocks(state, rep)) * state[layout.BLOCK_SIZE] - done
    chunk = min(state[req + layout.TARGET] - done, state[layout.MAX_TOKENS], room)
    if chunk == 0:
        return 0, 0, 0
    allocate(state, rep, blocks_for(state, done + chunk) - held)
    pairs, reads = prefill_chunk(state, rep, req, chunk)
    return chunk, pairs, reads


@kernel
def _retract_one(state: Cells, rep: int) -> None:
    """Retract the decoding request with the fewest generated tokens, of those the one with the longest prompt."""
    worst = NONE
    req = state[rep + layout.RUN_HEAD]
    while req != NONE:
        if state[req + layout.STATUS] == layout.DECODING:
            # Fewest generated = most left to generate, relative to what was asked for.
            if worst == NONE:
                worst = req
            else:
                more = _generated(state, req) - _generated(state, worst)
                is_longer = state[req + layout.PROMPT] > state[worst + layout.PROMPT]
                if more < 0 or (more == 0 and is_longer):
                    worst = req
        req = state[req + layout.NEXT]
    retract(state, rep, worst)


@kernel
def _generated(state: Cells, req: int) -> int:
    epochs_left = state[req + layout.FINISH_EPOCH] - state[state[req + layout.GROUP] + layout.EPOCH]
    return state[req + layout.OUTPUT] - epochs_left


@kernel
def _retract(state: Cells, rep: int, grp: int) -> None:
    """Retract until there is room for some steps, and reserve more from now on."""
    _retract_one(state, rep)
    while state[grp + layout.DECODERS] > 1:
        free_tokens = free_blocks(state, rep) * state[layout.BLOCK_SIZE]
        if free_tokens >= state[grp + layout.DECODERS] * _SPARE_STEPS:
            break
        _retract_one(state, rep)
    generated = 0
    asked = 0
    req = state[rep + layout.RUN_HEAD]
    while req != NONE:
        if state[req + layout.STATUS] == layout.DECODING:
            generated += _generated(state, req)
            asked += state[req + layout.OUTPUT]
        req = state[req + layout.NEXT]
    if asked > 0:
        needed = generated + _SPARE_STEPS * state[grp + layout.DECODERS]
        state[rep + layout.NEW_TOKEN_RATIO] = min(1_000_000_000, needed * 1_000_000_000 // asked)
        state[rep + layout.RATIO_EPOCH] = state[grp + layout.EPOCH]


@kernel
def _publish_scheduled(state: Cells, rep: int) -> None:
    """Put the units that this step completes into the cache."""
    for at in range(state[rep + layout.PARTIALS]):
        req = state[state[rep + layout.PARTIAL_LIST] + at]
        publish(state, rep, req, state[req + layout.CHUNK_START], state[req + layout.COMPUTED])
        state[req + layout.CHUNK_START] = state[req + layout.COMPUTED]


@kernel
def schedule_sglang(state: Cells, rep: int, grp: int) -> tuple[int, int, int, int, bool]:
    """Take one decision: (prefill tokens, prefills, pairs, KV reads, whether the decoding requests run instead)."""
    if state[rep + layout.RUN_COUNT] == 0:
        state[rep + layout.NEW_TOKEN_RATIO] = _first_ratio(state)
        state[rep + layout.RATIO_EPOCH] = state[grp + layout.EPOCH]
    tokens, pairs, reads = _continue_chunked(state, rep)
    prefills = 1 if tokens > 0 else 0
    left = state[layout.MAX_TOKENS] - tokens
    may_admit = state[rep + layout.WAIT_COUNT] > 0 and state[rep + layout.BLOCKED] == 0
    reserved = _reserved_tokens(state, rep, grp) if may_admit else 0
    while may_admit and left > 0 and state[rep + layout.WAIT_COUNT] > 0:
        req = state[rep + layout.WAIT_HEAD]
        found, unused = match(state, rep, req)
        hit = found * state[layout.UNIT_TOKENS]
        lacking = state[req + layout.TARGET] - hit
        answer = min(state[req + layout.OUTPUT] - state[req + layout.GENERATED], _CLIP)
        free = free_blocks(state, rep) - unused * state[layout.UNIT_BLOCKS]
        is_full = state[rep + layout.RUN_COUNT] >= state[layout.MAX_SEQS]
        if is_full or lacking + answer >= free * state[layout.BLOCK_SIZE] - reserved:
            state[rep + layout.BLOCKED] = 1
            break
        chunk = min(lacking, left)
        admit_head(state, rep, found, blocks_for(state, hit + chunk) - found * state[layout.UNIT_BLOCKS])
        more_pairs, more_reads = prefill_chunk(state, rep, req, chunk)
        if chunk == lacking:
            reserved += answer
        left -= chunk
        tokens += chunk
        prefills += 1
        pairs += more_pairs
        reads += more_reads
    if prefills > 0:
        if state[layout.IS_CACHING] == 1:
            _publish_scheduled(state, rep)
        return tokens, prefills, pairs, reads, False
    if state[grp + layout.DECODERS] > 0 and decode_growth(state, grp) > free_blocks(state, rep):
        _retract(state, rep, grp)
    has_decodes = state[grp + layout.DECODERS] > 0 and decode_growth(state, grp) <= free_blocks(state, rep)
    if has_decodes:
        allocate(state, rep, decode_growth(state, grp))
    return 0, 0, 0, 0, has_decodes
