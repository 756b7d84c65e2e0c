"""What a step costs: look-ups in the step tables, in 2^-12 ps for decode attention and in ps for the rest.

Decode attention is linear in KV tokens between two knots. Its slope is rounded down to 2^-12 ps per token, so the
cost of n steps of one batch is an arithmetic series in integers and a leap ends on the same clock as n single steps.
"""

from simulator.engine.bounds import FRACTION_BITS, NEVER
from simulator.engine.costs import Costs
from simulator.engine.kernel import kernel
from simulator.engine.records import Ints
from simulator.engine.tables import list_at


@kernel
def segment(knots: Ints, count: int, x: int, hint: int) -> int:
    """Index j with knots[j] <= x < knots[j + 1], the end segments reaching on for ever; walks from ``hint``."""
    j = hint
    while j < count - 2 and x >= knots[j + 1]:
        j += 1
    while j > 0 and x < knots[j]:
        j -= 1
    return j


@kernel
def kv_segment(costs: Costs, tokens: int, hint: int) -> int:
    """Segment of the decode tables that ``tokens`` of KV fall into."""
    return segment(list_at(costs, costs.kv_knots), costs.num_kv_knots, tokens, hint)


@kernel
def steps_in_segment(costs: Costs, j: int, tokens: int, growth: int) -> int:
    """Count the steps that stay in KV segment ``j`` when each adds ``growth`` tokens to ``tokens``."""
    if j >= costs.num_kv_knots - 2:
        return NEVER
    return (list_at(costs, costs.kv_knots)[j + 1] - tokens + growth - 1) // growth


@kernel
def decode_line(costs: Costs, table: int, stage: int, batch: int, j: int, tokens: int) -> tuple[int, int]:
    """Decode attention of ``batch`` sequences over ``tokens`` of KV, and its slope per token, both in 2^-12 ps.

    ``table`` is where the table of all batch knots and KV knots begins: ``costs.decode`` or ``costs.windowed``.
    """
    b = list_at(costs, costs.batch_index)[batch]
    width = costs.num_kv_knots
    row = list_at(costs, table + (stage * costs.num_batch_knots + b) * width + j)
    low = row[0]
    high = row[1]
    batch_knots = list_at(costs, costs.batch_knots + b)
    over = batch - batch_knots[0]
    if over > 0:
        step = batch_knots[1] - batch_knots[0]
        low += (row[width] - low) * over // step
        high += (row[width + 1] - high) * over // step
    kv_knots = list_at(costs, costs.kv_knots + j)
    slope = ((high - low) << FRACTION_BITS) // (kv_knots[1] - kv_knots[0])
    return (low << FRACTION_BITS) + slope * (tokens - kv_knots[0]), slope


@kernel
def interpolate(knots: Ints, count: int, values: Ints, x: int) -> int:
    """Piecewise linear value at ``x`` in ps, the last segment reaching on for ever."""
    j = segment(knots, count, x, 0)
    low = values[j]
    share = float(x - knots[j]) / float(knots[j + 1] - knots[j])
    return low + int(float(values[j + 1] - low) * share)


@kernel
def prefill_cost(costs: Costs, stage: int, tokens: int, pairs: int, reads: int, decodes: int) -> int:
    """Attention of prefill chunks of ``tokens`` in ps: the slower of arithmetic and KV reads, then the expansion.

    Beside ``decodes`` sequences they save a kernel's start where one kernel runs both.
    """
    if pairs == 0:
        return 0
    count = costs.num_pair_knots
    values = list_at(costs, costs.pairs + stage * count)
    work = interpolate(list_at(costs, costs.pair_knots), count, values, pairs)
    count = costs.num_read_knots
    values = list_at(costs, costs.reads + stage * count)
    read = interpolate(list_at(costs, costs.read_knots), count, values, reads)
    count = costs.num_context_knots
    values = list_at(costs, costs.context + stage * count)
    attention = max(work, read)
    if decodes > 0:
        attention = max(0, attention - list_at(costs, costs.attention_start)[stage])
    return attention + interpolate(list_at(costs, costs.context_knots), count, values, reads - tokens)


@kernel
def token_cost(costs: Costs, stage: int, tokens: int, prefills: int) -> int:
    """Everything that depends on the number of tokens alone, in ps."""
    table = costs.token_mixed if prefills > 0 else costs.token_decode
    return list_at(costs, table + stage * costs.token_stride)[tokens]


@kernel
def ranks_token_cost(costs: Costs, stage: int, most: int, total: int, ranks: int, prefills: int) -> int:
    """Token cost of ``ranks`` that run a stage together with ``total`` tokens, ``most`` on one of them, in ps.

    Up to a captured size all are padded to the most; above it what works on the tokens of all takes their sum.
    """
    whole = token_cost(costs, stage, most, prefills)
    if most <= (costs.padded_mixed if prefills > 0 else costs.padded_decode):
        return whole
    mean = (total + ranks - 1) // ranks
    pooled = list_at(costs, costs.pooled + stage * costs.token_stride)
    return max(token_cost(costs, stage, mean, prefills), whole - pooled[most] + pooled[mean])


@kernel
def sample_cost(costs: Costs, stage: int, rows: int) -> int:
    """Look up the sampling of ``rows`` sequences, in ps."""
    return list_at(costs, costs.sample + stage * costs.sample_stride)[rows]


@kernel
def send_cost(costs: Costs, stage: int, tokens: int) -> int:
    """Look up the hand-over of ``tokens`` to the next stage, in ps."""
    return list_at(costs, costs.send + stage * costs.token_stride)[tokens]
