"""Experts that a server runs through another kernel than the one measured: whose time stands in, and where.

MXFP4 on devices without FP4 units may be weight-only (Marlin; ``mxfp4_experts.weight_only_tile_rows`` of an engine's
profile says which kernels are, and the rows of their tiles). While a few tokens wait for weights, such a kernel
streams them: the analytic price (12 kernel floors and the device's memory efficiency) is taken where the kernel made
for the format is slower. It is 0.75 to 1.1 of measured Marlin at up to 64 tokens on up to 8 ranks of H100 and A100.
Marlin dequantises a weight anew for every tile of rows: from one full tile per expert on, an op takes the slower of
both kernels' times, of which the weight-only one is that of 4-bit integer weights.
"""

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from costmodel.ops.op_types import Moe

_WEIGHT_ONLY: Final = "w4a16"


def weight_only_twin(op: Moe) -> Moe:
    """Return the same experts with 4-bit integer weights and 16-bit arithmetic."""
    return replace(op, dtype=_WEIGHT_ONLY)


def fills_tiles(op: Moe, tile_rows: int) -> NDArray[np.bool_]:
    """Whether the mean expert sees at least one full tile of rows; has the shape of ``op.num_tokens``."""
    return np.asarray(op.num_tokens) * op.topk >= tile_rows * op.num_experts
