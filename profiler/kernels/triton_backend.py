"""Our own Triton kernels behind the backend protocol, all labelled ``triton``.

A row of theirs stands beside the rows other kernels have for the same point. A fit takes the kernels of the engine it
is made for, else the fastest of each point (`costmodel.measurements`): ours are the price where a cluster has nothing
better, as without vLLM.
"""

from collections.abc import Sequence
from typing import Final

from triton.errors import TritonError

from profiler.backend import Prepared, Unsupported
from profiler.kernels import triton_attention, triton_linear, triton_moe, triton_rows
from profiler.kernels.attention import flash_parameters
from profiler.kernels.buffers import TORCH_DTYPES, Buffers
from profiler.kernels.elementwise import SmallOps, prepare_elementwise
from profiler.kernels.elementwise_bytes import GROUP
from profiler.kernels.triton_groups import quantise_group
from profiler.point import OpShape

_ADD_NORM_QUANTISE: Final = "add_rmsnorm_quantise"
_QUANTISE_GROUP: Final = "quantise_group"
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
        match op.family:
            case "gemm":
                is_ours = op.dtype in triton_linear.FORMATS
            case "moe":
                is_ours = op.dtype in triton_moe.FORMATS
            case "attention":
                is_ours = op.dtype in {"bf16", "fp16"} and _is_our_attention(op)
            case "elementwise":
                name, dtype = op.shape["op"], op.dtype
                is_ours = (
                    (name in _FLOAT_OPS and dtype in {"bf16", "fp16", "fp32"})
                    or (name in _QUANTISING_OPS and dtype in {"fp8", "w8a8", "int8"})
                    or (name == _QUANTISE_GROUP and dtype == "fp8")
                )
            case _:
                is_ours = False
        return ("triton",) if is_ours else ()

    def prepare(self, op: OpShape, kernel: str, buffers: Buffers) -> Prepared:  # noqa: ARG002 - one kernel per op
        """Compile, allocate operands and return the launch; raises ``Unsupported`` for what no program can hold."""
        prepared = self._prepared(op, buffers)
        try:
            prepared.launch(0)
        except TritonError as error:  # a tile this GPU has too little shared memory for, a type it has not
            raise Unsupported(f"Triton: {str(error).strip().splitlines()[0]}") from error
        return prepared

    def _prepared(self, op: OpShape, buffers: Buffers) -> Prepared:
        match op.family:
            case "gemm":
                return triton_linear.prepare_linear(op, buffers)
            case "moe":
                return triton_moe.prepare_moe(op, buffers)
            case "attention":
                return triton_attention.prepare_attention(op, buffers)
        if op.shape["op"] == _QUANTISE_GROUP:
            return _quantise_group(op, buffers)
        if not triton_rows.fits(op.shape["width"]):
            raise Unsupported(f"a row of {op.shape['width']} elements does not fit one program")
        if op.shape["op"] == _ADD_NORM_QUANTISE:
            return _add_norm_quantise(op, buffers)
        return prepare_elementwise(op, buffers, TRITON_OPS)


def _is_our_attention(op: OpShape) -> bool:
    """FP8 KV, MLA, and paged KV where this torch has none; elsewhere its flash attention is what is measured."""
    if op.shape["kv_dtype"] == "fp8":
        return True
    is_wanted = op.shape["variant"] == "mla" or "block_table" not in flash_parameters()
    return is_wanted and bool(op.shape["kv_dtype"] == op.dtype)


def _quantise_group(op: OpShape, buffers: Buffers) -> Prepared:
    rows, width = op.shape["rows"], op.shape["width"]
    if rows < 1 or width < 1 or width % GROUP:
        raise Unsupported(f"illegal shape rows={rows} width={width}: width must be a positive multiple of {GROUP}")
    inputs = buffers.rotating((rows, width), "bf16")
    copies = len(inputs)
    return Prepared(lambda i: quantise_group(inputs[i % copies]), copies)


def _add_norm_quantise(op: OpShape, buffers: Buffers) -> Prepared:
    rows, width = op.shape["rows"], op.shape["width"]
    kind = TORCH_DTYPES["fp8" if op.dtype == "fp8" else "int8"]
    residual, weight = buffers.random((rows, width), "bf16"), buffers.random((width,), "bf16")
    inputs = buffers.rotating((rows, width), "bf16")
    copies = len(inputs)
    return Prepared(lambda i: triton_rows.add_rms_norm_quantise(inputs[i % copies], residual, weight, kind), copies)
