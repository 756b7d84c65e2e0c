"""Kernel families that an engine runs, by op and device: what tells a fit whose times are the engine's.

    [kernel_families]
    by_op = { "attention|gqa" = { hopper = ["fa3"], ampere = ["fa2"] }, "gemm|bf16" = { hopper = ["cublas"] } }
    source = "..."

An op is the family of its measurements, and of what follows as much as decides the kernel: for products and experts
the number format, for attention its variant and formats. A device's name comes before its architecture.
"""

from collections.abc import Mapping
from typing import Annotated

from cluster_specs.device import DeviceSpec
from cluster_specs.files.declared import Field, field_validator
from cluster_specs.files.shown import shown
from costmodel.families.all import OP_FAMILIES
from simulator.engine_profiles.profile_section import ProfileSection, Source

FamilyNames = Annotated[list[Annotated[str, Field(min_length=1, max_length=60)]], Field(min_length=1)]


class KernelFamilies(ProfileSection):
    """Families as ``costmodel.families.kernels`` names them, by op and then by a device's name or architecture."""

    by_op: dict[str, dict[str, FamilyNames]]
    source: Source

    @field_validator("by_op")
    @classmethod
    def _known(cls, by_op: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, list[str]]]:
        known = [name for name, family in OP_FAMILIES.items() if family.kernel_choice]
        for key in by_op:
            if key.partition("|")[0] not in known:
                raise ValueError(f"{shown(key)} begins with no family that has a choice of kernels: {', '.join(known)}")
        return by_op

    def on(self, device: DeviceSpec) -> Mapping[str, tuple[str, ...]]:
        """Return the families on ``device``, by op; ops whose kernel is not known there are left out."""
        places = ((key, on.get(device.name) or on.get(device.architecture)) for key, on in self.by_op.items())
        return {key: tuple(names) for key, names in places if names}
