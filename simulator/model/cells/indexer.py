"""The indexer of sparse attention (DeepSeek-V3.2, GLM-5): scores every cached key, so that each query attends to a few.

Queries come from the query latent, one key per token from the hidden state; both are rotated and rounded to fp8. The
score of a key is a weighted sum over the indexer's heads, and the best ``index_topk`` keys go to the attention that
follows. Engines replicate all of it over the tensor axis. Source: DeepSeek-V3.2 report, section 2.1.
The choice of the best keys itself is not priced: 4 bytes per key beside the 132 that are read to score it.
"""

import math

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.number_formats import DTYPE_BYTES
from costmodel.ops.op_types import Attention, Ints, Op
from costmodel.ops.small_ops import SCALE_GROUP, small_op
from simulator.model.cell import DEFAULT_KERNELS, AttentionTemplate, KernelChoices, register_cell
from simulator.model.linear import Linear, WeightFormat, activation_dtype
from simulator.plan.plan import Plan

_SCALE_BYTES = 4  # one fp32 scale per key


@register_cell("indexer")
@dataclass(frozen=True, slots=True, kw_only=True)
class Indexer:
    """Query, key and head-weight projections, key norm, rope, rounding, key write, scores of all cached keys."""

    hidden: int
    q_lora_rank: int
    num_heads: int
    head_dim: int
    rope_head_dim: int
    dtype: str
    weights: WeightFormat

    def parameters(self) -> int:
        """Three projections and the LayerNorm of the key."""
        return sum(linear.parameters() for linear in self._linears(Plan())) + 2 * self.head_dim

    def active_parameters(self) -> int:
        """Every token meets all of them."""
        return self.parameters()

    def weight_bytes(self, plan: Plan) -> int:
        """All of it on every rank."""
        norm = int(2 * self.head_dim * DTYPE_BYTES[activation_dtype(plan, self.dtype)])
        return sum(linear.stored_bytes() for linear in self._linears(plan)) + norm

    def kv_bytes_per_token(self, plan: Plan) -> float:  # noqa: ARG002 - the contract of a cell
        """One fp8 key and its scale, on every rank."""
        return self.head_dim * DTYPE_BYTES["fp8"] + _SCALE_BYTES

    def token_ops(self, plan: Plan, m: Ints, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:
        """All but the scores."""
        query, key, weights = self._linears(plan)
        dtype = activation_dtype(plan, self.dtype)
        width = (self.num_heads + 1) * self.head_dim
        rotated = (self.num_heads + 1) * self.rope_head_dim
        ops: list[Op] = []
        ops += kernels.rounding(query, m)
        return [
            *ops,
            query.gemm(m),
            key.gemm(m),
            weights.gemm(m),
            small_op("layernorm", rows=m, width=self.head_dim, dtype=dtype),
            small_op("rope", rows=m, width=rotated, dtype=dtype),
            small_op("quantise", rows=m, width=width, dtype=dtype, out="fp8", scales=math.ceil(width / SCALE_GROUP)),
        ]

    def attention(self, plan: Plan) -> AttentionTemplate:  # noqa: ARG002 - the contract of a cell
        """Scores alone: queries times keys in fp8, nothing is weighted by them."""
        scores = Attention(
            num_heads=self.num_heads,
            num_kv_heads=1,
            head_dim=self.head_dim,
            v_head_dim=0,
            dtype="fp8",
            kv_dtype="fp8",
        )
        return AttentionTemplate(prefill=scores, decode=scores)

    def refusal(self, plan: Plan) -> str | None:  # noqa: ARG002 - the contract of a cell
        """Nothing is split."""
        return None

    def _linears(self, plan: Plan) -> tuple[Linear, Linear, Linear]:
        """Return queries from their latent, the key, one weight per head."""
        weights, dtype = self.weights.under(plan), activation_dtype(plan, self.dtype)
        return (
            Linear(n=self.num_heads * self.head_dim, k=self.q_lora_rank, weights=weights, dtype=dtype),
            Linear(n=self.head_dim, k=self.hidden, weights=weights, dtype=dtype),
            Linear(n=self.num_heads, k=self.hidden, weights=WeightFormat(scheme=dtype), dtype=dtype),
        )
