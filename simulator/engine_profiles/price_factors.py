"""How much longer each family of kernels takes on one server than its fitted prices say: 1 is as fitted.

A server may run another kernel than the one that was measured, or the same one under another driver, power limit or
link. What that leaves beside the engine's own time is one factor per family, learnt from runs of the server itself
(`apex calibrate`).
"""

from typing import Annotated, Final

from cluster_specs.files.declared import Field, model_validator
from simulator.engine_profiles.constant import WITH_ERROR, error_of
from simulator.engine_profiles.profile_section import ProfileSection, Source

Factor = Annotated[float, Field(ge=0.1, le=10), *WITH_ERROR]
_NO_SOURCE: Final = "prices as they are fitted"
FAMILIES: Final = (
    "gemm",
    "attention_prefill",
    "attention_decode",
    "experts",
    "scan",
    "collective",
    "small_ops",
)


class PriceFactors(ProfileSection):
    """Time of an op on the server over its fitted price, by family of kernels."""

    gemm: Factor = 1.0
    attention_prefill: Factor = 1.0
    attention_decode: Factor = 1.0
    experts: Factor = 1.0  # fused experts: their products are not ``gemm``
    scan: Factor = 1.0
    collective: Factor = 1.0  # transfers between devices
    small_ops: Factor = 1.0  # norms, activations, roundings, copies
    source: Source = _NO_SOURCE

    @model_validator(mode="after")
    def _figures_have_a_source(self) -> "PriceFactors":
        if not self.are_as_fitted and self.source == _NO_SOURCE:
            msg = "factors need a source: say which runs they were learnt from"
            raise ValueError(msg)
        return self

    @property
    def are_as_fitted(self) -> bool:
        """Whether every price is the fitted one, with the fit's own error."""
        return all(getattr(self, family) == 1.0 and not error_of(getattr(self, family)) for family in FAMILIES)


AS_FITTED: Final = PriceFactors.trusted({})
