"""The seam between what is measured and what runs it: one protocol for every source of kernels."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from profiler.point import OpShape

if TYPE_CHECKING:
    from profiler.kernels.buffers import Buffers


class Unsupported(UserError):  # noqa: N818 - a verdict on one point, not a failure of the run
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
