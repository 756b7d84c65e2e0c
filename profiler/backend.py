"""The seam between what is measured and what runs it: one protocol for every source of kernels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from profiler.errors import ProfilerError
from profiler.point import OpShape

if TYPE_CHECKING:
    import torch

    from profiler.kernels.buffers import Buffers


class Unsupported(ProfilerError):  # noqa: N818 - a verdict on one point, not a failure of the run
    """The kernel cannot run this op here; the point becomes a row with status ``unsupported`` and this text."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A kernel ready to run: ``launch(i)`` runs it once on buffer set ``i % copies``."""

    launch: Callable[[int], object]
    copies: int


class KernelBackend(Protocol):
    """A source of kernels (torch, our Triton kernels, vLLM)."""

    @property
    def name(self) -> str:
        """Short name: ``torch``, ``triton``, ``vllm``."""

    def kernels_for(self, op: OpShape) -> Sequence[str]:
        """Return the ``backend`` labels of the kernels that exist for ``op`` on this device, best first."""

    def prepare(self, op: OpShape, kernel: str, buffers: "Buffers") -> Prepared:
        """Allocate operands and return the launch; raises ``Unsupported`` or ``torch.OutOfMemoryError``."""


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
