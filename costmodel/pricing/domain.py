"""What to answer where nothing was measured, and how often that was asked."""

from dataclasses import field
from enum import StrEnum
from typing import Self

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass


class OutOfDomain(StrEnum):
    """Policy for sizes outside the measured range."""

    ROOFLINE = "roofline"  # the utilisation at the edge is held
    CLIP = "clip"  # the latency at the edge is held
    RAISE = "raise"  # refuse

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read a policy's name; raises ``UserError``."""
        try:
            return cls(name)
        except ValueError:
            known = ", ".join(policy.value for policy in cls)
            raise UserError(f"out_of_domain is {name!r}, must be one of {known}") from None


@dataclass(slots=True)
class QueryCount:
    """Predictions asked, by how each was answered; a count of points, not of calls."""

    asked: int = 0
    extrapolated: dict[str, int] = field(default_factory=dict)
    analytic: dict[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        """One line for a person; empty when every point was inside the measured domain."""
        parts = [f"{count} {family} outside the measured range" for family, count in sorted(self.extrapolated.items())]
        parts += [f"{count} {family} analytic" for family, count in sorted(self.analytic.items())]
        return f"{', '.join(parts)} of {self.asked} op prices" if parts else ""
