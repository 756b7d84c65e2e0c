"""The array of all quantities: float64, of whatever shape the docstring beside it says."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def distinct(values: Array) -> Array:
    """Return the different numbers of a flat array, ascending; as ``np.unique`` does, which imports masked arrays."""
    ascending = np.sort(values)
    is_new = np.ones(len(ascending), dtype=np.bool_)
    is_new[1:] = ascending[1:] != ascending[:-1]
    return ascending[is_new]
