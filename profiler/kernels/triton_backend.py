"""Our own Triton kernels behind the backend protocol, all labelled ``triton``.

A row of theirs stands beside the rows other kernels have for the same point. A fit takes the kernels of the engine it
is made for, else the fastest of each point (`costmodel.fitting.measurements`): ours are the price where a cluster has
nothing better, as without vLLM.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from triton.errors import TritonError

from costmodel.ops.small_ops import SCALE_GROUP, SMALL_OPS, RowFormat
from profiler.backend import Prepared, Unsupported
from profiler.kernels import triton_attention, triton_linear, triton_moe, triton_rows, triton_scan
from profiler.kernels.attention import flash_parameters, is_windowed_decode
from profiler.kernels.buffers import Buffers
from profiler.kernels.row_operands import RowKernel, made_of, prepare_rows
from profiler.kernels.triton_groups import quantise_group, silu_mul_quantise_group
from profiler.kernels.triton_rows import TRITON_ROWS
from profiler.point import OpShape

# Roundings to e4m3 with a scale per 128 columns; all other functions round with one per row, or by one that is known.
_BY_GROUPS: Final[Mapping[str, RowKernel]] = {
    "quantise": quantise_group,
    "silu_mul_quantise": silu_mul_quantise_group,
}


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
            case "scan":
                is_ours = {op.dtype, op.shape["state_dtype"]} <= triton_scan.FORMATS
            case "elementwise":
                entry = SMALL_OPS.get(op.shape["op"])
                is_ours = entry is not None and op.dtype in entry.triton
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
            case "scan":
                return triton_scan.prepare_scan(op, buffers)
        return prepare_rows(op, buffers, _row_kernel(op.shape["op"], made_of(op)))


def _is_our_attention(op: OpShape) -> bool:
    """FP8 KV, MLA, windowed decode, and paged KV where this torch has none; elsewhere its flash attention runs."""
    if op.shape["kv_dtype"] == "fp8" or (is_windowed_decode(op) and op.shape["kv_dtype"] == op.dtype):
        return True
    is_wanted = op.shape["variant"] == "mla" or "block_table" not in flash_parameters()
    return is_wanted and bool(op.shape["kv_dtype"] == op.dtype)


def _row_kernel(name: str, row: RowFormat) -> RowKernel:
    """Return our function for a small op; raises ``Unsupported`` for rows it does not take."""
    if row.scales > 1:
        if name not in _BY_GROUPS or row.out != "fp8" or row.width % SCALE_GROUP:
            raise Unsupported(f"no kernel of ours rounds {name} to {row.out} with {row.scales} scales per row")
        return _BY_GROUPS[name]
    if not triton_rows.fits(row.width):
        raise Unsupported(f"a row of {row.width} elements does not fit one program")
    return TRITON_ROWS[name]
