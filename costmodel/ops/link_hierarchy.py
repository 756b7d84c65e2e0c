"""Which links a group of ranks uses: its shape on the cluster's levels, and the bytes each level carries.

A group of ``ranks`` devices, ``stride`` apart, falls into sub-groups at each level. A collective runs as a
hierarchy: reduce-scatter inside, the remaining share across, all-gather back inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.op_types import bus_factor

if TYPE_CHECKING:
    from cluster_specs.cluster import ClusterSpec, LinkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One level a group communicates over: ``members`` peers at this level, each standing for ``inner`` ranks."""

    link: LinkSpec
    members: int
    inner: int


def hops(cluster: ClusterSpec, ranks: int, stride: int = 1) -> tuple[Hop, ...]:
    """Return the levels that ``ranks`` devices spaced ``stride`` apart really use, innermost first.

    Raises ``UserError`` when the group does not fit the cluster.
    """
    if ranks > 1 and (ranks - 1) * stride >= cluster.num_devices:
        msg = f"a group of {ranks} ranks, {stride} apart, does not fit cluster {cluster.name} ({cluster.num_devices})"
        raise UserError(msg, hint="use a larger cluster or a smaller group")
    found, inner = [], 1
    for link in cluster.levels:
        reached = min(ranks, 1 + (link.group_size - 1) // stride)
        members = -(-ranks // inner) if reached == ranks else reached // inner
        if members > 1:
            found.append(Hop(link=link, members=members, inner=inner))
            inner *= members
        if reached == ranks:
            break
    return tuple(found)


def hop_latency_s(kind: str, hop: Hop) -> float:
    """Return what a collective waits for the latency of this level's links, in seconds.

    On NVLink every peer is one hop away, as in one- and two-shot kernels; elsewhere hops grow as a tree's do.
    """
    one_hop = kind in {"send_recv", "all_to_all"} or hop.link.kind == "nvlink"
    steps = 1.0 if one_hop else float(np.ceil(np.log2(hop.members)))
    return (2.0 if kind == "all_reduce" else 1.0) * steps * hop.link.latency_s


def level_share(kind: str, hop: Hop, ranks: int) -> float:
    """Bytes a rank sends over this level per byte of message (nccl-tests' S)."""
    if kind == "all_to_all":
        # Of the S bytes a rank holds, those for peers in other sub-groups of this level, in the same one above it.
        return hop.inner * (hop.members - 1) / ranks
    return bus_factor(kind, hop.members) / (1.0 if kind == "send_recv" else hop.inner)
