"""How the devices of one node reach each other and the network: NVLink, PCIe paths, network ports.

GPU paths come from NVML, network ports from sysfs (``/sys/class/infiniband`` for InfiniBand and RoCE,
``/sys/class/net`` for plain Ethernet); both are read-only and need no permission.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from cluster_specs.lazy_dataclass import dataclass
from profiler.instruments.nvml import Gpu, answered

_SYSFS: Final = Path("/sys")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPort:
    """One network port: ``link`` is ``InfiniBand``, ``RoCE`` or ``Ethernet``; ``bits_per_s`` 0 when unknown."""

    name: str
    link: str
    bits_per_s: float
    is_up: bool

    def __str__(self) -> str:
        """Kind and rate, such as ``RoCE 400 Gb/s``."""
        return f"{self.link} {self.bits_per_s / 1e9:g} Gb/s" if self.bits_per_s else self.link


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """One node: ``paths[i][j]`` is how GPU i reaches GPU j (``NV``, ``PIX``, ``PXB``, ``PHB``, ``NODE``, ``SYS``)."""

    gpu_names: tuple[str, ...]
    paths: tuple[tuple[str, ...], ...]
    nvlinks_per_gpu: tuple[int, ...]
    ports: tuple[NetworkPort, ...]

    @property
    def is_fully_nvlinked(self) -> bool:
        """Every pair of GPUs has NVLink between them (false for a single GPU)."""
        return len(self.gpu_names) > 1 and self._pair_paths() == {"NV"}

    def __str__(self) -> str:
        """One line for the run table, such as ``8x NVIDIA H200; NV; 8x RoCE 400 Gb/s``."""
        parts = [f"{count}x {name}" for name, count in Counter(self.gpu_names).items()] or ["no GPU"]
        if pairs := self._pair_paths():
            parts.append("/".join(sorted(pairs)))
        up = Counter(str(port) for port in self.ports if port.is_up)
        parts += [f"{count}x {port}" for port, count in sorted(up.items())]
        return "; ".join(parts)

    def _pair_paths(self) -> set[str]:
        return {path for i, row in enumerate(self.paths) for j, path in enumerate(row) if i != j}


def read_topology(gpus: Sequence[Gpu], *, sysfs: Path = _SYSFS) -> Topology:
    """Read the node's topology; a path the driver does not tell is ``?``."""
    return Topology(
        gpu_names=tuple(gpu.name for gpu in gpus),
        paths=tuple(tuple("SELF" if a is b else answered(partial(a.path_to, b)) or "?" for b in gpus) for a in gpus),
        nvlinks_per_gpu=tuple(answered(gpu.active_nvlinks) or 0 for gpu in gpus),
        ports=(*_rdma_ports(sysfs), *_ethernet_ports(sysfs)),
    )


def _rdma_ports(sysfs: Path) -> list[NetworkPort]:
    ports = []
    for port in sorted((sysfs / "class" / "infiniband").glob("*/ports/*")):
        layer = _read(port / "link_layer")
        rate = _read(port / "rate")  # "400 Gb/sec (4X NDR)"
        ports.append(
            NetworkPort(
                name=f"{port.parent.parent.name}:{port.name}",
                link="RoCE" if layer == "Ethernet" else "InfiniBand",
                bits_per_s=_number(rate.partition(" ")[0]) * 1e9,
                is_up="ACTIVE" in _read(port / "state"),
            )
        )
    return ports


def _ethernet_ports(sysfs: Path) -> list[NetworkPort]:
    """Physical ports only: a virtual one has no device behind it; one that carries RDMA is listed there."""
    ports = []
    for interface in sorted((sysfs / "class" / "net").glob("*")):
        device = interface / "device"
        if not device.exists() or (device / "infiniband").exists():
            continue
        megabits = _number(_read(interface / "speed"))
        ports.append(
            NetworkPort(
                name=interface.name,
                link="Ethernet",
                bits_per_s=max(megabits, 0.0) * 1e6,
                is_up=_read(interface / "operstate") == "up",
            )
        )
    return ports


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:  # an interface that is down refuses to tell its speed
        return ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
