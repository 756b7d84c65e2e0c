"""Which software a measurement would run on, and whether its parts fit together."""

from importlib.util import find_spec
from typing import Final

from profiler.doctor.findings import Finding
from profiler.instruments.nvml import Nvml, answered
from profiler.instruments.provenance import installed_version

_INSTALL: Final = "pip install 'apex-planner[profile]'"
_MIN_TORCH: Final = (2, 6)


def check_software(nvml: Nvml | None, num_gpus: int) -> list[Finding]:
    """Look at torch, NVML's binding, Triton and vLLM; ``num_gpus`` is what NVML sees."""
    return [*_check_torch(nvml, num_gpus), *_check_binding(), *_check_optional()]


def _check_torch(nvml: Nvml | None, num_gpus: int) -> list[Finding]:
    version = installed_version("torch")
    if version is None:
        text = "torch is not installed: nothing can be measured (planning and searching need none)"
        return [Finding(topic="software", severity="warning", text=text, fix=_INSTALL)]
    try:
        import torch
    except (ImportError, OSError) as error:
        text = f"torch {version} cannot be imported: {error}"
        return [Finding(topic="software", severity="failure", text=text, fix="reinstall torch for this platform")]
    findings = [Finding(topic="software", severity="ok", text=f"torch {version}, CUDA {torch.version.cuda or 'none'}")]
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    if numbers < _MIN_TORCH:
        text = f"torch {version} is older than {'.'.join(map(str, _MIN_TORCH))}: FP8 rows will be missing"
        findings.append(Finding(topic="software", severity="warning", text=text, fix=_INSTALL))
    if not num_gpus:
        return findings
    if torch.version.cuda is None:
        text = f"{num_gpus} GPUs, but torch {version} is built without CUDA"
        fix = "install a CUDA build of torch (https://pytorch.org/get-started/locally)"
        return [*findings, Finding(topic="software", severity="failure", text=text, fix=fix)]
    if nvml is not None and (problem := _check_driver(nvml, torch.version.cuda)) is not None:
        findings.append(problem)
    visible = torch.cuda.device_count()
    if visible == 0:
        text = f"NVML sees {num_gpus} GPUs, torch none"
        fix = "check CUDA_VISIBLE_DEVICES and the driver's version against torch's CUDA"
        findings.append(Finding(topic="software", severity="failure", text=text, fix=fix))
    elif visible < num_gpus:
        text = f"torch may use {visible} of {num_gpus} GPUs"
        findings.append(Finding(topic="software", severity="info", text=text, fix="check CUDA_VISIBLE_DEVICES"))
    return findings


def _check_driver(nvml: Nvml, torch_cuda: str) -> Finding | None:
    """Compare CUDA versions: a driver runs every CUDA of its own major version and older ones."""
    driver_cuda = answered(nvml.cuda_version)
    if driver_cuda is None:
        return None
    needed, offered = (int(version.partition(".")[0]) for version in (torch_cuda, driver_cuda))
    if needed <= offered:
        return None
    text = f"torch is built for CUDA {torch_cuda}, the driver supports up to {driver_cuda}"
    return Finding(
        topic="software",
        severity="failure",
        text=text,
        fix="update the NVIDIA driver, or install torch for the older CUDA",
    )


def _check_binding() -> list[Finding]:
    if find_spec("pynvml") is not None:
        return []
    text = "nvidia-ml-py is not installed: no clocks, energy or throttle counters"
    return [Finding(topic="software", severity="warning", text=text, fix=_INSTALL)]


def _check_optional() -> list[Finding]:
    findings = []
    for name, without in (
        ("triton", "fused kernels are not measured"),
        ("vllm", "vLLM's own kernels and custom all-reduce are not measured"),
    ):
        version = installed_version(name)
        text = f"{name} {version}" if version else f"{name} is not installed: {without}"
        fix = "" if version else f"pip install {name}"
        findings.append(Finding(topic="software", severity="ok" if version else "info", text=text, fix=fix))
    return findings
