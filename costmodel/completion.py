"""What nothing was measured of, from an earlier fit of the same device.

A profile of one GPU holds no collectives, one of three formats no fourth. Kernel tables of the same device that others
measured are nearer to it than the analytic model; a relative's are not, and stay out.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from cluster_specs.cluster import ClusterSpec
from costmodel.families.all import OP_FAMILIES
from costmodel.knots import FamilyKnots, with_labels
from costmodel.links import reference_links, same_link
from costmodel.prior import Prior


def completed(
    families: Mapping[str, FamilyKnots], device: str, cluster: ClusterSpec, prior: Prior | None
) -> tuple[dict[str, FamilyKnots], dict[str, tuple[str, ...]]]:
    """Return the families with every label that only a prior of ``device`` has, and those labels by family.

    Collectives count where they ran on links like those of ``cluster``.
    """
    whole, taken = dict(families), dict[str, tuple[str, ...]]()
    if prior is None or prior.name != device:
        return whole, taken
    for family, known in prior.artefact.families.items():
        own = families.get(family)
        # A label measured at a locked clock is measured.
        measured = set() if own is None else {label.parts for label in own.labels}
        missing = tuple(sorted(label for label in known.labels if label.parts not in measured))
        level = OP_FAMILIES[family].level
        if level is not None:
            alike = _alike_levels(cluster, prior)
            missing = tuple(label for label in missing if level(label) in alike)
        if missing:
            more = with_labels(known, missing)
            whole[family] = more if own is None else _joined(own, more)
            taken[family] = tuple(label.text for label in missing)
    return whole, taken


def _alike_levels(cluster: ClusterSpec, prior: Prior) -> set[str]:
    """Names of the levels whose links are those the prior's collectives ran on."""
    provenance = prior.artefact.provenance
    links = reference_links(provenance.cluster, provenance.links) or {}
    return {link.name for link in cluster.levels if link.name in links and same_link(link, links[link.name])}


def _joined(own: FamilyKnots, more: FamilyKnots) -> FamilyKnots:
    return replace(
        own,
        label=own.label + more.label,
        shape=np.concatenate([own.shape, more.shape]),
        start=np.concatenate([own.start, own.start[-1] + more.start[1:]]),
        x=np.concatenate([own.x, more.x]),
        y=np.concatenate([own.y, more.y]),
        latency_s=np.concatenate([own.latency_s, more.latency_s]),
        residual=np.concatenate([own.residual, more.residual]),
        labels=own.labels | more.labels,
    )
