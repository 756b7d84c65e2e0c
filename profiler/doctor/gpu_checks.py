"""What one GPU, or the set of them, does to measurements: neighbours, limits, faults, permissions, links."""

import os
import time
from collections.abc import Sequence
from typing import Final

from cluster_specs.driver_names import device_of_driver
from profiler.device_spec import device_spec
from profiler.doctor.findings import Finding, Severity
from profiler.instruments.clocks import RESET_COMMAND, NvmlClocks
from profiler.instruments.energy import EnergyMeter
from profiler.instruments.nvml import Gpu, NvmlError, answered
from profiler.instruments.topology import Topology

_HOT_C: Final = 80.0  # slowdown sets in a few degrees above
_HELD_BACK: Final = frozenset({"hw_slowdown", "sw_thermal", "hw_thermal", "power_brake"})
_TICK_S: Final = 0.5  # five periods of the slowest counter
_TICKS: Final = 4


def check_gpu(index: int, gpu: Gpu, *, try_lock: bool = False) -> list[Finding]:
    """Look at one GPU; only ``try_lock`` changes anything, and gives it back."""
    topic = f"gpu {index}"
    return [
        _check_identity(topic, gpu),
        *_check_sharing(topic, gpu),
        *_check_health(topic, gpu),
        *_check_power(topic, gpu),
        *_check_pcie(topic, gpu),
        _check_clocks(topic, gpu, try_lock=try_lock),
        _check_energy(topic, gpu),
        _check_throttle(topic, gpu),
    ]


def check_topology(gpus: Sequence[Gpu], topology: Topology) -> list[Finding]:
    """Look at the links between GPUs and to the network, and whether the GPUs are alike."""
    findings = [Finding(topic="topology", severity="ok", text=str(topology))]
    if len({gpu.name for gpu in gpus}) > 1:
        text = "GPUs of different kinds in one node: collectives run at the slowest one's pace"
        fix = "profile one kind at a time (CUDA_VISIBLE_DEVICES)"
        findings.append(Finding(topic="topology", severity="warning", text=text, fix=fix))
    lanes = set(topology.nvlinks_per_gpu)
    if len(lanes) > 1:
        text = f"GPUs have different numbers of active NVLinks: {', '.join(map(str, topology.nvlinks_per_gpu))}"
        fix = "nvidia-smi nvlink --status; check the fabric manager and the bridges"
        findings.append(Finding(topic="topology", severity="failure", text=text, fix=fix))
    elif lanes and lanes != {0} and len(gpus) > 1 and not topology.is_fully_nvlinked:
        text = "NVLinks are up, but not every pair of GPUs is joined by them"
        fix = "nvidia-smi topo -m; on NVSwitch systems: is nvidia-fabricmanager running?"
        findings.append(Finding(topic="topology", severity="warning", text=text, fix=fix))
    down = [port.name for port in topology.ports if port.link != "Ethernet" and not port.is_up]
    if down:
        text = f"RDMA ports down: {', '.join(down)}"
        findings.append(Finding(topic="topology", severity="warning", text=text, fix="ibstat; check cable and switch"))
    return findings


def _check_identity(topic: str, gpu: Gpu) -> Finding:
    spec = device_of_driver(gpu.name)
    total, _ = answered(gpu.memory_bytes) or (0, 0)
    text = f"{gpu.name}, {total / 2**30:.1f} GiB, device spec {spec or 'none bundled'}"
    fix = "" if spec else "write a device TOML (see cluster_specs/devices) and give its path"
    return Finding(topic=topic, severity="ok" if spec else "warning", text=text, fix=fix)


def _check_sharing(topic: str, gpu: Gpu) -> list[Finding]:
    findings = []
    if processes := set(answered(gpu.compute_process_ids) or ()) - {os.getpid()}:
        text = f"used by other processes: {', '.join(map(str, sorted(processes)))}"
        findings.append(
            Finding(topic=topic, severity="failure", text=text, fix="stop them; a shared GPU cannot be timed")
        )
    if answered(gpu.is_mig):
        text = "MIG is on: an instance is measured, clocks and energy belong to the whole board"
        fix = "sudo nvidia-smi -mig 0 to measure the whole GPU"
        findings.append(Finding(topic=topic, severity="warning", text=text, fix=fix))
    mode = answered(gpu.virtualization)
    if mode not in {None, "none", "passthrough"}:
        text = f"virtual GPU ({mode}): time slices of other guests are part of every sample"
        findings.append(Finding(topic=topic, severity="warning", text=text, fix="measure on bare metal or passthrough"))
    return findings


def _check_health(topic: str, gpu: Gpu) -> list[Finding]:
    findings = []
    if errors := answered(gpu.uncorrected_ecc_errors):
        text = f"{errors} uncorrected memory errors since the driver was loaded"
        findings.append(Finding(topic=topic, severity="failure", text=text, fix="reset or replace the GPU"))
    temperature = answered(gpu.temperature_c)
    if temperature is not None and temperature >= _HOT_C:
        text = f"{temperature:.0f} degC before any load, limit {_HOT_C:.0f}"
        findings.append(Finding(topic=topic, severity="warning", text=text, fix="check cooling and neighbours"))
    if answered(gpu.is_persistent) is False:
        text = "persistence mode is off: the driver unloads between runs and clears clocks and counters"
        findings.append(Finding(topic=topic, severity="warning", text=text, fix="sudo nvidia-smi -pm 1"))
    return findings


def _check_power(topic: str, gpu: Gpu) -> list[Finding]:
    limit = answered(gpu.power_limit_w)
    name = device_of_driver(gpu.name)
    spec = device_spec(name) if name else None
    if limit is None or spec is None or limit >= spec.tdp_w:
        return []
    text = f"power limit is {limit:.0f} W, below the device's {spec.tdp_w:.0f} W: large GEMMs run slower than stated"
    fix = f"sudo nvidia-smi -pl {spec.tdp_w:.0f} if the site allows it; the limit is recorded with the run"
    return [Finding(topic=topic, severity="warning", text=text, fix=fix)]


def _check_pcie(topic: str, gpu: Gpu) -> list[Finding]:
    """Width only: the link's generation drops by itself while the GPU idles."""
    link = answered(gpu.pcie_link)
    if link is None or link[1] >= link[3]:
        return []
    text = f"PCIe runs at x{link[1]} of x{link[3]}"
    return [Finding(topic=topic, severity="warning", text=text, fix="reseat the card or riser; check the slot")]


def _check_clocks(topic: str, gpu: Gpu, *, try_lock: bool) -> Finding:
    clocks = answered(gpu.supported_sm_clocks_mhz)
    listed = f"SM clocks {clocks[0]}-{clocks[-1]} MHz in {len(clocks)} steps" if clocks else "SM clocks not listed"
    fix = "run as root, or add CAP_SYS_ADMIN to the container; without it rows are unlocked (clock_mhz = null)"
    if not try_lock:
        may = "likely permitted (root)" if os.geteuid() == 0 else "likely refused (not root)"
        severity: Severity = "ok" if os.geteuid() == 0 else "warning"
        text = f"{listed}; locking is {may}, --try-lock makes sure"
        return Finding(topic=topic, severity=severity, text=text, fix="" if severity == "ok" else fix)
    if not clocks:
        return Finding(topic=topic, severity="warning", text=f"{listed}: no clock can be asked for", fix=fix)
    try:
        with NvmlClocks(gpu) as control:
            refusal = control.lock(clocks[len(clocks) // 2]).clock_mhz is None and control.refusal
    except NvmlError as error:
        return Finding(topic=topic, severity="failure", text=str(error), fix=f"run {RESET_COMMAND}")
    if refusal:
        return Finding(topic=topic, severity="warning", text=f"{listed}; {refusal}", fix=fix)
    return Finding(topic=topic, severity="ok", text=f"{listed}; locked and restored")


def _check_energy(topic: str, gpu: Gpu) -> Finding:
    refusal = EnergyMeter(gpu).refusal
    if refusal:
        fix = "energy columns stay empty; the cost model then estimates power"
        return Finding(topic=topic, severity="warning", text=refusal, fix=fix)
    interval = answered(lambda: _tick_interval_s(gpu))
    moves = f"moves every {interval * 1e3:.0f} ms" if interval else f"did not move for {_TICK_S:g} s"
    return Finding(topic=topic, severity="ok" if interval else "warning", text=f"energy counter {moves}")


def _tick_interval_s(gpu: Gpu) -> float | None:
    """Mean time between two moves of the energy counter, None when it moved less than twice."""
    moves: list[float] = []
    last, deadline = gpu.energy_j(), time.perf_counter() + _TICK_S
    while len(moves) < _TICKS and time.perf_counter() < deadline:
        now = gpu.energy_j()
        if now != last:
            moves.append(time.perf_counter())
            last = now
        time.sleep(0.002)
    return (moves[-1] - moves[0]) / (len(moves) - 1) if len(moves) > 1 else None


def _check_throttle(topic: str, gpu: Gpu) -> Finding:
    reasons = answered(gpu.event_reasons)
    counters = answered(gpu.throttle_s) or {}
    counted = [name for name, seconds in counters.items() if seconds is not None]
    if reasons is not None and (held := sorted(reasons & _HELD_BACK)):
        text = f"held back right now by {', '.join(held)}"
        return Finding(topic=topic, severity="failure", text=text, fix="check cooling and the power supply, then retry")
    if not counted:
        text = "the driver counts no throttling: rows are judged by what is seen at both ends only"
        return Finding(topic=topic, severity="warning", text=text, fix="update the NVIDIA driver")
    return Finding(topic=topic, severity="ok", text=f"throttle counters: {', '.join(counted)}")
