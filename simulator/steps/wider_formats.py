"""No number format is dearer than the one it replaces: fewer bytes and no more arithmetic cannot take longer.

Where measured rows say otherwise their kernel was not the one an engine would keep: a fallback, or one left untuned.
Latent attention over an FP8 cache takes four times as long as over a 16-bit one in one engine's tables of H200, and no
longer in another's. The price is then that of the wider format, and what the narrower one adds: rounding its inputs.

A format is compared where the device has its arithmetic (``device.peak_flop_per_s``). Formats of weights alone are
not: they widen weights anew for every tile and do lose to 16 bits in long prompts.
"""

from dataclasses import replace
from typing import Final

from cluster_specs.device import DeviceSpec
from costmodel.ops.number_formats import SCHEMES
from costmodel.ops.op_types import Attention, Gemm, Moe, Op
from costmodel.ops.small_ops import small_op

# A format of products and experts -> the one that engines would run in its place.
_PRODUCTS: Final = {"fp8": "bf16", "fp8_block": "bf16", "w8a8": "bf16", "nvfp4": "fp8"}
# FP8 with one scale per tensor or row reads the same bytes as FP8 with block scales, and does the same arithmetic.
_EXPERTS: Final = {"fp8": "fp8_block", "fp8_block": "bf16", "nvfp4": "fp8_block", "mxfp4_mxfp8": "mxfp4"}
_NARROW_KV: Final = frozenset({"fp8"})


def wider(op: Op, device: DeviceSpec) -> Op | None:
    """Return ``op`` in the format that bounds its price; None where nothing does."""
    if isinstance(op, Attention):
        return replace(op, kv_dtype=op.dtype) if op.kv_dtype in _NARROW_KV and op.dtype != op.kv_dtype else None
    if not isinstance(op, Gemm | Moe):
        return None
    other = (_PRODUCTS if isinstance(op, Gemm) else _EXPERTS).get(op.dtype)
    if other is None or SCHEMES[op.dtype].compute not in device.peak_flop_per_s:
        return None
    return replace(op, dtype=other)


def added_rounding(op: Op, other: Op, *, includes_rounding: bool) -> list[Op]:
    """Return the kernels that ``op`` runs beside those of ``other``, the same in a wider format.

    ``includes_rounding``: the price of a product holds the rounding of its input. That of experts always does, before
    either of their products.
    """
    if not isinstance(op, Gemm | Moe) or not isinstance(other, Gemm | Moe):
        return []
    rounded, was = SCHEMES[op.dtype].activation, SCHEMES[other.dtype].activation
    if was != "bf16" or rounded == was:
        return []
    if isinstance(op, Gemm):
        return (
            [small_op("quantise", rows=op.m, width=int(op.k), dtype="bf16", out="fp8", scales=1)]
            if includes_rounding
            else []
        )
    rows, pairs = op.num_tokens, op.num_tokens * op.topk
    return [
        small_op("quantise", rows=rows, width=op.hidden, dtype="bf16", out="fp8", scales=1),
        small_op("quantise", rows=pairs, width=op.local_inter, dtype="bf16", out="fp8", scales=1),
    ]
