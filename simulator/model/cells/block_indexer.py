"""The indexer of block-sparse attention (MiniMax-M3): scores every cached key, so that queries see a few blocks.

Index queries and one index key per token are projected beside the attention's own, normalised and rotated; the best
blocks of keys go to the attention that follows. Index heads are sharded like key/value heads, the key is replicated and
kept in the activations' format. The choice of the best blocks itself is not priced. Source: vLLM ``minimax_m3``.
"""

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.number_formats import DTYPE_BYTES
from costmodel.ops.op_types import Attention, Ints, Op
from costmodel.ops.small_ops import small_op
from simulator.model.cell import DEFAULT_KERNELS, AttentionTemplate, KernelChoices, register_cell
from simulator.model.linear import Linear, WeightFormat, activation_dtype
from simulator.plan.plan import Plan


@register_cell("block_indexer")
@dataclass(frozen=True, slots=True, kw_only=True)
class BlockIndexer:
    """Fused query and key projection, norms, rope, key write, scores of all cached keys."""

    hidden: int
    num_heads: int
    head_dim: int
    dtype: str
    weights: WeightFormat

    def parameters(self) -> int:
        """Both projections and the two norms."""
        return self._projection(Plan()).parameters() + 2 * self.head_dim

    def active_parameters(self) -> int:
        """Every token meets all of them."""
        return self.parameters()

    def weight_bytes(self, plan: Plan) -> int:
        """Heads of this rank; key and norms replicated."""
        norms = int(2 * self.head_dim * DTYPE_BYTES[activation_dtype(plan, self.dtype)])
        return self._projection(plan).stored_bytes() + norms

    def kv_bytes_per_token(self, plan: Plan) -> float:
        """One key, on every rank."""
        return self.head_dim * DTYPE_BYTES[activation_dtype(plan, self.dtype)]

    def token_ops(self, plan: Plan, m: Ints, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:
        """All but the scores; the input is the attention's, already normalised."""
        projection, dtype = self._projection(plan), activation_dtype(plan, self.dtype)
        return [
            *kernels.rounding(projection, m),
            projection.gemm(m),
            small_op("qk_norm", rows=m, width=projection.n, dtype=dtype),
            small_op("rope", rows=m, width=projection.n, dtype=dtype),
            small_op("kv_write", rows=m, width=self.head_dim, dtype=dtype),
        ]

    def attention(self, plan: Plan) -> AttentionTemplate:
        """Scores alone: nothing is weighted by them."""
        dtype = activation_dtype(plan, self.dtype)
        scores = Attention(
            num_heads=self._heads(plan),
            num_kv_heads=1,
            head_dim=self.head_dim,
            v_head_dim=0,
            dtype=dtype,
            kv_dtype=dtype,
        )
        return AttentionTemplate(prefill=scores, decode=scores)

    def refusal(self, plan: Plan) -> str | None:
        """Index heads split evenly or are replicated evenly."""
        if self.num_heads % plan.tp and plan.tp % self.num_heads:
            return f"tp is {plan.tp}, must divide or be a multiple of the {self.num_heads} index heads"
        return None

    def _heads(self, plan: Plan) -> int:
        return max(1, self.num_heads // plan.tp)

    def _projection(self, plan: Plan) -> Linear:
        width = (self._heads(plan) + 1) * self.head_dim
        dtype = activation_dtype(plan, self.dtype)
        return Linear(n=width, k=self.hidden, weights=self.weights.under(plan), dtype=dtype)
