"""Dense GEMMs of torch: C[m, n] = A[m, k] W[n, k]^T in every number format that has a kernel.

Weights are kept as [n, k] and passed transposed (the layout of a linear layer: cuBLAS and cuBLASLt choose by it);
activations are hot, weights rotate. Low precision follows torch's contracts: `_scaled_mm` needs a column-major B, fp32
scales of one element (tensor) or (m, 1) with (1, n) (row); `_int_mm` returns int32, so the dequantisation to 16 bits
that a W8A8 layer needs is part of the call.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from profiler.backend import Prepared, Unsupported
from profiler.kernels.buffers import Buffers
from profiler.kernels.quantise import Quantised, fp8_tensor, quantise_row, require_fp8
from profiler.point import OpShape

_FLOATS: Final = {"fp32", "bf16", "fp16"}
_INT4_GROUP: Final = 128
_INT4_INNER_K_TILES: Final = 8
# CUDA's `_int_mm` wants more than 16 rows: smaller batches run padded, as engines do.
_INT_MM_MIN_ROWS: Final = 32


def gemm_kernels(op: OpShape, device: torch.device) -> Sequence[str]:
    """Return the labels of torch's kernels for this number format on this device."""
    if op.dtype in _FLOATS:
        if device.type == "cuda":
            return ("torch.cublas",)
        return ("torch.mkl",) if op.dtype == "fp32" else ("torch.onednn",)
    if op.dtype == "w8a16" and device.type == "cuda":
        return ()  # torch computes one element per thread from fp32 copies there: no engine would run that
    label = {
        "fp8": "torch.scaled_mm",
        "w8a8": "torch.int_mm",
        "w8a16": "torch.weight_int8pack_mm",
        "w4a16": "torch.weight_int4pack_mm",
    }.get(op.dtype)
    return (label,) if label else ()


def prepare_gemm(op: OpShape, buffers: Buffers) -> Prepared:
    """Return the launch of one linear layer; raises ``Unsupported`` for shapes the kernel refuses."""
    m, n, k = op.shape["m"], op.shape["n"], op.shape["k"]
    if min(m, n, k) < 1:
        raise Unsupported(f"illegal shape m={m} n={n} k={k}: every side must be at least 1")
    if op.dtype in _FLOATS:
        activation = buffers.random((m, k), op.dtype)
        weights = buffers.rotating((n, k), op.dtype)
        return _over(weights, lambda weight: F.linear(activation, weight))
    prepare = {"fp8": _fp8, "w8a8": _w8a8, "w8a16": _w8a16, "w4a16": _w4a16}[op.dtype]
    return prepare(op, m, n, k, buffers)


def _over(weights: list[torch.Tensor], call: Callable[[torch.Tensor], object]) -> Prepared:
    copies = len(weights)
    return Prepared(lambda i: call(weights[i % copies]), copies)


def _fp8(op: OpShape, m: int, n: int, k: int, buffers: Buffers) -> Prepared:
    if k % 16 or n % 16:
        raise Unsupported(f"torch._scaled_mm needs n and k in multiples of 16, got n={n} k={k}")
    require_fp8(buffers.device)
    scaling = op.shape["scaling"]
    if scaling not in {"tensor", "row"}:
        raise Unsupported(f"torch._scaled_mm runs tensor-wise and row-wise scaling here, not {scaling!r}")
    quantise = fp8_tensor if scaling == "tensor" else _quantise_rows_for(buffers.device, torch.float8_e4m3fn)
    source = buffers.random((m, k), "bf16")
    activation, scale_a = quantise(source)
    ones = (1,) if scaling == "tensor" else (1, n)
    scale_b = torch.full(ones, 0.01, device=buffers.device)
    weights = [weight.t() for weight in buffers.rotating((n, k), "fp8")]
    options: dict[str, Any] = {"out_dtype": torch.bfloat16, "use_fast_accum": buffers.device.type == "cuda"}
    if op.shape["quantise"]:

        def call(weight: torch.Tensor) -> object:
            quantised, scale = quantise(source)
            return torch._scaled_mm(quantised, weight, scale, scale_b, **options)  # noqa: SLF001 - no public form in 2.6

        return _over(weights, call)
    return _over(weights, lambda weight: torch._scaled_mm(activation, weight, scale_a, scale_b, **options))  # noqa: SLF001


def _w8a8(op: OpShape, m: int, n: int, k: int, buffers: Buffers) -> Prepared:
    rows = m
    if buffers.device.type == "cuda":
        if k % 8 or n % 8:
            raise Unsupported(f"torch._int_mm needs n and k in multiples of 8, got n={n} k={k}")
        rows = max(m, _INT_MM_MIN_ROWS)
    source = buffers.random((rows, k), "bf16")
    quantise = _quantise_rows_for(buffers.device, torch.int8)
    activation, scale_a = quantise(source)
    scale_b = torch.full((1, n), 0.01, device=buffers.device)
    weights = [weight.t() for weight in buffers.rotating((n, k), "int8")]
    is_quantising = bool(op.shape["quantise"])
    dequantise = _dequantise_for(buffers.device)

    def call(weight: torch.Tensor) -> object:
        quantised, scale = quantise(source) if is_quantising else (activation, scale_a)
        product = torch._int_mm(quantised, weight)  # noqa: SLF001 - torch has no public integer matmul
        return dequantise(product, scale, scale_b)

    return _over(weights, call)


def _quantise_rows_for(device: torch.device, kind: torch.dtype) -> Callable[[torch.Tensor], Quantised]:
    """One fused pass where Triton runs; several passes of eager torch would weigh more than a small product."""
    if _has_triton(device):
        from profiler.kernels.triton_rows import quantise

        return lambda x: quantise(x, kind)
    return lambda x: quantise_row(x, kind)


def _dequantise_for(device: torch.device) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    if _has_triton(device):
        from profiler.kernels.triton_rows import dequantise

        return dequantise
    return lambda product, scale_a, scale_b: (product * scale_a * scale_b).to(torch.bfloat16)


def _has_triton(device: torch.device) -> bool:
    return device.type == "cuda" and find_spec("triton") is not None


def _w8a16(op: OpShape, m: int, n: int, k: int, buffers: Buffers) -> Prepared:  # noqa: ARG001 - one signature for all
    activation = buffers.random((m, k), "bf16")
    scales = torch.full((n,), 0.01, device=buffers.device, dtype=torch.bfloat16)
    weights = buffers.rotating((n, k), "int8")
    return _over(weights, lambda weight: torch._weight_int8pack_mm(activation, weight, scales))  # noqa: SLF001


def _w4a16(op: OpShape, m: int, n: int, k: int, buffers: Buffers) -> Prepared:  # noqa: ARG001
    if k % _INT4_GROUP or n % 64:
        raise Unsupported(f"int4 weights are packed in tiles of 64 x {_INT4_GROUP}, got n={n} k={k}")
    device = buffers.device
    activation = buffers.random((m, k), "bf16")
    scales = buffers.random((k // _INT4_GROUP, n, 2), "bf16")
    if device.type == "cuda":
        # Layout of the tensor-core kernel: int32 [n/8, k/(tiles*16), 32, tiles/2].
        packed = (n // 8, k // (_INT4_INNER_K_TILES * 16), 32, _INT4_INNER_K_TILES // 2)
        weights = buffers.rotating(packed, "int32")
        return _over(weights, lambda w: torch._weight_int4pack_mm(activation, w, _INT4_GROUP, scales))  # noqa: SLF001
    weights = [w.view(torch.uint8) for w in buffers.rotating((n, k // 2), "int8")]
    kernel = torch._weight_int4pack_mm_for_cpu  # noqa: SLF001
    return _over(weights, lambda w: kernel(activation, w, _INT4_GROUP, scales))
