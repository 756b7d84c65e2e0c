"""One rank of a pipeline stage under a power cap: which ops share a step, and with it a clock.

| step | its work |
| --- | --- |
| of T tokens with prefill | the ops of T tokens, scans, one sampled row, and attention of one prompt of T tokens |
| of B decoding sequences over K tokens | the ops of their tokens, their sampled rows, and their attention over K |

Attention of decoding sequences runs at the clock of its own (B, K); the ops of their tokens, which tables hold by
tokens alone, at that of B sequences with the KV of the mean request. Ranks of attention data parallelism, whose tables
share the experts' tokens, have one clock by tokens, that of steps with prefill. What a step waits for the host or
another stage is not averaged in: a device that waits has some power to spare, so that the clock found is the lower one.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from simulator.steps.compiled_plan import StageSums
from simulator.steps.power_cap import Draw, PowerCap, Throttle, ThrottledSteps
from simulator.steps.step_knots import StepShape, TableKnots

I64 = NDArray[np.int64]


def capped_stage(
    stage: StageSums,
    knots: TableKnots,
    shape: StepShape,
    cap: PowerCap,
    *,
    context_tokens: int,
    attention_dp: int = 1,
) -> StageSums:
    """Return the sums of a stage whose steps a cap throttles, the stage itself where it throttles none.

    ``context_tokens`` is what the mean request holds of the KV cache while it decodes.
    """
    mixed = ThrottledSteps.under(cap, _mixed_steps(stage, knots, shape))
    decoding = ThrottledSteps.under(cap, _decode_steps(stage, knots, shape))
    if mixed.are_free and decoding.are_free:
        return stage
    chunk = np.sqrt(2.0 * knots.pairs)
    typical = _at_context(decoding, knots, context_tokens)
    by_tokens = mixed if attention_dp > 1 else typical.at(knots.tokens, knots.batch * shape.queries)
    return replace(
        stage,
        tokens=mixed.applied(stage.tokens),
        decode_tokens=by_tokens.applied(stage.tokens),
        pooled=mixed.applied(stage.pooled),
        scans=mixed.applied(stage.scans),
        sends=mixed.applied(stage.sends),
        samples=typical.at(knots.rows, knots.batch * shape.queries).applied(stage.samples),
        decode=decoding.applied(stage.decode),
        windowed=decoding.applied(stage.windowed),
        prefill=mixed.at(chunk, knots.tokens).applied(stage.prefill),
        reads=mixed.at(knots.reads, knots.tokens).applied(stage.reads),
        context=mixed.at(knots.reads, knots.tokens).applied(stage.context),
    )


def _mixed_steps(stage: StageSums, knots: TableKnots, shape: StepShape) -> Draw:
    """Return the steps with prefill, one per knot of ``tokens``."""
    tokens = knots.tokens
    pairs = tokens * np.minimum(tokens, shape.max_model_len) / 2
    whole = Draw.of(stage.tokens) + Draw.of(stage.scans) + Draw.of(stage.samples).at(np.ones(len(tokens)), knots.rows)
    return whole + Draw.of(stage.prefill).at(pairs, knots.pairs)


def _decode_steps(stage: StageSums, knots: TableKnots, shape: StepShape) -> Draw:
    """Return the steps without prefill, one per knot of (batch, KV), flattened."""
    rows = np.repeat(knots.batch * shape.queries, len(knots.kv))
    whole = Draw.of(stage.tokens).at(rows, knots.tokens) + Draw.of(stage.samples).at(rows, knots.rows)
    return whole + Draw.of(stage.decode) + Draw.of(stage.windowed)


def _at_context(steps: ThrottledSteps, knots: TableKnots, context_tokens: int) -> ThrottledSteps:
    """Return the decode steps of sequences that hold ``context_tokens`` each, one per knot of ``batch``."""

    def along(throttle: Throttle) -> Throttle:
        return Throttle(clock_frac=chosen(throttle.clock_frac), stretch=chosen(throttle.stretch))

    def chosen(values: NDArray[np.float64]) -> NDArray[np.float64]:
        grid = values.reshape(len(knots.batch), len(knots.kv))
        held = zip(knots.batch * context_tokens, grid, strict=True)
        return np.array([np.interp(tokens, knots.kv, row) for tokens, row in held])

    most, least = ((cap, along(throttle)) for cap, throttle in steps.ends)
    return replace(steps, throttle=along(steps.throttle), ends=(most, least))
