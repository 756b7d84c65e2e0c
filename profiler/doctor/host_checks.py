"""What the host does to measurements: load, CPU frequency governor, shared and locked memory, containers.

Read from procfs and sysfs under ``root``, so that any machine's state can be laid out in a folder.
"""

import os
import resource
from pathlib import Path
from typing import Final

from profiler.doctor.findings import Finding

_ROOT: Final = Path("/")
_MIN_SHM_BYTES: Final = 1 << 30  # NCCL and vLLM pass tensors between ranks here; Docker's default is 64 MiB


def check_host(root: Path = _ROOT) -> list[Finding]:
    """Look at the host; returns findings, worst ones not first."""
    return [*_check_load(root), *_check_governor(root), *_check_shared_memory(root), *_check_limits(root)]


def _check_load(root: Path) -> list[Finding]:
    cores = os.cpu_count() or 1
    try:
        load = float((root / "proc/loadavg").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return [Finding(topic="host", severity="info", text=f"{cores} cores; load unknown")]
    text = f"{cores} cores, load {load:.2f} over the last minute"
    if load > cores / 2:
        return [
            Finding(
                topic="host",
                severity="warning",
                text=f"{text}: launches will be delayed",
                fix="stop other work on this host, or wait until it ends (`uptime`, `top`)",
            )
        ]
    return [Finding(topic="host", severity="ok", text=text)]


def _check_governor(root: Path) -> list[Finding]:
    paths = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    governors = sorted({path.read_text(encoding="ascii").strip() for path in paths})
    if not governors or governors == ["performance"]:
        return []
    return [
        Finding(
            topic="host",
            severity="warning",
            text=f"CPU frequency governor is {', '.join(governors)}: host time per step will vary",
            fix="sudo cpupower frequency-set --governor performance",
        )
    ]


def _check_shared_memory(root: Path) -> list[Finding]:
    try:
        state = os.statvfs(root / "dev/shm")
    except OSError:
        return []
    size = state.f_frsize * state.f_blocks
    if size >= _MIN_SHM_BYTES:
        return []
    return [
        Finding(
            topic="host",
            severity="warning",
            text=f"shared memory (/dev/shm) holds {size / 2**20:.0f} MiB: collectives inside this node may fail",
            fix="start the container with --shm-size=16g or --ipc=host",
        )
    ]


def _check_limits(root: Path) -> list[Finding]:
    findings = []
    is_container = (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()
    if is_container:
        text = "running in a container: locking clocks and reading energy may be refused"
        findings.append(Finding(topic="host", severity="info", text=text, fix="docker run --cap-add SYS_ADMIN"))
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    has_rdma = any((root / "sys/class/infiniband").glob("*"))
    if has_rdma and soft != resource.RLIM_INFINITY:
        findings.append(
            Finding(
                topic="host",
                severity="warning",
                text=f"locked memory is limited to {soft / 2**20:.0f} MiB: RDMA collectives may fail",
                fix="ulimit -l unlimited (container: --ulimit memlock=-1)",
            )
        )
    return findings
