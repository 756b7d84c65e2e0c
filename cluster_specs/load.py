"""Reading specs: bundled ones by name, a person's own by path."""

from pathlib import Path
from typing import Final

from cluster_specs.bundled_names import (
    bundled_clusters,
    bundled_devices,
    bundled_path,
    canonical_cluster,
    parse_size,
    unknown_cluster,
    unknown_device,
)
from cluster_specs.cluster import ClusterFile, ClusterSpec
from cluster_specs.device import DeviceSpec
from cluster_specs.errors import UserError
from cluster_specs.files.toml_model import read_bundled, read_toml
from cluster_specs.sized import sized_cluster

__all__ = ["bundled_clusters", "bundled_devices", "bundled_node", "load_cluster", "load_device"]

_LONGEST_NAME: Final = 80


def load_device(name_or_path: str) -> DeviceSpec:
    """Read a device by bundled name or TOML path; raises ``UserError``."""
    if _is_path(name_or_path):
        device = read_toml(Path(name_or_path), DeviceSpec, hint=f"bundled devices: {', '.join(bundled_devices())}")
        _check_power(device, name_or_path)
        return device
    if name_or_path not in bundled_devices():
        raise unknown_device(name_or_path)
    return read_bundled(bundled_path("devices", name_or_path), DeviceSpec)


def load_cluster(name_or_path: str) -> ClusterSpec:
    """Read a cluster by bundled name, sized name (``h100-sxm-4``, ``h100-sxm-16x8``, ``8xH200``) or TOML path.

    Raises ``UserError``. A device named in a user's file is looked for beside that file first, then among the
    bundled ones.
    """
    if _is_path(name_or_path):
        path = Path(name_or_path)
        file = read_toml(path, ClusterFile, hint=f"bundled clusters: {', '.join(bundled_clusters())}")
        return _resolve(file, _device_of(file, path))
    name = canonical_cluster(name_or_path)
    if name in bundled_clusters():
        file = read_bundled(bundled_path("clusters", name), ClusterFile)
        return _resolve(file, load_device(file.device))
    shape = parse_size(name)
    node = None if shape is None else bundled_node(shape.device)
    if shape is None or node is None:
        raise unknown_cluster(name_or_path)
    two = f"{shape.device}-2x{node.devices_per_node}"
    network = load_cluster(two).levels[-1] if two in bundled_clusters() else None
    return sized_cluster(shape, node, network)


def bundled_node(device: str) -> ClusterSpec | None:
    """Return the bundled cluster of one node of ``device``, None where none is bundled."""
    for name in bundled_clusters():
        shape = parse_size(name)
        if shape is not None and shape.device == device and shape.nodes is None:
            return load_cluster(name)
    return None


def _device_of(file: ClusterFile, path: Path) -> DeviceSpec:
    try:
        if _is_path(file.device):
            return load_device(str(path.parent / file.device))
        beside = path.parent / f"{file.device}.toml"
        if len(file.device) <= _LONGEST_NAME and "\0" not in file.device and beside.is_file():
            return load_device(str(beside))
        return load_device(file.device)
    except UserError as error:
        raise UserError(f"{path}: device: {error}", hint=error.hint) from error


def _check_power(device: DeviceSpec, path: str) -> None:
    """Refuse another TDP under a bundled device's name: energy per FLOP and byte are derived as shares of it."""
    if device.name not in bundled_devices():
        return
    bundled = load_device(device.name)
    if device.tdp_w != bundled.tdp_w:
        raise UserError(
            f"{path}: tdp_w is {device.tdp_w:g}, that of {device.name} is {bundled.tdp_w:g}: energy per FLOP and byte "
            "is a share of it, so the same board would only be said to use less, not to slow down",
            hint="state a lower limit as power_cap_w and leave tdp_w alone; give another board another name",
        )


def _resolve(file: ClusterFile, device: DeviceSpec) -> ClusterSpec:
    stated = ("name", "nodes", "devices_per_node", "hosts_per_node", "usd_per_device_hour")
    return ClusterSpec.of_fields(
        {**{name: getattr(file, name) for name in stated}, "device": device, "levels": tuple(file.level)}
    )


def _is_path(text: str) -> bool:
    return text.endswith(".toml") or "/" in text
