"""How far servers lie from their prediction for reasons no constant stands for, and what a stand-in adds.

Errors of prices and of constants are stated where these are. What is left was learnt from servers: each is predicted
with constants estimated without it, and half widths are such that nine of ten are inside. A plan takes the profile's
own widths and, in quadrature of their logarithms, those of every stand-in that its prices and its engine rest on.
"""

import math
from collections.abc import Iterable
from typing import Annotated, Final

from cluster_specs.files.declared import Field, model_validator
from simulator.engine_profiles.profile_section import ProfileSection, Source

# A half width of 0.25 reaches from 1 / 1.25 to 1.25 of the best estimate.
Widening = Annotated[float, Field(ge=0, le=10)]
Servers = Annotated[int, Field(ge=0, le=10_000)]


class Widths(ProfileSection):
    """Half widths of 90 % intervals, relative to the best estimate."""

    step_frac: Widening = 0.0  # of the time of every step
    first_token_frac: Widening = 0.0  # of TTFT, beside what steps do to it: client, frontend, bursts
    servers: Servers = 0  # that the figures were learnt from
    source: Source


class Spread(Widths):
    """Widths of servers that the profile, the tables and the fit of the device are made for, and of stand-ins.

    The ``own`` part of a width is that of each plan; the rest is common to all plans of a server, so that it does not
    count where two of them are compared.
    """

    own_step_frac: Widening = 0.0
    own_first_token_frac: Widening = 0.0
    other_version: Widths | None = None  # the version asked for has no profile: this one stands in
    unmeasured_device: Widths | None = None  # no op of the device was measured
    other_tables: Widths | None = None  # the kernels measured are another engine's

    @model_validator(mode="after")
    def _own_is_a_part(self) -> "Spread":
        for name in ("step_frac", "first_token_frac"):
            own, whole = getattr(self, f"own_{name}"), getattr(self, name)
            if own > whole:
                raise ValueError(f"own_{name} is {own:g}, must be at most {name} = {whole:g}")
        return self

    def widened(self, parts: Iterable[Widths | None]) -> "Spread":
        """Return the widths with those of stand-ins added, which all plans of a server share."""
        known = [part for part in parts if part is not None]
        if not known:
            return self
        return self.model_copy(
            update={
                name: _together([getattr(self, name), *(getattr(part, name) for part in known)])
                for name in ("step_frac", "first_token_frac")
            }
        )


def _together(fractions: Iterable[float]) -> float:
    """Add independent relative half widths: in quadrature of their logarithms."""
    return math.expm1(math.hypot(*map(math.log1p, fractions)))


NO_SPREAD: Final = Spread.trusted({"source": "nothing is stated"})
