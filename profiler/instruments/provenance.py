"""Where a run's numbers come from: the row of the run table, and the check that all ranks come from the same place."""

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from cluster_specs.errors import UserError
from profiler.instruments.nvml import Gpu, Nvml, answered
from profiler.instruments.topology import read_topology

# What may not differ between the ranks of one run: rows of two software stacks would end up under one run_id.
_SAME_ON_ALL_RANKS: Final = (
    "driver_version",
    "cuda_version",
    "nccl_version",
    "torch_version",
    "triton_version",
    "vllm_version",
    "tool_version",
    "git_commit",
)
_MACHINE_ID: Final = Path("/etc/machine-id")


def collect_provenance(
    *,
    run_id: str,
    device: str,
    world_size: int,
    nvml: Nvml | None = None,
    gpu: Gpu | None = None,
    idle_power_w: float | None = None,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the run's row (columns of `profiles_db.schema.RUN`), started now and not ended; unknown values are None.

    ``gpu`` is this rank's GPU; ``nvml`` lists those of the node. ``idle_power_w`` is the mean of the idle windows, set
    again at the end together with ``ended_at``.
    """
    gpus = (answered(nvml.gpus) if nvml else None) or []
    return {
        "run_id": run_id,
        "device": device,
        "origin": "measured",
        "host_hash": host_hash(),
        "started_at": datetime.now(UTC),
        "ended_at": None,
        "world_size": world_size,
        **software_versions(nvml),
        "git_commit": git_commit(),
        "topology": str(read_topology(gpus)),
        "idle_power_w": idle_power_w,
        "power_limit_w": answered(gpu.power_limit_w) if gpu else None,
        "command": shlex.join(sys.argv if command is None else command),
        "nccl_environment": nccl_environment(os.environ),
        "sustained_clocks": None,
    }


def nccl_environment(environment: Mapping[str, str]) -> str | None:
    """Return the variables that choose NCCL's algorithms and transports, in order; None where none is set."""
    found = [f"{name}={value}" for name, value in sorted(environment.items()) if name.startswith("NCCL_")]
    return shlex.join(found) or None


def software_versions(nvml: Nvml | None = None) -> dict[str, str | None]:
    """Versions of what decides a kernel's speed; None where not installed."""
    return {
        "driver_version": answered(nvml.driver_version) if nvml else None,
        "cuda_version": _torch_cuda_version(nvml),
        "nccl_version": _nccl_version(),
        "torch_version": installed_version("torch"),
        "triton_version": installed_version("triton"),
        "vllm_version": installed_version("vllm"),
        "tool_version": installed_version("apex-planner"),
    }


def host_hash(machine_id: Path = _MACHINE_ID) -> str:
    """Twelve hex digits that tell hosts apart without naming them."""
    try:
        identity = machine_id.read_text(encoding="ascii").strip()
    except OSError:
        identity = ""
    return hashlib.sha256(f"{identity}/{platform.node()}".encode()).hexdigest()[:12]


def git_commit(folder: Path = Path(__file__).parent) -> str | None:
    """Commit of the working copy the code runs from, with ``-dirty`` when files differ; None when installed."""
    # What asks without optional locks leaves none behind in the repository when it is killed.
    asked = ("status", "--porcelain=v2", "--branch", "--untracked-files=no")
    try:
        found = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *asked],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said, changes = {}, False
    for line in found.stdout.splitlines():
        mark, _, rest = line.partition(" ")
        if mark == "#":
            name, _, value = rest.partition(" ")
            said[name] = value
        else:
            changes = True
    commit = said.get("branch.oid", "(initial)")
    if found.returncode or commit == "(initial)":
        return None
    return f"{commit}-dirty" if changes else commit


def require_same_software(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise ``UserError`` naming each version that differs between the ranks (``rows[rank]`` is a rank's row)."""
    differences = []
    for column in _SAME_ON_ALL_RANKS:
        ranks_of: dict[object, list[int]] = {}
        for rank, row in enumerate(rows):
            ranks_of.setdefault(row[column], []).append(rank)
        if len(ranks_of) > 1:
            found = ", ".join(f"{value} on rank {_ranges(ranks)}" for value, ranks in ranks_of.items())
            differences.append(f"{column}: {found}")
    if differences:
        raise UserError(
            f"the ranks run different software: {'; '.join(differences)}",
            hint="a run is one software stack: start it with the same image and driver on every node",
        )


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, without importing it."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _torch_cuda_version(nvml: Nvml | None) -> str | None:
    """CUDA that torch was built for, which is what its kernels use; else the newest the driver supports."""
    if "torch" in sys.modules:
        built_for: str | None = sys.modules["torch"].version.cuda
        if built_for is not None:
            return built_for
    return answered(nvml.cuda_version) if nvml else None


def _nccl_version() -> str | None:
    """NCCL inside the imported torch; a process that never imported torch runs no NCCL."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.distributed.is_nccl_available():
        return None
    return ".".join(str(part) for part in torch.cuda.nccl.version())


def _ranges(ranks: Sequence[int]) -> str:
    return ", ".join(str(rank) for rank in ranks[:8]) + (", ..." if len(ranks) > 8 else "")
