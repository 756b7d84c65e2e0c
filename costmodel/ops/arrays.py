"""The array of all quantities: float64, of whatever shape the docstring beside it says."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
