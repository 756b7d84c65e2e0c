"""What runs of a server may change of its engine profile, and how far each is known without them.

A constant of the engine's own time moves by seconds, with the error its profile states as what is known of it. Prices
move by factors: one common to all kernels, as wide as what the profile's ``[spread]`` says servers share, and one per
family. Errors here are standard deviations; a profile states half widths of 90 % intervals.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from cluster_specs.lazy_dataclass import dataclass
from simulator.engine_profiles.constant import Constant, error_of
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.engine_profiles.load_factors import LoadFactors
from simulator.engine_profiles.price_factors import FAMILIES
from simulator.engine_profiles.spread import NO_SPREAD, Spread

HALF_WIDTH: Final = 1.645  # standard deviations in half a 90 % interval
COMMON: Final = "every kernel"
_FACTORS: Final = "price_factors"
_NO_SPREAD_SD: Final = 0.10  # of the common factor, where a profile states no spread
# Kernels of two engines, measured on the same device, differ by a tenth: a 90 % interval.
_FAMILY_SD: Final = math.log1p(0.10) / HALF_WIDTH
_SUSTAINED: Final = "sustained_load.slowdown_frac"
# Constants of time, with the least half width that is taken for one: of what nobody states an error for.
_TIMES: Final[Mapping[str, float]] = {
    "host.step_s": 0.7e-3,
    "host.sequence_s": 16e-6,
    "host.serial_step_s": 0.33e-3,
    "host.serial_sequence_s": 4e-6,
    "host.frontend_s": 7e-3,
    "host.frontend_token_s": 1.4e-6,
    "host.launch_s": 11e-6,
    _SUSTAINED: 0.12,
}
_MOST_FACTOR: Final = 10.0
_MOST_LOAD_MOVE: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """One number that runs may tell: ``error`` is its standard deviation, in its unit or of its logarithm."""

    key: str  # of the profile, with dots, or ``COMMON``
    value: float
    error: float
    is_factor: bool
    load: LoadFactors | None = None  # by load: factors of a move of one, which is one error

    def at(self, move: float) -> float:
        """Return the value ``move`` errors away."""
        if self.is_factor:
            return self.value * math.exp(move * self.error)
        return max(0.0, self.value + move * self.error)

    @property
    def least_move(self) -> float:
        """The lowest move that means anything: no time is below zero, no factor below a tenth."""
        if self.load is not None:
            return -_MOST_LOAD_MOVE
        return -math.log(_MOST_FACTOR * self.value) / self.error if self.is_factor else -self.value / self.error

    @property
    def most_move(self) -> float:
        """The highest move."""
        if self.load is not None:
            return _MOST_LOAD_MOVE
        return math.log(_MOST_FACTOR / self.value) / self.error if self.is_factor else math.inf


def unknowns_of(profile: EngineProfile, spread: Spread | None = None) -> tuple[Unknown, ...]:
    """Return what may be told of ``profile``; ``spread`` is that of its servers with what stands in included."""
    widths = spread or profile.spread or NO_SPREAD
    wide = shared_sd(widths.step_frac, widths.own_step_frac) or _NO_SPREAD_SD
    found = []
    for key, least in _TIMES.items():
        value = value_at(profile, key)
        if value or key != _SUSTAINED:  # a device that nothing slows down has no such clock to tell
            found.append(Unknown(key=key, value=value, error=(error_of(value) or least) / HALF_WIDTH, is_factor=False))
    found.append(Unknown(key=COMMON, value=1.0, error=wide, is_factor=True))
    for family in FAMILIES:
        value = value_at(profile, f"{_FACTORS}.{family}")
        error = error_of(value) / value / HALF_WIDTH or _FAMILY_SD
        found.append(Unknown(key=f"{_FACTORS}.{family}", value=float(value), error=error, is_factor=True))
    return tuple(found)


def shared_sd(whole_frac: float, own_frac: float) -> float:
    """Return the standard deviation of what all plans of a server share, from two half widths."""
    return math.sqrt(max(0.0, math.log1p(whole_frac) ** 2 - math.log1p(own_frac) ** 2)) / HALF_WIDTH


def value_at(profile: EngineProfile, key: str) -> float:
    """Return the number at a dotted key."""
    section, name = key.split(".")
    value: float = getattr(getattr(profile, section), name)
    return value


def profile_at(profile: EngineProfile, unknowns: Sequence[Unknown], moves: Sequence[float]) -> EngineProfile:
    """Return ``profile`` with each unknown moved by so many of its errors; errors it states stay, up to the value."""
    values: dict[str, dict[str, float]] = {}
    common = 1.0
    for unknown, move in zip(unknowns, moves, strict=True):
        if unknown.load is not None:
            continue
        if unknown.key == COMMON:
            common = unknown.at(move)
        elif move:
            section, name = unknown.key.split(".")
            value = unknown.at(move)
            values.setdefault(section, {})[name] = Constant(value, min(value, error_of(value_at(profile, unknown.key))))
    if common != 1.0:
        factors = values.setdefault(_FACTORS, {})
        for family in FAMILIES:
            value = factors.get(family, value_at(profile, f"{_FACTORS}.{family}"))
            factors[family] = Constant(min(_MOST_FACTOR, value * common), error_of(value))
    changed: dict[str, object] = {
        section: getattr(profile, section).model_copy(update=numbers) for section, numbers in values.items()
    }
    loads = [(unknown.load, move) for unknown, move in zip(unknowns, moves, strict=True) if unknown.load is not None]
    if any(move for _, move in loads):
        changed["load_factors"] = _added(profile.load_factors, loads)
    return profile.model_copy(update=changed)


def _added(before: LoadFactors, loads: Sequence[tuple[LoadFactors, float]]) -> LoadFactors:
    """Return the factors of a profile with moves of all loads, which share their points, added to them."""
    first = loads[0][0]
    weights = [sum(load.points[place].weight * move for load, move in loads) for place in range(len(first.points))]
    points = [point.model_copy(update={"weight": weight}) for point, weight in zip(first.points, weights, strict=True)]
    return first.model_copy(update={"points": [*before.points, *points]})
