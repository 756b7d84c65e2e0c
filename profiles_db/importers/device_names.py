"""What other tools call a device, what it is called here, and which link joins its neighbours in a node."""

from collections.abc import Mapping
from typing import Final

from cluster_specs.driver_names import device_of_driver
from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.load import bundled_devices, bundled_node

DEVICE_NAMES: Final[Mapping[str, str]] = {
    # boards with tables but without a bundled spec, as the driver reports them
    "Tesla V100-PCIE-16GB": "v100-pcie",
    "NVIDIA A40": "a40",
    # as apex_plus names its folders
    "V100-PCIE-16GB": "v100-pcie",
    "A100-SXM-80GB": "a100-sxm-80gb",
    "H100-SXM-80GB": "h100-sxm",
    "H200-SXM-141GB": "h200-sxm",
    # as Vidur names its folders
    "a40": "a40",
    "a100": "a100-sxm-80gb",
    "h100": "h100-sxm",
}

# Boards without a bundled cluster whose nodes are joined by PCIe.
_PCIE: Final = frozenset({"v100-pcie", "a40", "b60"})

# Name of the link level between nodes.
NETWORK: Final = "network"


def device_name(foreign: str, place: object = None) -> str:
    """Translate a foreign device name; raises ``UserError`` for one nobody has met, which ``place`` leads."""
    if foreign in DEVICE_NAMES:
        return DEVICE_NAMES[foreign]
    if foreign in DEVICE_NAMES.values() or foreign in bundled_devices():
        return foreign
    found = device_of_driver(foreign)
    if found is None:
        lead = "" if place is None else f"{place}: "
        raise UserError(
            f"{lead}unknown device {shown(foreign)}", hint="name it with --device, for example --device h100-sxm"
        )
    return found


def node_level(device: str) -> str:
    """Name of the link level that joins the devices of one node."""
    if device in _PCIE:
        return "pcie"
    node = bundled_node(device)
    return "nvlink" if node is None else node.levels[0].name


def domain_of(device: str) -> int:
    """Devices that the links of a node reach beyond one host: 72 for a rack of GB200; 1 where a host is a node."""
    node = bundled_node(device)
    return 1 if node is None or node.hosts_per_node == 1 else node.devices_per_node
