"""Which token counts fill a GEMM's tiles: multiples of eight, and everything up to the smallest tile."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT: Final = 8
ALWAYS_ALIGNED: Final = 16


def is_aligned(m: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether m fills its tiles well enough to belong to the aligned branch."""
    return np.asarray((np.mod(m, _ALIGNMENT) == 0) | (m <= ALWAYS_ALIGNED))
