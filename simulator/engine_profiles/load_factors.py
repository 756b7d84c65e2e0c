"""What a server's own runs leave beside every constant: a factor on the time of a step's ops, by its tokens and ranks.

    factor(tokens, ranks) = exp(sum over points of weight * k)
    k = exp(-(log2(tokens / point's)^2 / tokens_octaves^2 + log2(ranks / point's)^2 / ranks_octaves^2) / 2)

Kernels that take another time at one batch size than their tables say, on one width of tensor parallelism, are no
constant, and no family of kernels either. Points stand where runs were measured (`apex calibrate`); the factor goes
back to 1 within some octaves of them.
"""

import math
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.files.declared import Field, model_validator
from costmodel.ops.arrays import Array
from simulator.engine_profiles.profile_section import Count, ProfileSection, Source

_NO_SOURCE: Final = "no runs were calibrated on"
_MOST_LOG: Final = math.log(10.0)  # as much as a price factor may do
Octaves = Annotated[float, Field(gt=0, le=20)]
Weight = Annotated[float, Field(ge=-_MOST_LOG, le=_MOST_LOG)]


class LoadPoint(ProfileSection):
    """A step that was measured: its tokens, which are its sequences where all of them decode, and its stage's ranks."""

    tokens: Count
    ranks: Count
    weight: Weight  # of the factor's logarithm


def nearness(tokens: Array, ranks: Array, tokens_octaves: float, ranks_octaves: float) -> Array:
    """Return how much a point's factor is felt so many octaves of ``tokens`` and of ``ranks`` away, 0 to 1."""
    return np.asarray(np.exp(-0.5 * ((tokens / tokens_octaves) ** 2 + (ranks / ranks_octaves) ** 2)))


class LoadFactors(ProfileSection):
    """Points, and how far their factor reaches."""

    tokens_octaves: Octaves = 1.0
    ranks_octaves: Octaves = 1.0
    points: Annotated[list[LoadPoint], Field(max_length=100)] = Field(default_factory=list)
    source: Source = _NO_SOURCE

    @model_validator(mode="after")
    def _points_are_bounded_and_have_a_source(self) -> "LoadFactors":
        for point in self.points:
            factor = float(self.at(np.array([point.tokens]), point.ranks)[0])
            if abs(math.log(factor)) > _MOST_LOG:
                where = f"{point.tokens} tokens on {point.ranks} ranks"
                raise ValueError(f"the factor at {where} is {factor:.3g}, must be from 0.1 to 10")
        if self.points and self.source == _NO_SOURCE:
            msg = "points need a source: say which runs they were learnt from"
            raise ValueError(msg)
        return self

    def at(self, tokens: NDArray[np.number[Any]], ranks: int) -> Array:
        """Return the factor of steps of so many ``tokens``, each at least counted as one."""
        log2 = np.log2(np.maximum(np.asarray(tokens, dtype=np.float64), 1.0))
        logs = np.zeros_like(log2)
        for point in self.points:
            apart = log2 - math.log2(point.tokens), np.asarray(math.log2(ranks / point.ranks))
            logs += point.weight * nearness(*apart, self.tokens_octaves, self.ranks_octaves)
        return np.exp(logs)

    def scaled(self, factor: float) -> "LoadFactors":
        """Return the factors with their logarithm times ``factor``."""
        points = [point.model_copy(update={"weight": factor * point.weight}) for point in self.points]
        return self.model_copy(update={"points": points})


NO_LOAD_FACTORS: Final = LoadFactors.trusted({})
