"""Entry of a multi-token-prediction layer: hidden state and next token, each normed, joined and projected.

``h' = W [norm(h); norm(embed(t))]``; the layer's output is normed once more before the head, which it shares with the
model, as it does the embedding. Engines replicate the projection. Source: DeepSeek-V3 report (arXiv 2412.19437, 2.2),
vLLM's deepseek_mtp.
"""

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.op_types import Ints, Op
from costmodel.ops.small_ops import small_op
from simulator.model.cell import DEFAULT_KERNELS, KernelChoices, register_cell
from simulator.model.collectives import tensor_all_reduce
from simulator.model.linear import Linear, WeightFormat, activation_dtype
from simulator.model.norm import Norm
from simulator.plan.plan import Plan

_NORMS = 3  # of the hidden state, of the embedding, and before the head


@register_cell("draft_input")
@dataclass(frozen=True, slots=True, kw_only=True)
class DraftInput:
    """Two norms and a projection of both halves, and the norm before the head."""

    hidden: int
    dtype: str
    norm: Norm

    def parameters(self) -> int:
        """Count the projection and the norms."""
        return self._projection(Plan()).parameters() + _NORMS * self.norm.parameters()

    def active_parameters(self) -> int:
        """Every token meets all of them."""
        return self.parameters()

    def weight_bytes(self, plan: Plan) -> int:
        """Count everything on every rank."""
        norms = _NORMS * self.norm.weight_bytes(activation_dtype(plan, self.dtype))
        return self._projection(plan).stored_bytes() + norms

    def kv_bytes_per_token(self, plan: Plan) -> float:  # noqa: ARG002 - the contract of a cell
        """Keep nothing."""
        return 0.0

    def token_ops(self, plan: Plan, m: Ints, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:  # noqa: ARG002 - the contract of a cell
        """Embedding of the next token, norms, projection."""
        dtype = activation_dtype(plan, self.dtype)
        return [
            small_op("embedding", rows=m, width=self.hidden, dtype=dtype),
            *tensor_all_reduce(plan, m, self.hidden, dtype),
            *(self.norm.plain(m, dtype) for _ in range(_NORMS)),
            self._projection(plan).gemm(m),
        ]

    def attention(self, plan: Plan) -> None:  # noqa: ARG002 - the contract of a cell
        """Attends to nothing."""
        return

    def refusal(self, plan: Plan) -> None:  # noqa: ARG002 - the contract of a cell
        """Nothing is sharded."""
        return

    def _projection(self, plan: Plan) -> Linear:
        dtype = activation_dtype(plan, self.dtype)
        return Linear(n=self.hidden, k=2 * self.hidden, weights=WeightFormat(scheme=dtype), dtype=dtype)
