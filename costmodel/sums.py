"""Predictions put together: several parts of one op, one after the other."""

from collections.abc import Sequence

import numpy as np

from costmodel.prediction import Prediction


def sum_predictions(parts: Sequence[Prediction]) -> Prediction:
    """Add parts that run one after the other; their errors count as fully correlated, the worst source wins."""
    first, *rest = parts
    latency_s, low_s, high_s, energy_j, source = (
        first.latency_s,
        first.low_s,
        first.high_s,
        first.energy_j,
        first.source,
    )
    for part in rest:
        latency_s = latency_s + part.latency_s
        low_s, high_s = low_s + part.low_s, high_s + part.high_s
        energy_j = energy_j + part.energy_j
        source = np.maximum(source, part.source)
    return Prediction(latency_s=latency_s, low_s=low_s, high_s=high_s, energy_j=energy_j, source=source)
