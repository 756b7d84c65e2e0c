"""What a step costs: look-ups in the step tables, in 2^-12 ps for decode attention and in ps for the rest.

Decode attention is linear in KV tokens between two knots. Its slope is rounded down to 2^-12 ps per token, so the
cost of n steps of one batch is an arithmetic series in integers and a leap ends on the same clock as n single steps.
"""

from simulator.engine.jit import kernel
from simulator.engine.layout import FRACTION_BITS, I64, Costs


@kernel
def segment(knots: I64, x: int, hint: int) -> int:
    """Index j with knots[j] <= x < knots[j + 1], the end segments reaching on for ever; walks from ``hint``."""
    last = len(knots) - 2
    j = hint
    while j < last and x >= knots[j + 1]:
        j += 1
    while j > 0 and x < knots[j]:
        j -= 1
    return j


@kernel
def decode_line(costs: Costs, table: I64, batch: int, j: int) -> tuple[int, int]:
    """Cost at the lower knot of KV segment ``j`` and slope per KV token, both in 2^-12 ps, of ``batch`` sequences."""
    b = costs.batch_index[batch]
    low = table[b, j]
    high = table[b, j + 1]
    over = batch - costs.batch_knots[b]
    if over > 0:
        width = costs.batch_knots[b + 1] - costs.batch_knots[b]
        low += (table[b + 1, j] - low) * over // width
        high += (table[b + 1, j + 1] - high) * over // width
    slope = ((high - low) << FRACTION_BITS) // (costs.kv_knots[j + 1] - costs.kv_knots[j])
    return low << FRACTION_BITS, slope


@kernel
def interpolate(knots: I64, values: I64, x: int) -> int:
    """Piecewise linear value at ``x`` in ps, the last segment reaching on for ever."""
    j = segment(knots, x, 0)
    low = values[j]
    share = float(x - knots[j]) / float(knots[j + 1] - knots[j])
    return low + int(float(values[j + 1] - low) * share)


@kernel
def prefill_cost(costs: Costs, stage: int, pairs: int, reads: int) -> int:
    """Attention of a step's prefill chunks in ps: the slower of arithmetic and KV reads."""
    if pairs == 0:
        return 0
    return max(
        interpolate(costs.pair_knots, costs.pairs[stage], pairs),
        interpolate(costs.read_knots, costs.reads[stage], reads),
    )
