"""Times of ops between what physics expects and what an earlier fit says, with a Gaussian process for the rest.

    ln t(x) = (1 - trust) ln reference(x) + trust ln prior(x) + g(x)

``trust`` is the one under which the measurements are likeliest. Two measurements of one device, or two devices of one
generation, share most of their steps from tile to tile (trust near 1); devices of different generations share some.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from costmodel.gaussian_process import GaussianProcess

Array = NDArray[np.float64]

_TRUSTS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)


class BlendedProcess:
    """Fitted to ``x`` [points, dims] in octaves and the logarithms of measured, reference and (if any) prior times."""

    def __init__(self, x: Array, log_s: Array, reference_log_s: Array, prior_log_s: Array | None = None) -> None:
        self.trust = 0.0
        self.rest = GaussianProcess(x, log_s - reference_log_s)
        for trust in _TRUSTS[1:] if prior_log_s is not None else ():
            rest = GaussianProcess(x, log_s - _blend(trust, reference_log_s, prior_log_s), near=self.rest)
            if rest.log_likelihood > self.rest.log_likelihood:
                self.trust, self.rest = trust, rest

    def predict(self, x: Array, reference_log_s: Array, prior_log_s: Array | None = None) -> Array:
        """Return the expected ln t; ``prior_log_s`` must be there unless ``trust`` is 0."""
        return _blend(self.trust, reference_log_s, prior_log_s) + self.rest.predict(x)


def _blend(trust: float, reference_log_s: Array, prior_log_s: Array | None) -> Array:
    if not trust:
        return reference_log_s
    assert prior_log_s is not None
    return (1.0 - trust) * reference_log_s + trust * prior_log_s
