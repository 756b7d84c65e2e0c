"""Encoder inputs of requests, images or audio: which step runs the encoder for them, and what that costs.

An item runs in the step whose chunk of the prompt reaches its first token, before the language model. A chunk is cut in
front of an item that the step's budget or the encoder cache has no room for. The cache holds an item from that step
until the step that has computed its last token has been planned. Source: vLLM 0.33,
``Scheduler._try_schedule_encoder_inputs`` and ``EncoderCacheManager``. Policies without a budget run whatever a chunk
reaches.

A step runs its items together: their tokens through the matrices at once, their attention added up by the pairs of
tokens that see each other. Where the encoder is replicated (vLLM's ``mm_encoder_tp_mode`` data), items are spread over
the ranks: the busiest one has at least the largest item. SGLang runs all items of a request with its first one, each
request by a call of its own (``mm_utils.py``): the host starts its kernels for every one of them.
"""

from simulator.engine.cost import interpolate
from simulator.engine.costs import Costs
from simulator.engine.kernel import kernel
from simulator.engine.replica import Planned, Replica
from simulator.engine.request import Request
from simulator.engine.state import State
from simulator.engine.tables import item, list_at


@kernel
def begin_items(state: State, rep: Replica) -> None:
    """Start the plan of a step: the encoder's whole budget, and room where items were needed for the last time."""
    planned = rep.planned
    rep.held_embeds -= planned.passed_embeds
    planned.passed_embeds = 0
    planned.embeds_left = state.encoder_budget
    planned.items = 0
    planned.item_requests = 0
    planned.item_tokens = 0
    planned.item_pairs = 0
    planned.most_tokens = 0
    planned.most_pairs = 0


@kernel
def chunk_before_items(state: State, rep: Replica, req: Request, done: int, chunk: int) -> int:
    """Tokens of a chunk from ``done`` on that need no item the encoder has no room for in this step."""
    if state.encoder_budget == 0:
        return chunk
    ranges = list_at(state, state.item_ranges + req.number)
    left = min(rep.planned.embeds_left, state.encoder_budget - rep.held_embeds)
    for number in range(ranges[0], ranges[1]):
        row = item(state, number)
        if row.start >= done + chunk:
            break
        if row.start < done:
            continue
        is_cut = state.keeps_items_whole and row.start > done and done + chunk < row.end
        if is_cut or row.embeds > left:
            return row.start - done
        left -= row.embeds
    return chunk


@kernel
def plan_items(state: State, rep: Replica, req: Request, done: int, chunk: int) -> None:
    """Plan the items that a chunk reaches; those it passes leave the cache after this step."""
    ranges = list_at(state, state.item_ranges + req.number)
    planned = rep.planned
    for number in range(ranges[0], ranges[1]):
        row = item(state, number)
        if row.start >= done + chunk:
            break
        if row.start >= done:
            planned.embeds_left -= row.embeds
            rep.held_embeds += row.embeds
            if planned.items == 0 or planned.last_owner != req.number:
                planned.item_requests += 1
                planned.last_owner = req.number
            planned.items += 1
            planned.item_tokens += row.tokens
            planned.item_pairs += row.pairs
            planned.most_tokens = max(planned.most_tokens, row.tokens)
            planned.most_pairs = max(planned.most_pairs, row.pairs)
        if done < row.end <= done + chunk:
            planned.passed_embeds += row.embeds


@kernel
def forget_items(state: State, rep: Replica, req: Request) -> None:
    """Give up what the cache holds for a request that loses its KV in the middle of an item."""
    ranges = list_at(state, state.item_ranges + req.number)
    for number in range(ranges[0], ranges[1]):
        row = item(state, number)
        if row.start < req.computed < row.end:
            rep.held_embeds -= row.embeds


@kernel
def _busiest(total: int, most: int, ranks: int) -> int:
    return max(most, (total + ranks - 1) // ranks)


@kernel
def items_cost(costs: Costs, planned: Planned) -> int:
    """Time of the encoder in the planned step in ps: no shorter than the host takes to start its kernels."""
    if planned.items == 0:
        return 0
    ranks = costs.encoder_ranks
    tokens = _busiest(planned.item_tokens, planned.most_tokens, ranks)
    pairs = _busiest(planned.item_pairs, planned.most_pairs, ranks)
    values = list_at(costs, costs.encoder_tokens)
    work = interpolate(list_at(costs, costs.encoder_token_knots), costs.num_encoder_token_knots, values, tokens)
    values = list_at(costs, costs.encoder_pairs)
    work += interpolate(list_at(costs, costs.encoder_pair_knots), costs.num_encoder_pair_knots, values, pairs)
    calls = planned.item_requests if costs.encoder_by_request else 1
    return max(work, calls * costs.encoder_launch_ps)


@kernel
def count_items(rep: Replica, encoder_ps: int) -> None:
    """Add the encoder's share of the planned step to the replica's sums."""
    planned = rep.planned
    if planned.items == 0:
        return
    rep.encoder_ps += encoder_ps
    rep.encoder_steps += 1
    rep.items += planned.items
    rep.item_tokens += planned.item_tokens
    rep.item_pairs += planned.item_pairs
