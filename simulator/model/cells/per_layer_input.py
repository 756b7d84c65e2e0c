"""Per-layer inputs (Gemma 4 E models): a narrow embedding of the token itself, mixed into every layer's output.

The hidden state is projected down, gates the layer's own slice of a second embedding table, is projected up, normalised
and added. Engines replicate both matrices.
"""

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.op_types import Ints, Op
from costmodel.ops.small_ops import small_op
from simulator.model.cell import DEFAULT_KERNELS, KernelChoices, register_cell
from simulator.model.linear import Linear, WeightFormat, activation_dtype
from simulator.model.norm import Norm
from simulator.plan.plan import Plan


@register_cell("per_layer_input")
@dataclass(frozen=True, slots=True, kw_only=True)
class PerLayerInput:
    """Projection down, gate, projection up, norm, add."""

    hidden: int
    width: int  # of one layer's slice of the second embedding
    dtype: str
    weights: WeightFormat
    norm: Norm
    activation: str

    def parameters(self) -> int:
        """Both matrices and the norm."""
        return sum(linear.parameters() for linear in self._linears(Plan())) + self.norm.parameters()

    def active_parameters(self) -> int:
        """Every token meets all of them."""
        return self.parameters()

    def weight_bytes(self, plan: Plan) -> int:
        """Count everything on every rank."""
        norm = self.norm.weight_bytes(activation_dtype(plan, self.dtype))
        return sum(linear.stored_bytes() for linear in self._linears(plan)) + norm

    def kv_bytes_per_token(self, plan: Plan) -> float:  # noqa: ARG002 - the contract of a cell
        """Keep nothing."""
        return 0.0

    def token_ops(self, plan: Plan, m: Ints, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:
        """Everything."""
        down, up = self._linears(plan)
        dtype = activation_dtype(plan, self.dtype)
        return [
            *kernels.rounding(down, m),
            down.gemm(m),
            small_op(f"{self.activation}_mul", rows=m, width=self.width, dtype=dtype),
            *kernels.rounding(up, m),
            up.gemm(m),
            self.norm.plain(m, dtype),
            small_op("add", rows=m, width=self.hidden, dtype=dtype),
        ]

    def attention(self, plan: Plan) -> None:  # noqa: ARG002 - the contract of a cell
        """Attends to nothing."""
        return

    def refusal(self, plan: Plan) -> None:  # noqa: ARG002 - the contract of a cell
        """Nothing is sharded."""
        return

    def _linears(self, plan: Plan) -> tuple[Linear, Linear]:
        weights, dtype = self.weights.under(plan), activation_dtype(plan, self.dtype)
        return (
            Linear(n=self.width, k=self.hidden, weights=weights, dtype=dtype),
            Linear(n=self.hidden, k=self.width, weights=weights, dtype=dtype),
        )
