"""Default batch limits of a serving engine, by the devices and the replica that it finds."""

from typing import Literal

from cluster_specs.device import DeviceSpec
from cluster_specs.files.declared import Field
from simulator.engine_profiles.profile_section import Count, Gibibytes, GraphTokens, ProfileSection


class BatchLimits(ProfileSection):
    """Default batch limits of the devices that meet every condition stated here.

    Engines choose by memory, by words in the device's name and by the ranks of a replica. Among the entries that
    apply, one for a kind of device wins over one for any, then the largest memory, then the most ranks, then the last.
    """

    min_memory_gib: Gibibytes
    kind: Literal["gpu", "cpu"] | None = None
    min_ranks: Count = 1  # tensor x attention-data-parallel ranks (SGLang's tp_size)
    only_names: list[str] = Field(default_factory=list)  # at least one of these words is part of the device's name
    except_names: list[str] = Field(default_factory=list)  # none of these words is
    max_num_batched_tokens: Count
    max_num_seqs: Count
    per_rank: bool = False  # both limits are those of one tensor- and pipeline-parallel rank
    graph_max_tokens: GraphTokens | None = None  # replaces ``graphs.max_tokens``

    def covers(self, device: DeviceSpec, ranks: int) -> bool:
        """Whether a replica of ``ranks`` such devices meets the conditions."""
        name = f"{device.name} {device.title}".lower()
        return (
            device.memory_bytes >= self.min_memory_gib * 2**30
            and self.kind in {None, device.kind}
            and ranks >= self.min_ranks
            and (not self.only_names or any(word in name for word in self.only_names))
            and not any(word in name for word in self.except_names)
        )
