"""The kernel family of a row, from the name of the kernel that ran, and the families that an engine runs.

FlashAttention 2 and 3 compute the same result, on Hopper at very different speeds: times of the one are no times of the
other. A library's kernels are one family wherever they are called from; a kernel somebody wrote is a family of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass

# What a name of a kernel holds -> its family; the first that occurs.
_NAMED: Final = (
    ("custom_all_reduce", "custom_all_reduce"),
    ("symm_mem", "symm_mem"),
    ("cudnn", "cudnn"),
    ("trtllm_gen", "trtllm_gen"),
    ("flashinfer", "flashinfer"),
    ("flashmla", "flashmla"),
    ("fa4", "fa4"),
    ("fa3", "fa3"),
    ("fa2", "fa2"),
    ("torch.flash_attention", "fa2"),  # PyTorch is built with FlashAttention 2
    ("flash_attn.varlen", "fa2"),  # the package flash-attn 2
    ("deepgemm", "deepgemm"),
    ("deep_gemm", "deepgemm"),
    ("marlin", "marlin"),
    ("machete", "machete"),
    ("cutlass", "cutlass"),
    ("cublas", "cublas"),
    ("torch.int_mm", "cublas"),
    ("onednn", "onednn"),
    ("mkl", "mkl"),
    ("rccl", "rccl"),
    ("oneccl", "oneccl"),
    ("nccl", "nccl"),
    ("gloo", "gloo"),
)


def kernel_family(backend: str) -> str:
    """Return the family of the kernel that a row's ``backend`` names; one that is in no library is its own.

    Triton kernels are as good as who wrote them: an engine's are one family, ours another (``triton``).
    """
    name = backend.lower()
    engine, _, kernel = name.partition(".")
    own = f"{engine}.triton" if "triton" in kernel else name
    return next((family for part, family in _NAMED if part in name), own)


def kernel_families(backends: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return the family of every row's kernel."""
    names, which = np.unique(backends, return_inverse=True)
    families = np.asarray([kernel_family(name) for name in names.tolist()], dtype=np.str_)
    return families[which.ravel()] if len(names) else backends


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKernels:
    """Kernel families that an engine runs on one device, as far as they are known.

    ``engine`` as rows name it (``vllm-0.24.0``). ``families`` by op family and leading choices, ``attention|gqa``.
    """

    engine: str
    families: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, family: str, choice: Sequence[str]) -> tuple[str, ...]:
        """Return what runs ``choice`` (values of `OpFamily.kernel_choice`) of an op family; empty where unknown."""
        keys = ("|".join((family, *choice[:count])) for count in range(len(choice), -1, -1))
        return next((self.families[key] for key in keys if key in self.families), ())
