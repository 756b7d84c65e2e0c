"""Which sources of kernels exist on this machine."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from profiler.backend import KernelBackend

if TYPE_CHECKING:
    import torch


def kernel_backends(device: "torch.device") -> tuple[KernelBackend, ...]:
    """Return every backend that can run on ``device``, preferred first."""
    import torch

    from profiler.kernels.torch_backend import TorchBackend

    backends: list[KernelBackend] = [TorchBackend(device)]
    if device.type == "cpu" and find_spec("vllm") is not None:
        from profiler.kernels.vllm_cpu_backend import VllmCpuBackend

        backends.append(VllmCpuBackend())
    if device.type == "cuda":
        from profiler.kernels.cudnn_backend import FIRST_CAPABILITY, CudnnBackend

        if torch.cuda.get_device_capability(device) >= FIRST_CAPABILITY:
            backends.append(CudnnBackend())
        if find_spec("triton") is not None:
            from profiler.kernels.triton_backend import TritonBackend

            backends.append(TritonBackend())
        if find_spec("vllm") is not None:
            from profiler.kernels.vllm_backend import VllmBackend

            backends.append(VllmBackend())
    from profiler.kernels.step_backend import StepBackend

    return (*backends, StepBackend(tuple(backends)))


def in_order(backends: Sequence[KernelBackend], wanted: Sequence[str]) -> tuple[KernelBackend, ...]:
    """Return the sources of kernels named in ``wanted``, in that order; raises ``UserError`` for one not here.

    Whole steps, which are built of the kernels of all sources, are always among them.
    """
    found = {backend.name: backend for backend in backends[:-1]}
    unknown = [name for name in wanted if name not in found]
    if unknown or not wanted:
        raise UserError(
            f"--kernels: {shown(unknown[0]) if unknown else 'nothing'} is no source of kernels on this machine",
            hint=f"here are {', '.join(found)}; `apex doctor` says what is missing for the others",
        )
    return (*(found[name] for name in dict.fromkeys(wanted)), backends[-1])
