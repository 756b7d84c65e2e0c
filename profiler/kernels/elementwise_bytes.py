"""Bytes the small ops move, counted without torch so that a plan can be made where torch is not."""

from typing import Final

from cluster_specs.errors import UserError

GROUP: Final = 128
ROPE_HEAD_DIM: Final = 128


def row_bytes(op: str, width: int, dtype: str) -> int:
    """Bytes one row moves: operands read once, results written once; 16-bit values, 32 for fp32."""
    size = 4 if dtype == "fp32" else 2
    match op:
        case "rmsnorm" | "copy" | "embedding":
            return 2 * width * size
        case "add_rmsnorm":
            return 4 * width * size
        case "silu_mul":
            return 3 * width * size
        case "rope":
            return 2 * width * size + ROPE_HEAD_DIM * 4
        case "quantise" | "quantise_tensor":
            return width * (size + 1) + 4
        case "rmsnorm_quantise":
            return width * (size + 1) + 4
        case "add_rmsnorm_quantise":
            return width * (3 * size + 1) + 4
        case "silu_mul_quantise":
            return width * (2 * size + 1) + 4
        case "quantise_group":
            return width * (size + 1) + 4 * (width // GROUP)
        case "sampler":
            return 4 * width + 8
    raise UserError(f"unknown elementwise op {op!r}")
