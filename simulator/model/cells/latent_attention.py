"""Multi-head latent attention (DeepSeek): keys and values live as one 512 + 64 wide latent, shared by all heads.

Decode runs in the latent space: W_UK is absorbed into the queries and W_UV into the results, which makes it MQA with
a 576-wide head. Prefill expands the latent by `kv_b_proj` and runs ordinary attention with 192-wide keys and
128-wide values. For the step's new tokens the two cost the same FLOPs (both are the kv_b matrix), so they are one
GEMM of the token ops; only cached context of a prefill chunk has to be expanded on top (`context_gemm`).
The latent is replicated over the tensor axis. Source: DeepSeek-V2 report (arXiv 2405.04434), section 2.1.
Behind an indexer (DeepSeek-V3.2) a query sees ``index_topk`` keys, and prefill runs in the latent space as well.
"""

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.number_formats import DTYPE_BYTES
from costmodel.ops.op_types import Attention, Ints, Op
from costmodel.ops.small_ops import small_op
from simulator.model.cell import DEFAULT_KERNELS, AttentionTemplate, KernelChoices, register_cell
from simulator.model.collectives import context_exchange, tensor_all_reduce
from simulator.model.linear import Linear, WeightFormat, activation_dtype, kv_dtype
from simulator.model.norm import Norm
from simulator.plan.plan import Plan


@register_cell("latent_attention")
@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Norm, fused down projection, two norms, q_b, rope, latent write, attention, output projection, all-reduce."""

    hidden: int
    num_heads: int
    q_lora_rank: int  # 0 = queries are projected directly
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    dtype: str
    weights: WeightFormat
    norm: Norm
    index_topk: int = 0  # keys an indexer chooses for each query; 0 = all
    # Of the query, latent and output projections, where not as the down projection.
    query_weights: WeightFormat | None = None
    latent_weights: WeightFormat | None = None
    output_weights: WeightFormat | None = None

    @property
    def latent_width(self) -> int:
        """Elements of KV cache per token and layer."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def qk_head_dim(self) -> int:
        """Width of an expanded query or key head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def parameters(self) -> int:
        """Projections and norms."""
        return sum(linear.parameters() for linear in self._linears(Plan())) + self._norm_parameters()

    def active_parameters(self) -> int:
        """Every token meets all of them."""
        return self.parameters()

    def weight_bytes(self, plan: Plan) -> int:
        """Down projection and norms replicated, per-head matrices sharded, and W_UK, W_UV once more in 16 bits.

        Engines keep kv_b for prefill and the two absorbed matrices for decode.
        """
        element = DTYPE_BYTES[activation_dtype(plan, self.dtype)]
        latent = self._latent(plan)
        replicated = self._norm_parameters() + latent.n * latent.k
        return sum(linear.stored_bytes() for linear in self._linears(plan)) + int(replicated * element)

    def kv_bytes_per_token(self, plan: Plan) -> float:
        """Return the whole latent, on every rank unless some share the cached tokens out."""
        return self.latent_width * DTYPE_BYTES[kv_dtype(plan, self.dtype)] / plan.dcp

    def token_ops(self, plan: Plan, m: Ints, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:
        """All but the attention call and the expansion of cached context."""
        down, *query, latent, output = self._linears(plan)
        dtype = activation_dtype(plan, self.dtype)
        ops = [*self.norm.add_into(m, dtype, down, kernels), down.gemm(m)]
        ops.append(small_op("rmsnorm", rows=m, width=self.q_lora_rank + self.kv_lora_rank, dtype=dtype))
        for linear in query:
            if self.q_lora_rank:
                ops += kernels.rounding(linear, m)
            ops.append(linear.gemm(m))
        rotated = (self.num_heads // plan.tp + 1) * self.qk_rope_head_dim
        ops.append(small_op("rope", rows=m, width=rotated, dtype=dtype))
        if not kernels.rope_writes_kv:
            cache = kv_dtype(plan, self.dtype)
            ops.append(small_op("kv_write", rows=m, width=self.latent_width, dtype=dtype, out=cache))
        ops.append(latent.gemm(m))
        ops += context_exchange(
            plan,
            m,
            heads=self.num_heads // plan.tp,
            query_width=self.latent_width,
            value_width=self.kv_lora_rank,
            dtype=dtype,
        )
        ops += kernels.rounding(output, m)
        ops.append(output.gemm(m))
        return ops + tensor_all_reduce(plan, m, self.hidden, dtype)

    def attention(self, plan: Plan) -> AttentionTemplate:
        """Absorbed for decode, expanded for prefill."""
        heads, dtype = self.num_heads // plan.tp, activation_dtype(plan, self.dtype)
        cache = kv_dtype(plan, self.dtype)
        decode = Attention(
            num_heads=heads * plan.dcp,
            num_kv_heads=1,
            head_dim=self.latent_width,
            v_head_dim=self.kv_lora_rank,
            dtype=dtype,
            kv_dtype=cache,
            variant="mla",
            window=self.index_topk,
        )
        if self.index_topk:
            return AttentionTemplate(prefill=decode, decode=decode, is_sparse=True)
        prefill = Attention(
            num_heads=heads,
            num_kv_heads=heads,
            head_dim=self.qk_head_dim,
            v_head_dim=self.v_head_dim,
            dtype=dtype,
            kv_dtype=dtype,
        )
        expansion = self._latent(plan).gemm(0)
        return AttentionTemplate(prefill=prefill, decode=decode, context_gemm=expansion, context_shares=plan.dcp)

    def refusal(self, plan: Plan) -> str | None:
        """Whole heads per rank; any tensor degree may share the latent."""
        if self.num_heads % plan.tp:
            return f"tp is {plan.tp}, must divide the {self.num_heads} attention heads"
        if plan.dcp > 1 and self.index_topk:
            return f"dcp is {plan.dcp}, must be 1 where queries see some of the cached keys alone"
        # The replicated down projection is quantised as two matrices whose widths need not be whole blocks.
        return next((reason for linear in self._linears(plan)[1:] if (reason := linear.refusal())), None)

    def _linears(self, plan: Plan) -> tuple[Linear, ...]:
        """Down projection, q_b where queries have a latent too, kv_b, output."""
        weights, dtype = self.weights.under(plan), activation_dtype(plan, self.dtype)
        heads = self.num_heads // plan.tp
        queries = heads * self.qk_head_dim
        query, last = ((own or self.weights).under(plan) for own in (self.query_weights, self.output_weights))
        output = Linear(n=self.hidden, k=heads * self.v_head_dim, weights=last, dtype=dtype)
        if not self.q_lora_rank:
            down = Linear(n=self.latent_width, k=self.hidden, weights=weights, dtype=dtype)
            return down, Linear(n=queries, k=self.hidden, weights=query, dtype=dtype), self._latent(plan), output
        down = Linear(n=self.q_lora_rank + self.latent_width, k=self.hidden, weights=weights, dtype=dtype)
        return down, Linear(n=queries, k=self.q_lora_rank, weights=query, dtype=dtype), self._latent(plan), output

    def _latent(self, plan: Plan) -> Linear:
        """kv_b: [heads x (qk_nope + v), kv_lora_rank], also the source of W_UK and W_UV."""
        width = self.num_heads // plan.tp * (self.qk_nope_head_dim + self.v_head_dim)
        weights = (self.latent_weights or self.weights).under(plan)
        dtype = activation_dtype(plan, self.dtype)
        return Linear(n=width, k=self.kv_lora_rank, weights=weights, dtype=dtype)

    def _norm_parameters(self) -> int:
        return self.norm.parameters() + self.q_lora_rank + self.kv_lora_rank
