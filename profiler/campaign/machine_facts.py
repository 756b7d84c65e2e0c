"""What a campaign's machine is: the doctor's findings, versions, and every figure that NVML gives of the GPU.

A query that the driver refuses is told with its reason: what works on a runtime is news of its own.
"""

import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import distributions
from typing import Any, Final

from profiler.doctor.command import examine
from profiler.instruments.nvml import Gpu, NvmlError
from profiler.instruments.provenance import software_versions
from profiler.machine import Machine

# Distributions whose versions may change a number.
_TELLING: Final = ("torch", "triton", "numpy", "pyarrow", "numba", "scikit-learn", "pydantic", "click", "vllm")
_QUERIES: Final[dict[str, Callable[[Gpu], object]]] = {
    "sm_clock_mhz": Gpu.sm_clock_mhz,
    "supported_sm_clocks_mhz": Gpu.supported_sm_clocks_mhz,
    "energy_j": Gpu.energy_j,
    "power_w": Gpu.power_w,
    "power_limit_w": Gpu.power_limit_w,
    "temperature_c": Gpu.temperature_c,
    "event_reasons": lambda gpu: sorted(gpu.event_reasons()),
    "throttle_s": Gpu.throttle_s,
    "is_mig": Gpu.is_mig,
    "virtualization": Gpu.virtualization,
    "is_persistent": Gpu.is_persistent,
    "memory_bytes": Gpu.memory_bytes,
    "uncorrected_ecc_errors": Gpu.uncorrected_ecc_errors,
    "pcie_link": Gpu.pcie_link,
    "active_nvlinks": Gpu.active_nvlinks,
}


def machine_facts(machine: Machine) -> dict[str, Any]:
    """Return everything as what JSON can hold; never raises for what an instrument refuses."""
    findings, topology = examine()
    return {
        "device": machine.name,
        "python": sys.version.split()[0],
        "kernel": platform.release(),
        "versions": software_versions(machine.nvml),
        "distributions": _distributions(),
        "without_nvml": machine.without_nvml,
        "nvml": {} if machine.gpu is None else {name: _told(machine.gpu, ask) for name, ask in _QUERIES.items()},
        "findings": [asdict(finding) for finding in findings],
        "topology": asdict(topology),
    }


def _told(gpu: Gpu, query: Callable[[Gpu], object]) -> object:
    try:
        return query(gpu)
    except NvmlError as error:
        return {"refused": str(error)}


def _distributions() -> dict[str, str]:
    """Return the versions of those that may change a number, and of all of NVIDIA's."""
    found = {str(each.metadata["Name"]).lower(): each.version for each in distributions()}
    return {name: found[name] for name in sorted(found) if name in _TELLING or name.startswith("nvidia")}
