"""Mamba-2: a state-space layer that keeps one head_dim x state_dim matrix per head and request.

One projection gives gate, inputs, the keys (B) and queries (C) of each group of heads, and a time step per head; a
short convolution runs over inputs, keys and queries, the scan over the convolved, and a gated norm over its results.
Source: arXiv 2405.21060; sharding and the bytes of a state as vLLM 0.33 has them (``mamba_mixer2.py`` and
``mamba_utils.py``).
"""

from typing import ClassVar, Final

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.number_formats import DTYPE_BYTES
from costmodel.ops.op_types import Collective, Ints, Op, Scan
from costmodel.ops.small_ops import small_op
from simulator.model.cell import DEFAULT_KERNELS, KernelChoices, register_cell
from simulator.model.collectives import tensor_all_reduce
from simulator.model.linear import Linear, WeightFormat, activation_dtype
from simulator.model.norm import Norm
from simulator.plan.plan import Plan

_PER_HEAD: Final = 3  # decay, skip and bias of the time step


@register_cell("mamba2")
@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2:
    """Norm, projection, short convolution, scan, gated norm, output projection, all-reduce.

    A single group is on every rank of the tensor axis, several are split over it.
    """

    hidden: int
    num_heads: int
    num_groups: int
    head_dim: int
    state_dim: int
    conv_kernel: int
    chunk: int  # tokens that the scan of a prompt works through at once
    dtype: str
    weights: WeightFormat
    norm: Norm
    output_weights: WeightFormat | None = None  # of the output projection, where not as the other
    state_dtype: str = ""  # of the matrix a request keeps; that of the activations where empty
    bias: bool = False  # of both projections
    conv_bias: bool = True

    is_recurrent: ClassVar[bool] = True

    def parameters(self) -> int:
        """Projections, convolution, three scalars per head, both norms."""
        return sum(linear.parameters() for linear in self._linears(Plan())) + self._other_parameters(Plan())

    def active_parameters(self) -> int:
        """Every token meets all of them."""
        return self.parameters()

    def weight_bytes(self, plan: Plan) -> int:
        """Heads and convolution channels of this rank; the first norm replicated."""
        element = DTYPE_BYTES[activation_dtype(plan, self.dtype)]
        stored = sum(linear.stored_bytes() for linear in self._linears(plan))
        return stored + int(self._other_parameters(plan) * element)

    def kv_bytes_per_token(self, plan: Plan) -> float:  # noqa: ARG002 - the contract of a cell
        """Grow by nothing with the sequence: see ``kv_bytes_per_request``."""
        return 0.0

    def kv_bytes_per_request(self, plan: Plan) -> float:
        """Count the matrices of this rank's heads and the last inputs of its convolution."""
        scan = self.scan(plan)
        inputs = self._channels(plan) * (self.conv_kernel - 1) * DTYPE_BYTES[scan.dtype]
        return scan.state_elements * DTYPE_BYTES[scan.state_dtype] + inputs

    def token_ops(self, plan: Plan, m: Ints, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:
        """All but the scan itself."""
        mixed, output = self._linears(plan)
        dtype = activation_dtype(plan, self.dtype)
        ops = [*self.norm.add_into(m, dtype, mixed, kernels), mixed.gemm(m)]
        ops.append(small_op("conv1d", rows=m, width=self._channels(plan), dtype=dtype))
        if self.num_groups == 1 and plan.tp > 1:
            # The gated norm's fp32 sum of squares of each token spans the heads of all ranks.
            ops.append(Collective(kind="all_reduce", message_bytes=4 * m, ranks=plan.tp, dtype="fp32"))
        ops.append(small_op("rmsnorm_gate", rows=m, width=self._values // plan.tp, dtype=dtype))
        ops += kernels.rounding(output, m)
        ops.append(output.gemm(m))
        return ops + tensor_all_reduce(plan, m, self.hidden, dtype)

    def attention(self, plan: Plan) -> None:  # noqa: ARG002 - the contract of a cell
        """Attends to nothing."""
        return

    def scan(self, plan: Plan) -> Scan:
        """Return the scan over this rank's heads."""
        dtype = activation_dtype(plan, self.dtype)
        return Scan(
            variant="mamba2",
            num_heads=self.num_heads // plan.tp,
            num_groups=self._groups(plan),
            head_dim=self.head_dim,
            state_dim=self.state_dim,
            chunk=self.chunk,
            dtype=dtype,
            state_dtype=self.state_dtype or dtype,
        )

    def refusal(self, plan: Plan) -> str | None:
        """Whole heads per rank, and whole groups unless there is but one."""
        if self.num_heads % plan.tp:
            return f"tp is {plan.tp}, must divide the {self.num_heads} state-space heads"
        if self.num_groups > 1 and self.num_groups % plan.tp:
            return f"tp is {plan.tp}, must divide the {self.num_groups} groups of state-space heads"
        mixed, output = self._linears(plan)
        if self.num_groups % plan.tp and mixed.weights.is_quantised:
            return f"tp is {plan.tp}, must be 1 where a single group of state-space heads is quantised"
        return mixed.refusal() or output.refusal()

    @property
    def _values(self) -> int:
        return self.num_heads * self.head_dim

    def _groups(self, plan: Plan) -> int:
        return max(1, self.num_groups // plan.tp)

    def _channels(self, plan: Plan) -> int:
        """Channels of this rank that the convolution runs over: inputs, keys and queries."""
        return self._values // plan.tp + 2 * self._groups(plan) * self.state_dim

    def _linears(self, plan: Plan) -> tuple[Linear, Linear]:
        """Return gate, inputs, keys, queries and time steps together; output."""
        weights, dtype = self.weights.under(plan), activation_dtype(plan, self.dtype)
        values = self._values // plan.tp
        width = values + self._channels(plan) + self.num_heads // plan.tp
        output = (self.output_weights or self.weights).under(plan)
        return (
            Linear(n=width, k=self.hidden, weights=weights, dtype=dtype, bias=self.bias),
            Linear(n=self.hidden, k=values, weights=output, dtype=dtype, bias=self.bias),
        )

    def _other_parameters(self, plan: Plan) -> int:
        """Parameters of this rank beside the projections: convolution, scalars of heads, gated norm; first norm."""
        convolution = self._channels(plan) * (self.conv_kernel + int(self.conv_bias))
        heads = (_PER_HEAD * self.num_heads + self._values) // plan.tp
        return convolution + heads + self.norm.parameters()
