"""What other tools call a device, what it is called here, and which link joins its neighbours in a node."""

from collections.abc import Mapping
from typing import Final

from cluster_specs.errors import UserError

DEVICE_NAMES: Final[Mapping[str, str]] = {
    # as the driver reports them
    "Tesla V100-SXM2-16GB": "v100-sxm2",
    "Tesla V100-SXM2-32GB": "v100-sxm2",
    "Tesla V100-PCIE-16GB": "v100-pcie",
    "NVIDIA A40": "a40",
    "NVIDIA A100-SXM4-40GB": "a100-sxm-40gb",
    "NVIDIA A100-SXM4-80GB": "a100-sxm-80gb",
    "NVIDIA H100 80GB HBM3": "h100-sxm",
    "NVIDIA H100 PCIe": "h100-pcie",
    "NVIDIA H200": "h200-sxm",
    "NVIDIA B200": "b200",
    "NVIDIA B300 SXM6 AC": "b300",
    "NVIDIA GB200": "gb200",
    "NVIDIA GB300": "gb300",
    "NVIDIA L40S": "l40s",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "rtx-pro-6000",
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

_PCIE: Final = frozenset({"v100-pcie", "a40", "h100-pcie", "l40s", "rtx-pro-6000", "b60"})
_FABRIC: Final = frozenset({"mi300x"})

# Name of the link level between nodes.
NETWORK: Final = "network"


def device_name(foreign: str) -> str:
    """Translate a foreign device name; raises ``UserError`` for one nobody has met."""
    if foreign in DEVICE_NAMES.values():
        return foreign
    if foreign not in DEVICE_NAMES:
        raise UserError(f"unknown device {foreign!r}", hint="name it with --device, for example --device h100-sxm")
    return DEVICE_NAMES[foreign]


def node_level(device: str) -> str:
    """Name of the link level that joins the devices of one node."""
    if device in _PCIE:
        return "pcie"
    return "fabric" if device in _FABRIC else "nvlink"
