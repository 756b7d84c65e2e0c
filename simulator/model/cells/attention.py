"""Self-attention with grouped keys: MHA, GQA and MQA, with or without a sliding window, rope, qk-norm and biases.

Per rank: `nh / tp` query heads and `max(1, nkv / tp)` key/value heads (replicated when there are fewer than ranks).
"""

from dataclasses import replace
from typing import Literal

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.number_formats import DTYPE_BYTES
from costmodel.ops.op_types import Attention, Collective, Ints, Op
from costmodel.ops.small_ops import small_op
from simulator.model.cell import DEFAULT_KERNELS, AttentionTemplate, KernelChoices, register_cell
from simulator.model.collectives import context_exchange, tensor_all_reduce
from simulator.model.linear import Linear, WeightFormat, activation_dtype, kv_dtype
from simulator.model.norm import Norm
from simulator.plan.plan import Plan


@register_cell("attention")
@dataclass(frozen=True, slots=True, kw_only=True)
class SelfAttention:
    """Norm, fused qkv projection, optional per-head norm and rope, attention, output projection, all-reduce.

    Where attention and feed-forward run side by side on one norm, the sum of both is reduced once, by the feed-forward.
    """

    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    dtype: str
    weights: WeightFormat
    norm: Norm
    output_weights: WeightFormat | None = None  # of the output projection, where not as the others
    post_norm: Norm | None = None
    # Norm of q and k: per head with one scale for all heads, per head with a scale each, or over all heads together.
    qk_norm: Literal["none", "unweighted", "head", "each_head", "layer"] = "none"
    qkv_bias: bool = False
    has_key_bias: bool = True
    output_bias: bool = False
    has_rope: bool = True
    output_gate: bool = False  # results are scaled by a sigmoid that the query projection computes beside the queries
    keys_are_values: bool = False  # one matrix for both; engines hold it twice
    has_own_kv: bool = True  # False: reads the cache of an earlier layer, and projects queries alone
    head_gate: bool = False  # results are scaled by a sigmoid per head, projected beside the queries
    has_sinks: bool = False  # one learned logit per query head
    position_buckets: int = 0  # learned relative-position biases per head
    window: int = 0  # keys a query sees; 0 = all
    query_rank: int = 0  # width of a latent of the queries, projected on every rank and normalised; 0 = none
    chosen_keys: int = 0  # keys an indexer chooses for each query, of all that stay cached; 0 = all
    is_reduced: bool = True  # False: the feed-forward beside it reduces the sum of both

    def parameters(self) -> int:
        """Projections, norms and sinks."""
        absent = 0 if self.has_key_bias or not self.qkv_bias else self.num_kv_heads * self.head_dim
        if self.keys_are_values and self.has_own_kv:
            absent += self.num_kv_heads * self.head_dim * (self.hidden + int(self.qkv_bias))
        matrices = (*self.linears(Plan()), *self._queries(Plan()))
        return sum(linear.parameters() for linear in matrices) + self._replicated_parameters() - absent

    def active_parameters(self) -> int:
        """Every token meets all of them."""
        return self.parameters()

    def weight_bytes(self, plan: Plan) -> int:
        """Projections of this rank's heads; norms replicated; keys and values replicated below one head per rank."""
        element = DTYPE_BYTES[activation_dtype(plan, self.dtype)]
        matrices = (*self.linears(plan), *self._queries(plan))
        return sum(linear.stored_bytes() for linear in matrices) + int(self._replicated_parameters() * element)

    def kv_bytes_per_token(self, plan: Plan) -> float:
        """Keys and values of this rank's heads."""
        if not self.has_own_kv:
            return 0.0
        return 2 * self._kv_heads(plan) * self.head_dim * DTYPE_BYTES[kv_dtype(plan, self.dtype)] / plan.dcp

    def token_ops(self, plan: Plan, m: Ints, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:
        """All but the attention call itself."""
        qkv, output = self.linears(plan)
        dtype = activation_dtype(plan, self.dtype)
        heads, kv_heads = self.num_heads // plan.tp, self._kv_heads(plan)
        qk_width = (heads + (kv_heads if self.has_own_kv else 0)) * self.head_dim
        ops = [*self.norm.add_into(m, dtype, qkv, kernels), qkv.gemm(m)]
        for query in self._queries(plan):
            ops.append(small_op("rmsnorm", rows=m, width=self.query_rank, dtype=dtype))
            ops += [*kernels.rounding(query, m), query.gemm(m)]
        if self.qk_norm == "layer" and plan.tp > 1:
            # The two fp32 sums of squares of each token span the heads of all ranks: one kernel before they are reduced
            # for the queries, one for the keys (vLLM ``MiniMaxText01RMSNormTP.forward_qk``).
            widths = (heads, kv_heads) if self.has_own_kv else (heads,)
            ops += [small_op("square_sum", rows=m, width=width * self.head_dim, dtype=dtype) for width in widths]
            ops.append(Collective(kind="all_reduce", message_bytes=8 * m, ranks=plan.tp, dtype="fp32"))
        if self.qk_norm != "none":
            ops.append(small_op("qk_norm", rows=m, width=qk_width, dtype=dtype))
        if self.has_rope:
            ops.append(small_op("rope", rows=m, width=qk_width, dtype=dtype))
        if self.has_own_kv and not (self.has_rope and kernels.rope_writes_kv):
            kv_width, cache = 2 * kv_heads * self.head_dim, kv_dtype(plan, self.dtype)
            ops.append(small_op("kv_write", rows=m, width=kv_width, dtype=dtype, out=cache))
        ops += context_exchange(plan, m, heads=heads, query_width=self.head_dim, value_width=self.head_dim, dtype=dtype)
        if self.output_gate or self.head_gate:
            ops.append(small_op("sigmoid_mul", rows=m, width=heads * self.head_dim, dtype=dtype))
        ops += kernels.rounding(output, m)
        ops.append(output.gemm(m))
        if self.is_reduced:
            ops += tensor_all_reduce(plan, m, self.hidden, dtype)
        if self.post_norm is not None:
            ops.append(self.post_norm.plain(m, dtype))
        return ops

    def attention(self, plan: Plan) -> AttentionTemplate:
        """Return the same call shape for prefill and decode: engines run both in one batch."""
        call = Attention(
            num_heads=self.num_heads // plan.tp,
            num_kv_heads=self._kv_heads(plan),
            head_dim=self.head_dim,
            v_head_dim=self.head_dim,
            dtype=activation_dtype(plan, self.dtype),
            kv_dtype=kv_dtype(plan, self.dtype),
            window=self.chosen_keys or self.window,
        )
        decode = call if plan.dcp == 1 else replace(call, num_heads=call.num_heads * plan.dcp)
        return AttentionTemplate(prefill=call, decode=decode, is_sparse=bool(self.chosen_keys), context_shares=plan.dcp)

    def refusal(self, plan: Plan) -> str | None:
        """Whole query heads per rank; key/value heads split evenly or replicated evenly."""
        if self.num_heads % plan.tp:
            return f"tp is {plan.tp}, must divide the {self.num_heads} attention heads"
        if self.num_kv_heads % plan.tp and plan.tp % self.num_kv_heads:
            return f"tp is {plan.tp}, must divide or be a multiple of the {self.num_kv_heads} key/value heads"
        if plan.dcp > 1 and (self.window or self.chosen_keys or not self.has_own_kv):
            return f"dcp is {plan.dcp}, must be 1 where queries see some of the cached keys alone"
        if plan.dcp > 1 and (plan.tp < self.num_kv_heads or (plan.tp // self.num_kv_heads) % plan.dcp):
            copies = max(1, plan.tp // self.num_kv_heads)
            heads = f"{self.num_kv_heads} key/value heads"
            return f"dcp is {plan.dcp}, must divide the ranks that hold the same of the {heads}: {copies}"
        return next(
            (reason for linear in (*self.linears(plan), *self._queries(plan)) if (reason := linear.refusal())), None
        )

    def _kv_heads(self, plan: Plan) -> int:
        return max(1, self.num_kv_heads // plan.tp)

    def linears(self, plan: Plan) -> tuple[Linear, Linear]:
        """Fused query, key and value projection, and output projection, as one rank holds them."""
        weights, dtype = self.weights.under(plan), activation_dtype(plan, self.dtype)
        output = (self.output_weights or self.weights).under(plan)
        heads = self.num_heads // plan.tp
        keys_and_values = 2 * self._kv_heads(plan) if self.has_own_kv else 0
        qkv_width = ((2 if self.output_gate else 1) * heads + keys_and_values) * self.head_dim
        if self.query_rank:
            qkv_width += self.query_rank - heads * self.head_dim
        qkv_width += heads if self.head_gate else 0
        return (
            Linear(n=qkv_width, k=self.hidden, weights=weights, dtype=dtype, bias=self.qkv_bias),
            Linear(n=self.hidden, k=heads * self.head_dim, weights=output, dtype=dtype, bias=self.output_bias),
        )

    def _queries(self, plan: Plan) -> tuple[Linear, ...]:
        """Return the projection of this rank's queries from their latent, where they have one."""
        if not self.query_rank:
            return ()
        weights, dtype = self.weights.under(plan), activation_dtype(plan, self.dtype)
        width = self.num_heads // plan.tp * self.head_dim
        return (Linear(n=width, k=self.query_rank, weights=weights, dtype=dtype),)

    def _replicated_parameters(self) -> int:
        norms = self.norm.parameters() + (self.post_norm.parameters() if self.post_norm else 0)
        every = self.num_heads + self.num_kv_heads
        both = 2 if self.has_own_kv else 1
        heads = {"none": 0, "unweighted": 0, "head": both, "each_head": every, "layer": every}[self.qk_norm]
        per_head = self.num_heads * (self.position_buckets + int(self.has_sinks))
        return norms + heads * self.head_dim + per_head + self.query_rank
