"""Bundled clusters at another size: ``h100-sxm-4`` of a node of eight, ``h100-sxm-16x8`` over the bundled network.

The node of a rack-scale system is its NVLink domain, whatever the trays: ``gb200-8`` takes eight of 72 devices, and
``gb200-18x4`` counts by trays what ``gb200-72`` counts by the rack.
"""

from typing import Final

from cluster_specs.bundled_names import Size
from cluster_specs.cluster import ClusterSpec, LinkSpec
from cluster_specs.errors import UserError

_MOST_DEVICES: Final = 10**6
_EXAMPLE: Final = "for example h100-sxm-2x8"


def sized_cluster(size: Size, node: ClusterSpec, network: LinkSpec | None) -> ClusterSpec:
    """Build the cluster of ``size`` from the bundled node and the network between two of them; raises ``UserError``."""
    nodes, count, whole = 1 if size.nodes is None else size.nodes, size.count, node.devices_per_node
    if nodes < 1 or count < 1:
        raise UserError(
            f"cluster {size.name}: {nodes} nodes of {count} devices, must be at least 1 of each", hint=_EXAMPLE
        )
    if nodes * count > _MOST_DEVICES:
        raise UserError(f"cluster {size.name}: {nodes * count} devices, must be at most {_MOST_DEVICES}", hint=_EXAMPLE)
    if count > whole:
        raise UserError(
            f"cluster {size.name}: {count} devices per node, but a {size.device} node holds {whole}",
            hint=f"write {size.device}-{-(-count // whole)}x{whole}, or your own TOML"
            if network is not None
            else f"write {size.device}-{whole}, or your own TOML with the network between nodes",
        )
    if node.hosts_per_node > 1 and nodes > 1 and whole % count == 0:
        nodes, count = _domains(size, nodes * count, whole)
    if nodes > 1 and network is None:
        raise UserError(
            f"cluster {size.name}: no network between {size.device} nodes is bundled", hint="write a TOML of your own"
        )
    inner = node.levels[0].model_copy(update={"group_size": count})
    levels = [inner] if count > 1 or nodes == 1 else []
    if nodes > 1 and network is not None:
        levels.append(network.model_copy(update={"group_size": nodes * count}))
    per_host = whole // node.hosts_per_node
    return node.model_copy(
        update={
            "name": size.name,
            "nodes": nodes,
            "devices_per_node": count,
            "hosts_per_node": -(-count // per_host),
            "levels": tuple(levels),
        }
    )


def _domains(size: Size, total: int, domain: int) -> tuple[int, int]:
    """Return nodes and devices per node of ``total`` devices counted by trays: whole domains, or part of one."""
    if total <= domain:
        return 1, total
    if total % domain:
        raise UserError(
            f"cluster {size.name}: {total} devices are no whole number of NVLink domains of {domain}",
            hint=f"write {size.device}-{'' if total < 2 * domain else f'{total // domain}x'}{domain} or "
            f"{size.device}-{total // domain + 1}x{domain}",
        )
    return total // domain, domain
