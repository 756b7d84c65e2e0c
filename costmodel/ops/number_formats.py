"""Number formats: the bytes of an element, and what the format of a GEMM's rows means for weights and activations."""

from typing import Final

from cluster_specs.lazy_dataclass import dataclass

# Bytes per stored element.
DTYPE_BYTES: Final[dict[str, float]] = {
    "fp32": 4,
    "tf32": 4,
    "bf16": 2,
    "fp16": 2,
    "fp8": 1,
    "int8": 1,
    "int4": 0.5,
    "fp4": 0.5,
    "mxfp4": 0.53125,  # 4 bits and one shared 8-bit exponent per 32 elements
    "mxfp8": 1.03125,  # 8 bits and one shared 8-bit exponent per 32 elements
    "nvfp4": 0.5625,  # 4 bits and one 8-bit scale per 16 elements
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """A GEMM's number format: what the weights and activations are stored in, and which unit computes."""

    weight: str
    activation: str
    compute: str


# The `dtype` column of gemm and moe rows -> what it means.
SCHEMES: Final[dict[str, Scheme]] = {
    "fp32": Scheme(weight="fp32", activation="fp32", compute="fp32"),
    "bf16": Scheme(weight="bf16", activation="bf16", compute="bf16"),
    "fp16": Scheme(weight="fp16", activation="fp16", compute="fp16"),
    "fp8": Scheme(weight="fp8", activation="fp8", compute="fp8"),
    "fp8_block": Scheme(weight="fp8", activation="fp8", compute="fp8"),
    "w8a8": Scheme(weight="int8", activation="int8", compute="int8"),
    "w8a16": Scheme(weight="int8", activation="bf16", compute="bf16"),
    "w4a16": Scheme(weight="int4", activation="bf16", compute="bf16"),
    "w4a8": Scheme(weight="int4", activation="fp8", compute="fp8"),
    "mxfp4": Scheme(weight="mxfp4", activation="bf16", compute="bf16"),
    # Tensor cores that take both operands narrow run at the rate of the wider: MXFP8's, which is FP8's.
    "mxfp4_mxfp8": Scheme(weight="mxfp4", activation="mxfp8", compute="fp8"),
    "nvfp4": Scheme(weight="nvfp4", activation="nvfp4", compute="fp4"),
}
