"""The smooth time an op family is expected to take, which measured times are divided by before anything is fitted.

    reference_s = floor_s + hypot(flop_s / e_c, bytes_s / e_m)

``flop_s`` and ``bytes_s`` are the two sides of the roofline, ``e_c`` and ``e_m`` the shares of the peaks that large
calls of the family reach, ``floor_s`` what its smallest calls take. The log ratio to it varies slowly with shape.
"""

from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.arrays import Array

# What bounds a call; intervals are calibrated per regime.
REGIMES: Final = ("launch", "memory", "compute")
# A regime's efficiency is learnt from calls this many floors long.
_LARGE_CALL = 10.0
_FEWEST_CALLS = 5
# Below this many calls all three constants are searched for at once.
_FEW = 200
_SEARCH_ROUNDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Constants of the reference time of one family and number format."""

    floor_s: float
    compute_efficiency: float
    memory_efficiency: float

    def seconds(self, flop_s: Array, bytes_s: Array) -> Array:
        """Return the reference time in seconds."""
        return self.floor_s + np.hypot(flop_s / self.compute_efficiency, bytes_s / self.memory_efficiency)

    def regime(self, flop_s: Array, bytes_s: Array) -> NDArray[np.int8]:
        """Index into ``REGIMES`` of what bounds each call."""
        compute_s, memory_s = flop_s / self.compute_efficiency, bytes_s / self.memory_efficiency
        bound = np.where(compute_s > memory_s, 2, 1)
        return np.where(np.maximum(compute_s, memory_s) < self.floor_s, 0, bound).astype(np.int8)

    def compute_share(self, flop_s: Array, bytes_s: Array) -> Array:
        """Share of the time that follows the SM clock, by the squares of the two sides."""
        compute_s, memory_s = flop_s / self.compute_efficiency, bytes_s / self.memory_efficiency
        body_s = np.hypot(compute_s, memory_s)
        squares = np.divide(compute_s**2, body_s**2, out=np.zeros_like(body_s), where=body_s > 0)
        return np.asarray((squares * body_s) / (body_s + self.floor_s))

    def link_share(self, bytes_s: Array) -> Array:
        """Share of a collective's time that its bytes take on the links, the rest being the floor."""
        body_s = bytes_s / self.memory_efficiency
        return np.asarray(body_s / (body_s + self.floor_s))

    @classmethod
    def fit(cls, latency_s: Array, flop_s: Array, bytes_s: Array, *, compute: float, memory: float) -> Self:
        """Learn the constants from measured calls; ``compute`` and ``memory`` stand in where too few are large."""
        if len(latency_s) < _FEW:
            return cls._search(latency_s, flop_s, bytes_s, compute=compute, memory=memory)
        floor_s = float(np.quantile(latency_s, 0.02))
        body_s = latency_s - floor_s
        large = latency_s > _LARGE_CALL * floor_s

        def efficiency(side_s: Array, other_s: Array, stand_in: float) -> float:
            bound = large & (side_s > 2.0 * other_s)
            if np.count_nonzero(bound) < _FEWEST_CALLS:
                return stand_in
            return float(np.median(side_s[bound] / body_s[bound]))

        return cls(
            floor_s=floor_s,
            compute_efficiency=efficiency(flop_s, bytes_s, compute),
            memory_efficiency=efficiency(bytes_s, flop_s, memory),
        )

    @classmethod
    def _search(cls, latency_s: Array, flop_s: Array, bytes_s: Array, *, compute: float, memory: float) -> Self:
        """Minimise the mean |ln(reference / latency)| of a few calls, one constant at a time on ever finer steps."""
        best = np.array([float(latency_s.min()), compute, memory])

        def error(constants: Array) -> float:
            seconds = constants[0] + np.hypot(flop_s / constants[1], bytes_s / constants[2])
            return float(np.abs(np.log(seconds / latency_s)).mean())

        span = np.log(32.0)
        for _ in range(_SEARCH_ROUNDS):
            for index in (1, 2, 0, 1, 2):
                candidates = np.repeat(best[None], 33, axis=0)
                candidates[:, index] *= np.exp(np.linspace(-span, span, 33))
                best = candidates[int(np.argmin([error(candidate) for candidate in candidates]))]
            span /= 4.0
        return cls(floor_s=float(best[0]), compute_efficiency=float(best[1]), memory_efficiency=float(best[2]))
