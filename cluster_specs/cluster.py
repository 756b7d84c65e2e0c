"""What a cluster is: devices behind a hierarchy of links, innermost level first."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cluster_specs.device import DeviceSpec, NonNegative, Positive, SpecModel


class LinkSpec(SpecModel):
    """One level of the link hierarchy.

    ``group_size`` devices reach each other at this level (counting all inner levels), each able to send and receive
    ``bandwidth_bytes_per_s`` in one direction at once, with ``latency_s`` per hop.
    """

    name: str = Field(min_length=1)
    kind: Literal["nvlink", "infinity-fabric", "pcie", "infiniband", "roce", "ethernet", "shared-memory"]
    group_size: Annotated[int, Field(gt=0)]
    bandwidth_bytes_per_s: Positive
    latency_s: Positive
    source: str = Field(min_length=1)


class ClusterFile(SpecModel):
    """A cluster TOML file: the device by name, the levels in full.

    A node is what the innermost links join. ``hosts_per_node`` computers share a node where those links span several,
    as NVLink does in a rack of 18 trays.
    """

    schema_version: Literal[1] = Field(alias="schema")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    device: str
    nodes: Annotated[int, Field(gt=0)]
    devices_per_node: Annotated[int, Field(gt=0)]
    hosts_per_node: Annotated[int, Field(gt=0)] = 1
    usd_per_device_hour: NonNegative | None = None
    usd_source: str | None = None
    level: Annotated[list[LinkSpec], Field(min_length=1)]

    @model_validator(mode="after")
    def _levels_nest(self) -> Self:
        """Each level must contain whole groups of the one inside it, and the outermost the whole cluster."""
        inner = 1
        for index, link in enumerate(self.level):
            if link.group_size % inner or (link.group_size <= inner and index > 0):
                msg = f"level[{index}].group_size is {link.group_size}, must be a larger multiple of {inner}"
                raise ValueError(msg)
            inner = link.group_size
        if inner != self.nodes * self.devices_per_node:
            msg = (
                f"level[{len(self.level) - 1}].group_size is {inner}, must be "
                f"nodes x devices_per_node = {self.nodes * self.devices_per_node}"
            )
            raise ValueError(msg)
        if self.usd_per_device_hour is not None and not self.usd_source:
            raise ValueError("usd_per_device_hour needs usd_source: a price without a source is a guess")
        return self


class ClusterSpec(SpecModel):
    """A resolved cluster: ``nodes * devices_per_node`` equal devices and their links, innermost first."""

    name: str
    device: DeviceSpec
    nodes: int
    devices_per_node: int
    hosts_per_node: int = 1
    usd_per_device_hour: float | None
    levels: tuple[LinkSpec, ...]

    @property
    def num_devices(self) -> int:
        """Devices in the whole cluster."""
        return self.nodes * self.devices_per_node
