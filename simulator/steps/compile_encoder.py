"""What the encoder of images and audio costs in a step: its priced ops, by the tokens and pairs of the step's items.

Items of a step run together, as engines batch them: matrices and small ops on all their tokens, attention over whole
items by the pairs of tokens that see each other. Keys and values of cross attention, which a decoder projects from the
encoder's rows once, are part of it. No CUDA graph holds an encoder, so the host starts every kernel.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from simulator.engine_profiles.engine_kernels import Launches
from simulator.model.cell import KernelChoices
from simulator.model.cells.cross_attention import CrossAttention
from simulator.model.spec import ModelSpec
from simulator.plan.plan import Plan
from simulator.steps.op_curves import OpCurves, label
from simulator.steps.power_cap import Draw, PowerCap, ThrottledSteps
from simulator.steps.step_knots import covering
from simulator.steps.step_sum import StepSum

I64 = NDArray[np.int64]

# All plans share one grid, so that they share priced curves; beyond the last knots the last line goes on.
_TOKENS: Final = np.array(covering(16, 1 << 20, 4), dtype=np.int64)
_PAIRS: Final = np.array(covering(256, 1 << 36, 2), dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSums:
    """Priced ops of one rank's encoder, at the knots."""

    tokens: StepSum  # on ``token_knots``
    attention: StepSum  # over whole items, on ``pair_knots``
    token_knots: I64
    pair_knots: I64
    launches: int  # kernels the host starts
    ranks: int = 1  # over which whole items are spread


def compile_encoder(
    model: ModelSpec,
    plan: Plan,
    curves: OpCurves,
    *,
    kernels: KernelChoices,
    launches: Launches,
    cap: PowerCap | None = None,
) -> EncoderSums:
    """Price every op that one rank of the first stage runs for items; the model has an encoder."""
    encoder = model.encoder
    assert encoder is not None
    tokens, attention = StepSum(len(_TOKENS)), StepSum(len(_PAIRS))
    count = 0
    for op, times in encoder.token_ops(plan, _TOKENS, kernels):
        tokens.add(label(op), curves.price(op), times)
        count += launches.of(op) * times
    for op, times in encoder.attention_ops(plan, _PAIRS):
        attention.add(label(op), curves.price(op), times)
        count += times
    for block, times in model.blocks:
        for cell in block.cells:
            if isinstance(cell, CrossAttention):
                for op in cell.item_ops(plan, _TOKENS):
                    tokens.add(label(op), curves.price(op), times)
                    count += launches.of(op) * times
    if cap is not None:
        tokens, attention = (ThrottledSteps.under(cap, Draw.of(part)).applied(part) for part in (tokens, attention))
    return EncoderSums(
        tokens=tokens,
        attention=attention,
        token_knots=_TOKENS,
        pair_knots=_PAIRS,
        launches=count,
        ranks=encoder.ranks(plan),
    )
