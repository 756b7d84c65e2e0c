"""Our own Triton kernels behind the backend protocol: fused small ops and the experts' grouped GEMM."""

from collections.abc import Sequence
from typing import Final

from profiler.backend import Prepared, Unsupported
from profiler.kernels import triton_rows
from profiler.kernels.buffers import TORCH_DTYPES, Buffers
from profiler.kernels.elementwise import SmallOps, prepare_elementwise
from profiler.kernels.moe import prepare_experts
from profiler.kernels.triton_experts import grouped_gemm
from profiler.point import OpShape

_ADD_NORM_QUANTISE: Final = "add_rmsnorm_quantise"
_FLOAT_OPS: Final = frozenset({"rmsnorm", "add_rmsnorm", "silu_mul", "rope"})
_QUANTISING_OPS: Final = frozenset({"quantise", "rmsnorm_quantise", "silu_mul_quantise", _ADD_NORM_QUANTISE})
TRITON_OPS: Final = SmallOps(
    rms_norm=triton_rows.rms_norm,
    add_rms_norm=triton_rows.add_rms_norm,
    silu_mul=triton_rows.silu_mul,
    rope=triton_rows.rope,
    quantise=triton_rows.quantise,
    rms_norm_quantise=triton_rows.rms_norm_quantise,
    silu_mul_quantise=triton_rows.silu_mul_quantise,
)


class TritonBackend:
    """Kernels that torch has not, or only as several passes over memory."""

    name = "triton"

    def kernels_for(self, op: OpShape) -> Sequence[str]:
        """Return ``triton`` where a kernel of ours runs ``op``."""
        if op.family == "moe":
            return ("triton",) if op.dtype in {"bf16", "fp16"} else ()
        if op.family != "elementwise":
            return ()
        name, dtype = op.shape["op"], op.dtype
        is_ours = (name in _FLOAT_OPS and dtype in {"bf16", "fp16", "fp32"}) or (
            name in _QUANTISING_OPS and dtype in {"fp8", "w8a8", "int8"}
        )
        return ("triton",) if is_ours else ()

    def prepare(self, op: OpShape, kernel: str, buffers: Buffers) -> Prepared:  # noqa: ARG002 - one kernel per op
        """Allocate operands and return the launch; raises ``Unsupported`` for rows no program can hold."""
        if op.family == "moe":
            return prepare_experts(op, grouped_gemm, buffers)
        if not triton_rows.fits(op.shape["width"]):
            raise Unsupported(f"a row of {op.shape['width']} elements does not fit one program")
        if op.shape["op"] == _ADD_NORM_QUANTISE:
            return _add_norm_quantise(op, buffers)
        return prepare_elementwise(op, buffers, TRITON_OPS)


def _add_norm_quantise(op: OpShape, buffers: Buffers) -> Prepared:
    rows, width = op.shape["rows"], op.shape["width"]
    kind = TORCH_DTYPES["fp8" if op.dtype == "fp8" else "int8"]
    residual, weight = buffers.random((rows, width), "bf16"), buffers.random((width,), "bf16")
    inputs = buffers.rotating((rows, width), "bf16")
    copies = len(inputs)
    return Prepared(lambda i: triton_rows.add_rms_norm_quantise(inputs[i % copies], residual, weight, kind), copies)
