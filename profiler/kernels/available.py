"""Which sources of kernels exist on this machine."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from profiler.backend import KernelBackend

if TYPE_CHECKING:
    import torch


def kernel_backends(device: "torch.device") -> tuple[KernelBackend, ...]:
    """Return every backend that can run on ``device``, preferred first."""
    from profiler.kernels.torch_backend import TorchBackend

    backends: list[KernelBackend] = [TorchBackend(device)]
    if device.type == "cuda":
        if find_spec("triton") is not None:
            from profiler.kernels.triton_backend import TritonBackend

            backends.append(TritonBackend())
        if find_spec("vllm") is not None:
            from profiler.kernels.vllm_backend import VllmBackend

            backends.append(VllmBackend())
    from profiler.kernels.step_backend import StepBackend

    return (*backends, StepBackend(tuple(backends)))
