"""Prompts that could start and are held back while sequences decode, so that several of them share a step.

Source: TensorRT-LLM 1.0 to 1.3, ``PyExecutor._waiting_requests`` and ``_balance_adp_requests``. A step with a prompt
runs without a CUDA graph and lengthens every decode in it, so the engine can be told to start prompts in fewer, fuller
steps. Without attention data parallelism they wait until the step they would join has ``wait_tokens``, or for
``wait_iters`` steps. With it a rank that has no prompt idles through the prompts of the others: none starts until every
rank has one, or ``ranks_wait_iters`` steps after the last that did. Nobody waits where nothing decodes.
"""

from simulator.engine.bounds import NONE
from simulator.engine.kernel import kernel
from simulator.engine.prefix_cache import free_blocks, match
from simulator.engine.replica import Group, Replica
from simulator.engine.sequences import blocks_at_admission
from simulator.engine.state import State
from simulator.engine.tables import group, replica, request


@kernel
def _ready_tokens(state: State, rep: Replica, grp: Group, enough: int) -> int:
    """Prompt tokens of the requests that a step with these decodes could admit, counted until there are ``enough``."""
    left = state.max_tokens - grp.decoders
    free = free_blocks(state, rep) - (state.watermark if rep.running.count > 0 else 0)
    seats = state.max_seqs - rep.running.count
    tokens = 0
    at = rep.waiting.head
    while at != NONE and seats > 0 and tokens < enough:
        req = request(state, at)
        found, unused = match(state, rep, req)
        lacking = req.target - found * state.block_size
        need = blocks_at_admission(state, req, req.target) - (found - unused)
        if lacking > left or need > free:
            break
        left -= lacking
        free -= need
        seats -= 1
        tokens += req.target
        at = req.next
    return tokens


@kernel
def waits_for_company(state: State, rep: Replica, grp: Group) -> bool:
    """Whether the prompts of a replica are held back in this step."""
    if state.wait_iters == 0 or grp.decoders == 0 or rep.waiting.count == 0:
        return False
    enough = state.wait_tokens - grp.decoders
    tokens = _ready_tokens(state, rep, grp, max(enough, 1))
    if tokens == 0:
        return False
    if rep.waited < state.wait_iters and tokens < enough:
        rep.waited += 1
        return True
    rep.waited = 0
    return False


@kernel
def _ranks_wait(state: State, first: Replica) -> bool:
    """Whether the prompts of all ranks are held back in this step; their requests that are done have been released."""
    all_ready = True
    all_decode = True
    for number in range(first.number, first.number + state.ranks):
        rep = replica(state, number)
        grp = group(state, rep.first_group)
        all_decode = all_decode and grp.decoders > 0
        all_ready = all_ready and grp.decoders < state.max_seqs and _ready_tokens(state, rep, grp, 1) > 0
    if all_ready:
        first.waited = 0
        if not all_decode:
            return False
        if first.batched < state.ranks_batching_iters:
            first.batched += 1
            return True
        first.batched = 0
        return False
    first.waited += 1
    if first.waited < state.ranks_wait_iters and all_decode:
        return True
    first.waited = 0
    return False


@kernel
def hold_ranks(state: State, first: Replica) -> None:
    """Decide whether the ranks of a replica admit prompts in this step."""
    if state.ranks_wait_iters == 0:
        return
    holds = _ranks_wait(state, first)
    for number in range(first.number, first.number + state.ranks):
        replica(state, number).holds_prompts = holds
