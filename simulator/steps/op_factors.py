"""The factor that an engine profile puts on the price of an op: that of its family of kernels."""

from costmodel.ops.custom import Custom
from costmodel.ops.op_types import Attention, Collective, Gemm, Moe, Op, Scan
from simulator.engine_profiles.price_factors import PriceFactors
from simulator.model.linear import ProductAlone


def factor_of(op: Op, factors: PriceFactors) -> float:
    """Return the factor on the price of ``op``, with its error where one is stated (`error_of`)."""
    if isinstance(op, Attention):
        return factors.attention_prefill if op.phase == "prefill" else factors.attention_decode
    if isinstance(op, Gemm | ProductAlone):
        return factors.gemm
    if isinstance(op, Moe):
        return factors.experts
    if isinstance(op, Scan):
        return factors.scan
    if isinstance(op, Collective):
        return factors.collective
    if isinstance(op, Custom):
        return 1.0  # no server that factors were learnt from runs it
    return factors.small_ops
