"""What a fit's file holds, as values: all that was learnt, with where it comes from; every price rests on it."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from cluster_specs.lazy_dataclass import dataclass
from costmodel.fitted.held_out import HeldOut
from costmodel.fitted.knots import FamilyKnots
from costmodel.power_model import PowerModel


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyReport:
    """What became of one family's rows.

    ``why_not`` is empty when it was fitted, ``no_prior`` unless there was a prior that could not serve. ``priced_by``
    names the kernel families of each label's rows, ``engine_runs`` those of the engine where they are known,
    ``contracts`` what lies inside the times of a label whose rows may differ in it.
    """

    family: str
    rows: int
    used: int
    dropped: dict[str, int]
    suspicious: dict[str, int]
    labels: dict[str, int]
    why_not: str = ""
    no_prior: str = ""
    priced_by: dict[str, str] = field(default_factory=dict)
    engine_runs: dict[str, str] = field(default_factory=dict)
    contracts: dict[str, str] = field(default_factory=dict)

    @property
    def stand_ins(self) -> dict[str, str]:
        """Labels that are priced by no kernel of the engine, in words."""
        return {
            label: f"{self.priced_by[label]} in place of {runs}"
            for label, runs in self.engine_runs.items()
            if not set(self.priced_by[label].split(", ")) & set(runs.split(", "))
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a fit comes from.

    ``from_prior`` names the labels, by family, that the prior alone has, ``links`` the levels collectives ran on,
    ``engine`` the one whose kernels rows were held against, empty where none was known.
    """

    device: str
    cluster: str
    created_at: str
    tool_version: str
    run_ids: tuple[str, ...]
    origins: dict[str, int]
    frameworks: dict[str, int]
    is_monotone: bool
    unlocked_mhz: float
    quantise_included: tuple[str, ...] = ()
    energy_source: str = ""
    prior: str = ""
    from_prior: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    links: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    engine: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """Everything a prediction needs, and everything a reader wants to know about it.

    ``has_digest`` is false for one read from a file of an older version, whose rows nothing vouches for.
    """

    provenance: Provenance
    families: Mapping[str, FamilyKnots]
    power: PowerModel | None
    reports: tuple[FamilyReport, ...] = ()
    held_out: tuple[HeldOut, ...] = field(default_factory=tuple)
    has_digest: bool = True
