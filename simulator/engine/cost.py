"""What a step costs: look-ups in the step tables, in 2^-12 ps for decode attention and in ps for the rest.

Decode attention is linear in KV tokens between two knots. Its slope is rounded down to 2^-12 ps per token, so the
cost of n steps of one batch is an arithmetic series in integers and a leap ends on the same clock as n single steps.
"""

from simulator.engine import layout
from simulator.engine.jit import kernel
from simulator.engine.layout import Cells


@kernel
def segment(costs: Cells, knots: int, count: int, x: int, hint: int) -> int:
    """Index j with knots[j] <= x < knots[j + 1], the end segments reaching on for ever; walks from ``hint``."""
    j = hint
    while j < count - 2 and x >= costs[knots + j + 1]:
        j += 1
    while j > 0 and x < costs[knots + j]:
        j -= 1
    return j


@kernel
def kv_segment(costs: Cells, tokens: int, hint: int) -> int:
    """Segment of the decode tables that ``tokens`` of KV fall into."""
    return segment(costs, costs[layout.KV_KNOTS], costs[layout.NUM_KV_KNOTS], tokens, hint)


@kernel
def steps_in_segment(costs: Cells, j: int, tokens: int, growth: int) -> int:
    """Count the steps that stay in KV segment ``j`` when each adds ``growth`` tokens to ``tokens``."""
    if j >= costs[layout.NUM_KV_KNOTS] - 2:
        return layout.NEVER
    return (costs[costs[layout.KV_KNOTS] + j + 1] - tokens + growth - 1) // growth


@kernel
def decode_line(costs: Cells, table: int, stage: int, batch: int, j: int, tokens: int) -> tuple[int, int]:
    """Decode attention of ``batch`` sequences over ``tokens`` of KV, and its slope per token, both in 2^-12 ps."""
    b = costs[costs[layout.BATCH_INDEX] + batch]
    width = costs[layout.NUM_KV_KNOTS]
    row = table + (stage * costs[layout.NUM_BATCH_KNOTS] + b) * width + j
    low = costs[row]
    high = costs[row + 1]
    knot = costs[layout.BATCH_KNOTS] + b
    over = batch - costs[knot]
    if over > 0:
        step = costs[knot + 1] - costs[knot]
        low += (costs[row + width] - low) * over // step
        high += (costs[row + width + 1] - high) * over // step
    kv_knot = costs[layout.KV_KNOTS] + j
    slope = ((high - low) << layout.FRACTION_BITS) // (costs[kv_knot + 1] - costs[kv_knot])
    return (low << layout.FRACTION_BITS) + slope * (tokens - costs[kv_knot]), slope


@kernel
def interpolate(costs: Cells, knots: int, count: int, values: int, x: int) -> int:
    """Piecewise linear value at ``x`` in ps, the last segment reaching on for ever."""
    j = segment(costs, knots, count, x, 0)
    low = costs[values + j]
    share = float(x - costs[knots + j]) / float(costs[knots + j + 1] - costs[knots + j])
    return low + int(float(costs[values + j + 1] - low) * share)


@kernel
def prefill_cost(costs: Cells, stage: int, tokens: int, pairs: int, reads: int) -> int:
    """Attention of prefill chunks of ``tokens`` in ps: the slower of arithmetic and KV reads, then the expansion."""
    if pairs == 0:
        return 0
    count = costs[layout.NUM_PAIR_KNOTS]
    work = interpolate(costs, costs[layout.PAIR_KNOTS], count, costs[layout.PAIRS] + stage * count, pairs)
    count = costs[layout.NUM_READ_KNOTS]
    read = interpolate(costs, costs[layout.READ_KNOTS], count, costs[layout.READS] + stage * count, reads)
    count = costs[layout.NUM_CONTEXT_KNOTS]
    row = costs[layout.CONTEXT] + stage * count
    return max(work, read) + interpolate(costs, costs[layout.CONTEXT_KNOTS], count, row, reads - tokens)


@kernel
def token_cost(costs: Cells, stage: int, tokens: int, prefills: int) -> int:
    """Everything that depends on the number of tokens alone, in ps."""
    table = costs[layout.TOKEN_MIXED] if prefills > 0 else costs[layout.TOKEN_DECODE]
    return costs[table + stage * costs[layout.TOKEN_STRIDE] + tokens]


@kernel
def ranks_token_cost(costs: Cells, most: int, total: int, ranks: int, prefills: int) -> int:
    """Token cost of ``ranks`` that step together with ``total`` tokens, ``most`` on one of them, in ps.

    Up to a captured size all are padded to the most; above it what works on the tokens of all takes their sum.
    """
    whole = token_cost(costs, 0, most, prefills)
    if most <= costs[layout.PADDED_MIXED if prefills > 0 else layout.PADDED_DECODE]:
        return whole
    mean = (total + ranks - 1) // ranks
    pooled = costs[layout.POOLED]
    return max(token_cost(costs, 0, mean, prefills), whole - costs[pooled + most] + costs[pooled + mean])


@kernel
def sample_cost(costs: Cells, stage: int, rows: int) -> int:
    """Look up the sampling of ``rows`` sequences, in ps."""
    return costs[costs[layout.SAMPLE] + stage * costs[layout.SAMPLE_STRIDE] + rows]


@kernel
def send_cost(costs: Cells, stage: int, tokens: int) -> int:
    """Look up the hand-over of ``tokens`` to the next stage, in ps."""
    return costs[costs[layout.SEND] + stage * costs[layout.TOKEN_STRIDE] + tokens]
