"""What a cluster is: devices behind a hierarchy of links, innermost level first."""

from typing import Annotated, Final, Literal, Self

from cluster_specs.device import BytesPerSecond, DeviceSpec, Name, Seconds, SpecModel, Text, Version, bounded
from cluster_specs.files.declared import Field, model_validator

_NETWORKS: Final = frozenset({"infiniband", "roce", "ethernet"})
# Without peer-to-peer access a sender writes to host memory what the receiver reads from there: of 32 GB/s on PCIe 4
# two RTX 4090 move 16, of 64 GB/s on PCIe 5 four RTX 5090 move 35 and eight 28 (NVIDIA/nccl issue 1639).
_STAGED_SHARE: Final = 0.5

Count = Annotated[int, bounded(1, 10**6)]


class LinkSpec(SpecModel):
    """One level of the link hierarchy.

    ``group_size`` devices reach each other at this level (counting all inner levels), each able to send and receive
    ``bandwidth_bytes_per_s`` in one direction at once, with ``latency_s`` per hop. ``peer_to_peer`` is false
    where the driver keeps PCIe devices from reaching each other's memory, as on GeForce boards.
    """

    name: Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[^|@]*$")]
    kind: Literal["nvlink", "infinity-fabric", "pcie", "infiniband", "roce", "ethernet", "shared-memory"]
    group_size: Count
    bandwidth_bytes_per_s: BytesPerSecond
    latency_s: Seconds
    peer_to_peer: bool = True
    source: Text

    @model_validator(mode="after")
    def _is_bus(self) -> Self:
        if not self.peer_to_peer and self.kind != "pcie":
            raise ValueError(f"peer_to_peer is false, which only links of kind pcie can be, not {self.kind}")
        return self

    @property
    def bytes_per_s(self) -> float:
        """Rate at which bytes reach a peer: half of the link's where devices cannot reach each other's memory."""
        return self.bandwidth_bytes_per_s * (1.0 if self.peer_to_peer else _STAGED_SHARE)

    @property
    def is_network(self) -> bool:
        """Whether the level joins nodes rather than the devices of one."""
        return self.kind in _NETWORKS


class ClusterFile(SpecModel):
    """A cluster TOML file: the device by name, the levels in full.

    A node is what the innermost links join. ``hosts_per_node`` computers share a node where those links span several,
    as NVLink does in a rack of 18 trays.
    """

    schema_version: Version = Field(alias="schema")
    name: Name
    device: Text
    nodes: Count
    devices_per_node: Count
    hosts_per_node: Count = 1
    usd_per_device_hour: Annotated[float, bounded(0.0, 1e5)] | None = None
    usd_source: Text | None = None
    level: Annotated[list[LinkSpec], Field(min_length=1, max_length=8)]

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
        names = [link.name for link in self.level]
        if len(set(names)) < len(names):
            raise ValueError(f"level names are {', '.join(names)}, must differ: measurements are looked up by them")
        if self.devices_per_node % self.hosts_per_node:
            raise ValueError(
                f"hosts_per_node is {self.hosts_per_node}, must divide devices_per_node = {self.devices_per_node}"
            )
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
    def devices_per_domain(self) -> int:
        """Devices that reach each other without crossing a network between nodes."""
        return max((link.group_size for link in self.levels if not link.is_network), default=1)

    @property
    def devices_per_host(self) -> int:
        """Devices of one computer, which is what a server is started on."""
        return -(-self.devices_per_node // self.hosts_per_node)

    @property
    def num_devices(self) -> int:
        """Devices in the whole cluster."""
        return self.nodes * self.devices_per_node
