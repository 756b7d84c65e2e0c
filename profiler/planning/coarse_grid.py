"""Points that spread over a set of sizes: the coarse grid of an adaptive plan."""

import numpy as np

from costmodel.ops.arrays import Array


def farthest_points(x: Array, count: int, taken: Array | None = None) -> list[int]:
    """Return indices of up to ``count`` rows that spread over ``x``: corners first, then the widest gap each time."""
    span = np.ptp(x, axis=0)
    scaled = (x - x.min(axis=0)) / np.where(span > 0, span, 1.0)
    if taken is not None and len(taken):
        known = (taken - x.min(axis=0)) / np.where(span > 0, span, 1.0)
        distance = np.min(np.linalg.norm(scaled[:, None, :] - known[None, :, :], axis=2), axis=1)
        chosen: list[int] = []
    else:
        first = int(np.argmin(scaled.sum(axis=1)))
        chosen = [first]
        distance = np.linalg.norm(scaled - scaled[first], axis=1)
    while len(chosen) < min(count, len(x)):
        best = int(np.argmax(distance))
        if distance[best] <= 0:
            break
        chosen.append(best)
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[best], axis=1))
    return chosen[:count]
