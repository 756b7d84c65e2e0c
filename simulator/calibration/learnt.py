"""What a calibration makes of a profile: the values that runs told with their errors, and a narrower spread.

What servers share in the spread of steps becomes what is left of the error of the factor common to all kernels; what is
each plan's own stays. No constant stands for the spread of first tokens, so that nothing is learnt of it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from simulator.calibration.estimate import Estimate
from simulator.calibration.unknowns import COMMON, HALF_WIDTH, Unknown, profile_at, shared_sd, value_at
from simulator.engine_profiles.constant import Constant
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.engine_profiles.spread import Spread

Values = Mapping[str, Mapping[str, Any]]  # section, key: a number with its error, or points of the load

_DIGITS: Final = 4  # that are written


def learnt_values(
    profile: EngineProfile, unknowns: Sequence[Unknown], found: Estimate, spread: Spread | None
) -> Values:
    """Return what changes in ``profile``: only keys that runs told, and the widths of the spread.

    ``spread`` is that of the profile with what stands in for what was asked for; None where it states none.
    """
    at = profile_at(profile, unknowns, found.moves.tolist())
    errors = dict(zip(found.kept, np.sqrt(np.diag(found.covariance)).tolist(), strict=True))
    values: dict[str, Any] = {}
    common_is_told = any(unknowns[place].key == COMMON for place in found.kept)
    for place, unknown in enumerate(unknowns):
        if unknown.load is not None or unknown.key == COMMON:
            continue
        if place not in errors and not (unknown.is_factor and common_is_told):
            continue
        section, key = unknown.key.split(".")
        value = value_at(at, unknown.key)
        width = HALF_WIDTH * unknown.error * errors.get(place, 0.0)
        error = value * math.expm1(width) if unknown.is_factor else width
        values.setdefault(section, {})[key] = _written(value, min(value, error))
    if at.load_factors != profile.load_factors:
        points = [point.model_copy(update={"weight": rounded(point.weight)}) for point in at.load_factors.points]
        reach = {name: getattr(at.load_factors, name) for name in ("tokens_octaves", "ranks_octaves")}
        values["load_factors"] = {**reach, "points": points}
    if spread is not None:
        values["spread"] = _narrowed(spread, unknowns, found)
    return values


def with_values(profile: EngineProfile, values: Values) -> EngineProfile:
    """Return ``profile`` with the values of a calibration, as a file that states them would have it."""
    return profile.model_copy(
        update={section: getattr(profile, section).model_copy(update=dict(own)) for section, own in values.items()}
    )


def _narrowed(spread: Spread, unknowns: Sequence[Unknown], found: Estimate) -> dict[str, float]:
    shared = shared_sd(spread.step_frac, spread.own_step_frac)
    for place, variance in zip(found.kept, np.diag(found.covariance).tolist(), strict=True):
        if unknowns[place].key == COMMON:
            shared = unknowns[place].error * math.sqrt(variance)
    return {"step_frac": rounded(math.expm1(math.hypot(math.log1p(spread.own_step_frac), HALF_WIDTH * shared)))}


def _written(value: float, error: float) -> float:
    """Return a number as it is written: four digits say more than any run tells."""
    return Constant(rounded(value), rounded(error)) if error else rounded(value)


def rounded(value: float) -> float:
    """Return a number as it is written."""
    return float(f"{value:.{_DIGITS}g}")
