"""What every section of an engine profile is: a frozen, strict value, with bounds far above any engine's numbers."""

from typing import Annotated, Final

from cluster_specs.files.declared import Declared, Field
from simulator.engine_profiles.constant import WITH_ERROR
from simulator.engine_profiles.graph_modes import MOST_GRAPH_TOKENS

# Small enough for tables with an entry per token.
MOST_TOKENS: Final = 2**20

Count = Annotated[int, Field(gt=0, le=MOST_TOKENS)]
Steps = Annotated[int, Field(ge=0, le=MOST_TOKENS)]
GraphTokens = Annotated[int, Field(gt=0, le=MOST_GRAPH_TOKENS)]
Mebibytes = Annotated[float, Field(ge=0, le=2**20), *WITH_ERROR]
Kibibytes = Annotated[float, Field(ge=0, le=2**20), *WITH_ERROR]
Gibibytes = Annotated[float, Field(ge=0, le=2**20)]
Seconds = Annotated[float, Field(ge=0, lt=1), *WITH_ERROR]
Source = Annotated[str, Field(min_length=1)]  # where the figures of a table come from


class ProfileSection(Declared, frozen=True, extra="forbid", strict=True):
    """A table of the TOML file. Strict: 2.0 or true is no count, "16" no number."""
