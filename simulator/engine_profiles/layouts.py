"""Which layouts an engine version knows beside replicas, stages and tensor ranks, and what it makes of a plan.

Axes that every engine has are not listed: here is what differs, each a fact of the engine's source.
"""

from typing import Final, Literal

from cluster_specs.files.declared import Field, model_validator
from simulator.engine_profiles.profile_section import ProfileSection, Source

# Which stages take the layers that are left when they cannot be shared out evenly: one each from the second-to-last
# stage backwards, one each of the last or of the first ones, or all in the last.
Leftover = Literal["before_last", "last", "first", "all_last"]

_NO_SOURCE: Final = "nothing is stated of this engine"


class Layouts(ProfileSection):
    """Rules of one version; what is left out is what a profile without the table has."""

    leftover_layers: Leftover = "before_last"
    layers_variable: str | None = None  # the environment variable that states the layers of each stage
    # Copies of a dense feed-forward beside attention that runs data-parallel: one for each attention rank, one that all
    # devices of the stage share, or one on each device.
    mlp_copies: Literal["attention_rank", "stage", "device"] = "attention_rank"
    mlp_on_each_device: bool = False  # a mixture's dense feed-forwards may be told to be whole on each device
    dense_attention_dp: list[str] = Field(default_factory=list)  # types of dense models whose attention it parts so
    attention_dp_on_each_device: bool = False  # attention is data-parallel over all devices of a stage or over none
    decode_context: bool = False  # tensor ranks that would hold copies of a cached token may share the tokens out
    redundant_experts: bool = False  # experts held twice, and moved about by the load they had
    expert_grids: bool = False  # ep may be any part of the ranks, each expert sharded over the rest
    source: Source = _NO_SOURCE

    @model_validator(mode="after")
    def _rules_have_a_source(self) -> "Layouts":
        stated = any(getattr(self, name) != getattr(NO_LAYOUTS, name) for name in Layouts.model_fields)
        if stated and self.source == _NO_SOURCE:
            msg = "layouts need a source: say where the engine does so"
            raise ValueError(msg)
        return self


NO_LAYOUTS: Final = Layouts.trusted({})
