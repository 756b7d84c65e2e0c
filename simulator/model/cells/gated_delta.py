"""Gated delta rule (Qwen3-Next, Qwen3.5): linear attention that keeps one dk x dv matrix per value head and request.

Every decode step reads and writes that matrix in fp32; prefill works through it in chunks of 64 tokens. Nothing grows
with the sequence. Source: arXiv 2412.06464 and the layer's code in `transformers`.
"""

from dataclasses import replace
from typing import ClassVar, Final

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.number_formats import DTYPE_BYTES
from costmodel.ops.op_types import Ints, Op, Scan
from costmodel.ops.small_ops import small_op
from simulator.model.cell import DEFAULT_KERNELS, KernelChoices, register_cell
from simulator.model.collectives import tensor_all_reduce
from simulator.model.linear import Linear, WeightFormat, activation_dtype
from simulator.model.norm import Norm
from simulator.plan.plan import Plan

_STATE_DTYPE: Final = "fp32"
_CHUNK: Final = 64  # tokens that the kernels work through at once


@register_cell("gated_delta")
@dataclass(frozen=True, slots=True, kw_only=True)
class GatedDelta:
    """Norm, projections of query, key, value, gate and decay, short convolution, delta rule, gated norm, output."""

    hidden: int
    num_key_heads: int
    num_value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel: int
    dtype: str
    weights: WeightFormat
    norm: Norm
    output_weights: WeightFormat | None = None  # of the output projection, where not as the others

    is_recurrent: ClassVar[bool] = True

    def parameters(self) -> int:
        """Projections, convolution, one decay and one step bias per value head, both norms."""
        return sum(linear.parameters() for linear in self._linears(Plan())) + self._other_parameters(Plan())

    def active_parameters(self) -> int:
        """Every token meets all of them."""
        return self.parameters()

    def weight_bytes(self, plan: Plan) -> int:
        """Heads and convolution channels of this rank; norms replicated."""
        element = DTYPE_BYTES[activation_dtype(plan, self.dtype)]
        return sum(linear.stored_bytes() for linear in self._linears(plan)) + int(
            self._other_parameters(plan) * element
        )

    def kv_bytes_per_token(self, plan: Plan) -> float:  # noqa: ARG002 - the contract of a cell
        """Grow by nothing with the sequence: see ``kv_bytes_per_request``."""
        return 0.0

    def kv_bytes_per_request(self, plan: Plan) -> float:
        """Count the matrices of this rank's heads and the last inputs of its convolution."""
        matrix = self.num_value_heads * self.key_head_dim * self.value_head_dim * DTYPE_BYTES[_STATE_DTYPE]
        inputs = self._channels * (self.conv_kernel - 1) * DTYPE_BYTES[activation_dtype(plan, self.dtype)]
        return (matrix + inputs) / plan.tp

    def token_ops(self, plan: Plan, m: Ints, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:
        """All but the delta rule itself."""
        mixed, decay, output = self._linears(plan)
        dtype = activation_dtype(plan, self.dtype)
        ops = self.norm.add_into(m, dtype, mixed, kernels)
        if kernels.splits_delta_inputs:
            gates, strengths = self._values // plan.tp, self.num_value_heads // plan.tp
            ops += [replace(mixed, n=width).gemm(m) for width in (mixed.n - gates, gates)]
            ops += [replace(decay, n=strengths).gemm(m)] * 2
        else:
            ops += [mixed.gemm(m), decay.gemm(m)]
        ops.append(small_op("conv1d", rows=m, width=self._channels // plan.tp, dtype=dtype))
        ops.append(small_op("rmsnorm_gate", rows=m, width=self._values // plan.tp, dtype=dtype))
        ops += kernels.rounding(output, m)
        ops.append(output.gemm(m))
        return ops + tensor_all_reduce(plan, m, self.hidden, dtype)

    def attention(self, plan: Plan) -> None:  # noqa: ARG002 - the contract of a cell
        """Attends to nothing."""
        return

    def scan(self, plan: Plan) -> Scan:
        """Return the delta rule over this rank's value heads."""
        return Scan(
            variant="gated_delta",
            num_heads=self.num_value_heads // plan.tp,
            num_groups=self.num_key_heads // plan.tp,
            head_dim=self.value_head_dim,
            state_dim=self.key_head_dim,
            chunk=_CHUNK,
            dtype=activation_dtype(plan, self.dtype),
            state_dtype=_STATE_DTYPE,
        )

    def refusal(self, plan: Plan) -> str | None:
        """Whole heads per rank."""
        for name, heads in (("key", self.num_key_heads), ("value", self.num_value_heads)):
            if heads % plan.tp:
                return f"tp is {plan.tp}, must divide the {heads} {name} heads of linear attention"
        return next((reason for linear in self._linears(plan) if (reason := linear.refusal())), None)

    @property
    def _values(self) -> int:
        return self.num_value_heads * self.value_head_dim

    @property
    def _channels(self) -> int:
        """Channels the convolution runs over: queries, keys and values."""
        return 2 * self.num_key_heads * self.key_head_dim + self._values

    def _linears(self, plan: Plan) -> tuple[Linear, Linear, Linear]:
        """Return queries, keys, values and gates together; decay and step; output."""
        weights, dtype = self.weights.under(plan), activation_dtype(plan, self.dtype)
        output = (self.output_weights or self.weights).under(plan)
        plain = WeightFormat(scheme=dtype)
        return (
            Linear(n=(self._channels + self._values) // plan.tp, k=self.hidden, weights=weights, dtype=dtype),
            Linear(n=2 * self.num_value_heads // plan.tp, k=self.hidden, weights=plain, dtype=dtype),
            Linear(n=self.hidden, k=self._values // plan.tp, weights=output, dtype=dtype),
        )

    def _other_parameters(self, plan: Plan) -> int:
        sharded = self._channels * self.conv_kernel + 2 * self.num_value_heads
        return sharded // plan.tp + self.value_head_dim + self.norm.parameters()
