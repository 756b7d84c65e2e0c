"""A weight matrix as one rank holds it: its parameters, the bytes it is stored in and the GEMM it costs.

Stored bytes count what a checkpoint keeps beside the elements: one fp32 scale per output channel (fp8, w8a8, w8a16),
one fp32 scale per 128 x 128 block (fp8_block), one 16-bit scale per group along k (w4a16, w4a8) and the shared
exponents of the micro-scaling formats, which `costmodel.ops.op_types.DTYPE_BYTES` already holds.
"""

import math
from typing import Final

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.number_formats import DTYPE_BYTES, SCHEMES
from costmodel.ops.op_types import Elementwise, Gemm, Ints, Op
from costmodel.ops.small_ops import SCALE_GROUP, small_op
from simulator.plan.plan import Plan

UNQUANTISED: Final = ("bf16", "fp16", "fp32")
FP8: Final = ("fp8", "fp8_block")
MXFP4_MXFP8: Final = "mxfp4_mxfp8"  # how devices with FP4 arithmetic may run MXFP4 experts
WEIGHT_ONLY: Final = "w8a16"  # how devices without FP8 arithmetic run FP8 checkpoints
FP8_BLOCK: Final = SCALE_GROUP  # rows and columns that share one scale in block-quantised checkpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """How a checkpoint stores a class of matrices: a name in ``number_formats.SCHEMES``, and its group length in k."""

    scheme: str
    group_size: int = 128
    has_static_inputs: bool = False  # x is rounded by scales of the checkpoint, which needs no pass over x
    group_bytes: float = 0.0  # kept per group beside what the scheme always keeps: zero points, scales of groups

    @property
    def is_quantised(self) -> bool:
        """Stored in fewer bits than the model computes its norms and residuals in."""
        return self.scheme not in UNQUANTISED

    def under(self, plan: Plan) -> "WeightFormat":
        """Return the format ``plan`` runs: its own where it names one and the checkpoint is not already quantised.

        FP8 weights may stay as they are beside 16-bit activations.
        """
        asked = plan.weight_dtype
        if asked is None or (self.is_quantised and not (asked == WEIGHT_ONLY and self.scheme in FP8)):
            return self
        return WeightFormat(scheme=asked, has_static_inputs=plan.has_static_inputs and asked == "fp8")


def activation_dtype(plan: Plan, dtype: str) -> str:
    """Format of residual stream, norms and attention: the model's ``dtype`` unless the plan casts the whole model."""
    return plan.weight_dtype if plan.weight_dtype in UNQUANTISED else dtype


def kv_dtype(plan: Plan, dtype: str) -> str:
    """Format of the KV cache: the plan's, else that of the activations."""
    return plan.kv_dtype or activation_dtype(plan, dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductAlone(Gemm):
    """A GEMM whose input arrives rounded: measured times that include the rounding are too long for it."""

    @property
    def whole(self) -> Gemm:
        """The GEMM as tables know it."""
        return Gemm(m=self.m, n=self.n, k=self.k, dtype=self.dtype)

    @property
    def rounding(self) -> Elementwise:
        """The kernel that measured times may include: 16-bit rows in, rounded rows and a scale per row out."""
        rounded = SCHEMES[self.dtype].activation
        return small_op("quantise", rows=self.m, width=int(self.k), dtype="bf16", out=rounded, scales=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """``y[m, n] = x[m, k] W[n, k]^T (+ b)``; ``n`` and ``k`` are those of the holder (whole model or one rank)."""

    n: int
    k: int
    weights: WeightFormat
    dtype: str  # of the bias and of x before any activation quantisation
    bias: bool = False

    def parameters(self) -> int:
        """Weights and bias; scales of a quantised checkpoint are not parameters."""
        return self.n * self.k + (self.n if self.bias else 0)

    def stored_bytes(self) -> int:
        """Bytes in device memory, scales and bias included."""
        scheme = self.weights.scheme
        elements = self.n * self.k * DTYPE_BYTES[SCHEMES[scheme].weight]
        if scheme == "fp8_block":
            scales = 4 * math.ceil(self.n / FP8_BLOCK) * math.ceil(self.k / FP8_BLOCK)
        elif scheme in {"w4a16", "w4a8"}:
            scales = 2 * self.n * (math.ceil(self.k / self.weights.group_size) if self.weights.group_size > 0 else 1)
        elif scheme in {"fp8", "w8a8", "w8a16"}:
            scales = 4 * self.n
        else:
            scales = 0
        if self.weights.group_bytes:
            groups = math.ceil(self.k / self.weights.group_size) if self.weights.group_size > 0 else 1
            scales += math.ceil(self.n * groups * self.weights.group_bytes)
        return math.ceil(elements) + scales + (int(self.n * DTYPE_BYTES[self.dtype]) if self.bias else 0)

    def refusal(self) -> str | None:
        """Why no kernel takes this shard: block scales must not straddle two ranks."""
        scheme = self.weights.scheme
        if scheme == "fp8_block" and (self.n % FP8_BLOCK or self.k % FP8_BLOCK):
            return f"a rank's weight shard is {self.n} x {self.k}, must be whole {FP8_BLOCK} x {FP8_BLOCK} fp8 blocks"
        if scheme in {"w4a16", "w4a8"} and self.weights.group_size > 0 and self.k % self.weights.group_size:
            return f"a rank's weight shard has k = {self.k}, must be whole groups of {self.weights.group_size}"
        return None

    def gemm(self, m: Ints) -> Gemm:
        """Return the GEMM over ``m`` tokens; alone where static scales let a kernel before it round x."""
        kind = ProductAlone if self.weights.has_static_inputs and self.quantises_activations else Gemm
        return kind(m=m, n=self.n, k=self.k, dtype=self.weights.scheme)

    @property
    def quantises_activations(self) -> bool:
        """Whether x is rounded to fewer bits before the GEMM."""
        return SCHEMES[self.weights.scheme].activation not in UNQUANTISED

    def quantise(self, m: Ints) -> list[Op]:
        """Return the kernel that rounds x, if this format needs one."""
        if not self.quantises_activations:
            return []
        return [self._rounding("quantise", m, width=self.k, dtype=self.dtype)]

    def rounded_by(self, name: str, m: Ints, *, width: int, dtype: str) -> Elementwise:
        """Return the small op ``name`` that also rounds its result, which is x, as this format needs it."""
        return self._rounding(f"{name}_quantise", m, width=width, dtype=dtype)

    def _rounding(self, name: str, m: Ints, *, width: int, dtype: str) -> Elementwise:
        """Write rounded rows and their fp32 scales: one per row or per 128 elements, none that a checkpoint states."""
        scales = math.ceil(self.k / FP8_BLOCK) if self.weights.scheme == "fp8_block" else 1
        if self.weights.has_static_inputs:
            scales = 0
        rounded = SCHEMES[self.weights.scheme].activation
        return small_op(name, rows=m, width=width, dtype=dtype, out=rounded, scales=scales)
