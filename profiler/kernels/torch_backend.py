"""Torch's own kernels: cuBLAS or oneDNN GEMMs, scaled FP8, int8, SDPA and varlen attention, eager small ops."""

from collections.abc import Sequence

import torch

from costmodel.ops.small_ops import SMALL_OPS
from profiler.backend import Prepared, Unsupported
from profiler.kernels.attention import attention_kernels, prepare_attention
from profiler.kernels.buffers import Buffers
from profiler.kernels.gemm import gemm_kernels, prepare_gemm
from profiler.kernels.moe import moe_kernels, prepare_moe
from profiler.kernels.scan import prepare_scan, scan_kernels
from profiler.kernels.torch_rows import prepare_torch_rows
from profiler.point import OpShape


class TorchBackend:
    """Kernels that come with torch, on the CPU and on CUDA."""

    name = "torch"

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def kernels_for(self, op: OpShape) -> Sequence[str]:
        """Return torch's kernels for ``op``, best first."""
        match op.family:
            case "gemm":
                return gemm_kernels(op, self._device)
            case "attention":
                return attention_kernels(op, self._device)
            case "scan":
                return scan_kernels(op, self._device)
            case "moe":
                return moe_kernels(op, self._device)
            case "elementwise":
                entry = SMALL_OPS.get(op.shape["op"])
                return (f"torch.eager_{self._device.type}",) if entry and op.dtype in entry.torch else ()
        return ()

    def prepare(self, op: OpShape, kernel: str, buffers: Buffers) -> Prepared:
        """Allocate operands and return the launch; raises ``Unsupported`` or ``torch.OutOfMemoryError``."""
        match op.family:
            case "gemm":
                return prepare_gemm(op, buffers)
            case "attention":
                return prepare_attention(op, kernel, buffers)
            case "scan":
                return prepare_scan(op, buffers)
            case "moe":
                return prepare_moe(op, kernel, buffers)
            case "elementwise":
                return prepare_torch_rows(op, buffers)
        raise Unsupported(f"torch has no kernel for family {op.family}")
