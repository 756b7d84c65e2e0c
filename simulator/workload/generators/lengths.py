"""How long prompts and outputs are: fixed, uniform, lognormal or drawn from a trace.

A lognormal of mean mu and coefficient of variation c has sigma^2 = ln(1 + c^2) and location ln(mu) - sigma^2 / 2.
"""

import math
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from simulator.workload.columns import MAX_PLAUSIBLE_TOKENS

_MOST: Final = f"<= {MAX_PLAUSIBLE_TOKENS}"


class LengthDistribution(Protocol):
    """Draws token counts."""

    def draw(self, count: int, stream: "np.random.Generator") -> NDArray[np.int64]:
        """Return ``count`` lengths in tokens, each >= 1."""
        ...


def _require(claim: bool, message: str) -> None:
    if not claim:
        raise UserError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """Every request has ``tokens``."""

    tokens: int

    def __post_init__(self) -> None:
        _require(
            1 <= self.tokens <= MAX_PLAUSIBLE_TOKENS,
            f"fixed length is {self.tokens} tokens, must be {'>= 1' if self.tokens < 1 else _MOST}",
        )

    def draw(self, count: int, stream: "np.random.Generator") -> NDArray[np.int64]:  # noqa: ARG002 - nothing is random
        """Return ``count`` times the same length."""
        return np.full(count, self.tokens, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """Whole numbers from ``low`` to ``high``, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        _require(
            1 <= self.low <= self.high <= MAX_PLAUSIBLE_TOKENS,
            f"uniform lengths from {self.low} to {self.high}, must be 1 <= low <= high {_MOST}",
        )

    def draw(self, count: int, stream: "np.random.Generator") -> NDArray[np.int64]:
        """Return ``count`` independent draws."""
        return stream.integers(self.low, self.high, size=count, endpoint=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lognormal:
    """Lognormal of ``mean`` tokens and coefficient of variation ``cv``, rounded, cut to [1, ``maximum``]."""

    mean: float
    cv: float
    maximum: int

    def __post_init__(self) -> None:
        _require(math.isfinite(self.mean) and self.mean >= 1, f"mean length is {self.mean:g} tokens, must be >= 1")
        _require(math.isfinite(self.cv) and self.cv > 0, f"cv of the lengths is {self.cv:g}, must be > 0")
        _require(self.mean <= MAX_PLAUSIBLE_TOKENS, f"mean length is {self.mean:g} tokens, must be {_MOST}")
        _require(self.maximum >= self.mean, f"longest length {self.maximum} is below the mean {self.mean:g}")

    def draw(self, count: int, stream: "np.random.Generator") -> NDArray[np.int64]:
        """Return ``count`` independent draws."""
        variance = math.log1p(self.cv**2)
        drawn = stream.lognormal(math.log(self.mean) - variance / 2, math.sqrt(variance), size=count)
        return np.clip(np.rint(drawn), 1, self.maximum).astype(np.int64)


def draw_pairs(
    prompts: NDArray[np.int64], outputs: NDArray[np.int64], count: int, stream: "np.random.Generator"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw ``count`` (prompt, output) pairs of a trace with replacement, so that their correlation survives."""
    index = stream.integers(0, len(prompts), size=count)
    return prompts[index], outputs[index]
