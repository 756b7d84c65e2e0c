"""Reading specs: bundled ones by name, a person's own by path.

A bundled name may ask for another number of devices than a file holds: ``h100-sxm-4`` takes four devices of the
bundled eight-device node, ``h100-sxm-16x8`` repeats the bundled two-node layout sixteen times over its network. The
node of a rack-scale system is its NVLink domain: ``gb200-8`` takes eight of 72 devices.
"""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from cluster_specs.cluster import ClusterFile, ClusterSpec, LinkSpec
from cluster_specs.device import DeviceSpec
from cluster_specs.errors import UserError
from cluster_specs.toml_file import read_toml

_FOLDER: Final = Path(__file__).parent
_SIZED: Final = re.compile(r"^(?P<device>[a-z0-9.-]+?)-(?:(?P<nodes>\d+)x)?(?P<count>\d+)$")


def bundled_devices() -> list[str]:
    """Return the names of the bundled devices, sorted."""
    return sorted(path.stem for path in (_FOLDER / "devices").glob("*.toml"))


def bundled_clusters() -> list[str]:
    """Return the names of the bundled clusters, sorted."""
    return sorted(path.stem for path in (_FOLDER / "clusters").glob("*.toml"))


def load_device(name_or_path: str) -> DeviceSpec:
    """Read a device by bundled name or TOML path; raises ``UserError``."""
    path = _locate(name_or_path, "devices", bundled_devices())
    return read_toml(path, DeviceSpec)


def load_cluster(name_or_path: str) -> ClusterSpec:
    """Read a cluster by bundled name, sized name (``h100-sxm-4``, ``h100-sxm-16x8``) or TOML path.

    Raises ``UserError``. A device named in a user's file is looked for beside that file first, then among the
    bundled ones.
    """
    if not _is_path(name_or_path) and name_or_path not in bundled_clusters():
        sized = _sized(name_or_path)
        if sized is not None:
            return sized
    path = _locate(name_or_path, "clusters", bundled_clusters())
    file = read_toml(path, ClusterFile)
    beside = path.parent / f"{file.device}.toml"
    if path.parent != _FOLDER / "clusters" and beside.is_file():
        device = load_device(str(beside))
    elif _is_path(file.device):
        device = load_device(str(path.parent / file.device))
    else:
        device = _device_of(file.device, path)
    return _resolve(file, device)


def bundled_node(device: str) -> ClusterSpec | None:
    """Return the bundled cluster of one node of ``device``, None where none is bundled."""
    families = ((name, _SIZED.match(name)) for name in bundled_clusters())
    single = next(
        (name for name, shape in families if shape and (shape["device"], shape["nodes"]) == (device, None)), None
    )
    return None if single is None else load_cluster(single)


def _device_of(name: str, path: Path) -> DeviceSpec:
    try:
        return load_device(name)
    except UserError as error:
        raise UserError(f"{path}: device: {error}", hint=error.hint) from error


def _resolve(file: ClusterFile, device: DeviceSpec) -> ClusterSpec:
    return ClusterSpec(
        name=file.name,
        device=device,
        nodes=file.nodes,
        devices_per_node=file.devices_per_node,
        hosts_per_node=file.hosts_per_node,
        usd_per_device_hour=file.usd_per_device_hour,
        levels=tuple(file.level),
    )


def _sized(name: str) -> ClusterSpec | None:
    """Build the bundled family's cluster of the size the name asks for; None where the name is of no family."""
    match = _SIZED.match(name)
    if match is None:
        return None
    nodes, count = int(match["nodes"] or 1), int(match["count"])
    family = match["device"]
    shapes = {name: found for name in bundled_clusters() if (found := _SIZED.match(name)) and found["device"] == family}
    single = next((name for name, shape in shapes.items() if shape["nodes"] is None), None)
    double = next((name for name, shape in shapes.items() if shape["nodes"] == "2"), None)
    if single is None or nodes < 1 or count < 1:
        return None
    inner = load_cluster(single)
    if count > inner.devices_per_node:
        raise UserError(
            f"cluster {name}: {count} devices per node, but a {family} node holds {inner.devices_per_node}",
            hint=f"write {family}-{-(-count // inner.devices_per_node)}x{inner.devices_per_node}, or your own TOML",
        )
    if nodes == 1:
        return inner.model_copy(
            update={
                "name": name,
                "devices_per_node": count,
                "levels": (inner.levels[0].model_copy(update={"group_size": count}),),
            }
        )
    if double is None:
        raise UserError(
            f"cluster {name}: no network between {family} nodes is bundled", hint="write a TOML of your own"
        )
    network: LinkSpec = load_cluster(double).levels[-1]
    node_levels = (inner.levels[0].model_copy(update={"group_size": count}),) if count > 1 else ()
    return inner.model_copy(
        update={
            "name": name,
            "nodes": nodes,
            "devices_per_node": count,
            "levels": (*node_levels, network.model_copy(update={"group_size": nodes * count})),
        }
    )


def _is_path(text: str) -> bool:
    return text.endswith(".toml") or "/" in text


def _locate(name_or_path: str, folder: str, known: list[str]) -> Path:
    if _is_path(name_or_path):
        path = Path(name_or_path)
        if not path.is_file():
            raise UserError(f"{path}: no such file", hint=f"bundled {folder}: {', '.join(known)}")
        return path
    if name_or_path in known:
        return _FOLDER / folder / f"{name_or_path}.toml"
    close = get_close_matches(name_or_path, known, n=3)
    raise UserError(
        f"{name_or_path!r} is not a bundled {folder.removesuffix('s')}",
        hint=f"did you mean {' or '.join(close)}?" if close else f"bundled: {', '.join(known)}; or give a .toml path",
    )
