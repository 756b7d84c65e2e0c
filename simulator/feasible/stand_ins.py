"""What stands in for what was asked for: a profile for another version, constants for measurements, other tables.

Each has a table in the profile's ``[spread]`` that says by how much servers lie further from such a prediction.
"""

from collections.abc import Iterable
from typing import Literal

from cluster_specs.lazy_dataclass import dataclass
from simulator.engine_profiles.bundled_profiles import is_patch
from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.engine_profiles.kernels_of_engine import ENGINE_OF_FRAMEWORK
from simulator.engine_profiles.spread import Spread, Widths


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIn:
    """One of them; ``key`` is its table in ``[spread]``."""

    key: Literal["other_version", "unmeasured_device", "other_tables"] | None  # None: intervals are no wider for it
    what: str

    def widths(self, spread: Spread | None) -> Widths | None:
        """Return what the profile adds for it; None where it adds nothing."""
        found: Widths | None = None if spread is None or self.key is None else getattr(spread, self.key)
        return found

    def note(self, spread: Spread | None) -> str:
        """Say what stands in, and how much wider intervals are for it."""
        if self.key is None:
            return (
                f"{self.what}, whose intervals hold it: servers of such versions are among those they were learnt from"
            )
        widths = self.widths(spread)
        if widths is None:
            return f"{self.what}; the profile does not say how much wider that makes the intervals"
        steps, first = 100 * widths.step_frac, 100 * widths.first_token_frac
        return f"{self.what}: intervals are wider by {steps:.3g} % of a step and {first:.3g} % of TTFT, in quadrature"


def stand_in_version(profile: EngineProfile) -> StandIn | None:
    """Return the profile as what stands in for the version asked for; None where that has a profile."""
    asked = profile.stands_in_for
    if asked is None:
        return None
    if is_patch(asked, profile.release):
        return StandIn(key=None, what=f"{asked} is a release of {profile.name}")
    return StandIn(key="other_version", what=f"{asked} has no profile, {profile.name} stands in")


def stand_ins(profile: EngineProfile, frameworks: Iterable[str]) -> list[StandIn]:
    """Return what stands in; ``frameworks`` are those whose kernels the prices were measured on, none if none was."""
    version = stand_in_version(profile)
    found = [] if version is None else [version]
    measured = set(frameworks)
    if not measured:
        found.append(StandIn(key="unmeasured_device", what="no op of the device was measured"))
    engines = {ENGINE_OF_FRAMEWORK[name] for name in measured if name in ENGINE_OF_FRAMEWORK}
    if engines and profile.engine not in engines:
        text = f"kernels were measured under {' and '.join(sorted(engines))}, not {profile.engine}"
        found.append(StandIn(key="other_tables", what=text))
    return found
