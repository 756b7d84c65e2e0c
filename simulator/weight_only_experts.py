"""MXFP4 experts served by a kernel that only stores four bits: weights are dequantised, the arithmetic is 16-bit.

Such a kernel (Marlin) reads the same bytes as one made for the format, so that both take the same time while a few
tokens wait for weights. It dequantises a weight anew for every tile of rows: from one full tile per expert on, an op
takes the slower of both kernels' times, of which the weight-only one is that of 4-bit integer weights.
"""

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from costmodel.ops import Moe

TILE_ROWS: Final = 16  # rows of one Marlin tile
_SCHEME: Final = "w4a16"


def weight_only_twin(op: Moe) -> Moe:
    """Return the same experts with 4-bit integer weights and 16-bit arithmetic."""
    return replace(op, dtype=_SCHEME)


def fills_tiles(op: Moe) -> NDArray[np.bool_]:
    """Whether the mean expert sees at least one full tile of rows; has the shape of ``op.num_tokens``."""
    return np.asarray(op.num_tokens) * op.topk >= TILE_ROWS * op.num_experts
