"""Collectives measured on one cluster's links, on the links another cluster states.

The time of a measured collective is its bytes on the links and a floor; the fitted reference says which part is which.
The bytes' part follows the bandwidths of the levels crossed, in the shares that each carries; the floor grows by the
hops' added latency, and shrinks in proportion where hops are faster. Both are monotone: a faster link is never slower.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from costmodel.fitted.knots import LabelFit
from costmodel.ops.arrays import Array
from costmodel.ops.link_hierarchy import hop_latency_s, hops, level_share
from costmodel.ops.op_types import Collective

if TYPE_CHECKING:
    from cluster_specs.cluster import ClusterSpec, LinkSpec


_COMPARED: Final = ("kind", "bandwidth_bytes_per_s", "latency_s", "peer_to_peer")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLinks:
    """The cluster as stated, and the same cluster with the links that its device's collectives were measured on.

    A level without measurements keeps its own links in ``measured`` under a name that no measurement has.
    """

    stated: ClusterSpec
    measured: ClusterSpec
    changed: tuple[tuple[LinkSpec, LinkSpec], ...]
    text: str

    @classmethod
    def of(cls, cluster: ClusterSpec, reference: Mapping[str, LinkSpec] | None) -> Self:
        """Compare the links of ``cluster`` with those measured on, by level name; None when nobody recorded them."""
        if reference is None:
            text = "no record of the links its collectives ran on, so those stated do not change them"
            return cls(stated=cluster, measured=cluster, changed=(), text=text)
        levels, changed, foreign = [], [], []
        for link in cluster.levels:
            match = _counterpart(link, reference)
            if match is None:
                foreign.append(link.name)
                levels.append(link.model_copy(update={"name": f"{link.name} (not measured)"}))
                continue
            levels.append(match.model_copy(update={"group_size": link.group_size}))
            if any(getattr(match, name) != getattr(link, name) for name in _COMPARED):
                changed.append((match, link))
        parts = [
            f"collectives on {link.name} scaled from {_figures(match)} to {_figures(link)}" for match, link in changed
        ]
        parts += [f"no collectives measured on {name}" for name in foreign]
        return cls(
            stated=cluster,
            measured=cluster.model_copy(update={"levels": tuple(levels)}),
            changed=tuple(changed),
            text=", ".join(parts),
        )

    def scaled(self, op: Collective, latency_s: Array, fit: LabelFit, bytes_s: Array) -> Array:
        """Return the time on the stated links of what takes ``latency_s`` on the measured ones.

        ``bytes_s`` is what the op's bytes take at the measured links' rate.
        """
        if not self.changed:
            return latency_s
        before, after = (hops(cluster, op.ranks, op.group_stride) for cluster in (self.measured, self.stated))
        sent_s = [
            sum(level_share(op.kind, hop, op.ranks) / hop.link.bytes_per_s for hop in path) for path in (before, after)
        ]
        waits_s = [sum(hop_latency_s(op.kind, hop) for hop in path) for path in (before, after)]
        share = fit.reference.link_share(bytes_s)
        floor_s, body_s = latency_s * (1.0 - share), latency_s * share
        if waits_s[1] >= waits_s[0]:
            floor_s = floor_s + (waits_s[1] - waits_s[0])
        else:
            floor_s = floor_s * (fit.reference.floor_s + waits_s[1]) / (fit.reference.floor_s + waits_s[0])
        return np.asarray(floor_s + body_s * (sent_s[1] / sent_s[0]))


def links_of(cluster: ClusterSpec) -> dict[str, dict[str, Any]]:
    """Record the links of ``cluster`` for a fit's provenance, by level name."""
    return {link.name: link.fields() for link in cluster.levels}


def same_link(one: LinkSpec, other: LinkSpec) -> bool:
    """Whether two levels carry messages alike."""
    return all(getattr(one, name) == getattr(other, name) for name in _COMPARED)


def reference_links(cluster: str, recorded: Mapping[str, Mapping[str, Any]]) -> dict[str, LinkSpec] | None:
    """Return the links a fit was made on, as it recorded them or as the bundled cluster it names has them.

    None where it did neither; raises ``UserError`` for a record that is none.
    """
    from cluster_specs.cluster import LinkSpec
    from cluster_specs.load import bundled_clusters, load_cluster

    bundled = {link.name: link for link in load_cluster(cluster).levels} if cluster in bundled_clusters() else None
    if recorded:
        checked = {name: link.fields() for name, link in (bundled or {}).items()}
        try:
            return {
                name: bundled[name]
                if bundled is not None and checked.get(name) == values
                else LinkSpec.model_validate(dict(values))
                for name, values in recorded.items()
            }
        except (TypeError, ValueError) as error:
            raise UserError(
                "the fitted model's record of its links is damaged", hint="fit again with `apex fit`"
            ) from error
    return bundled


def _counterpart(link: LinkSpec, reference: Mapping[str, LinkSpec]) -> LinkSpec | None:
    """Find the measured level that ``link`` is: of its name, else the only one of its kind."""
    named = reference.get(link.name)
    if named is not None:
        return named if named.kind == link.kind else None
    alike = [other for other in reference.values() if other.kind == link.kind]
    return alike[0] if len(alike) == 1 else None


def _figures(link: LinkSpec) -> str:
    access = "" if link.peer_to_peer else " without peer-to-peer access"
    return f"{link.bandwidth_bytes_per_s / 1e9:.4g} GB/s and {link.latency_s * 1e6:.3g} us{access}"
