"""Cross attention: decoder queries over keys and values that come from the encoder once per request."""

from dataclasses import replace
from typing import ClassVar

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.op_types import Ints, Op
from costmodel.ops.small_ops import small_op
from simulator.model.cell import DEFAULT_KERNELS, AttentionTemplate, KernelChoices, register_cell
from simulator.model.cells.attention import SelfAttention
from simulator.model.collectives import tensor_all_reduce
from simulator.model.linear import Linear, activation_dtype, kv_dtype
from simulator.plan.plan import Plan


@register_cell("cross_attention")
@dataclass(frozen=True, slots=True, kw_only=True)
class CrossAttention:
    """Norm, query projection, attention over ``encoder_tokens`` keys, output projection, all-reduce.

    ``projections`` has the sizes of the equivalent self-attention; its key and value columns are run on the encoder's
    tokens instead (``item_ops``).
    """

    projections: SelfAttention
    encoder_tokens: int

    is_recurrent: ClassVar[bool] = False

    def parameters(self) -> int:
        """As a self-attention of the same size."""
        return self.projections.parameters()

    def active_parameters(self) -> int:
        """Every token meets all of them (keys and values: every token of the encoder)."""
        return self.parameters()

    def weight_bytes(self, plan: Plan) -> int:
        """As a self-attention of the same size."""
        return self.projections.weight_bytes(plan)

    def kv_bytes_per_token(self, plan: Plan) -> float:  # noqa: ARG002 - the contract of a cell
        """Grow by nothing with the sequence: see ``kv_bytes_per_request``."""
        return 0.0

    def kv_bytes_per_request(self, plan: Plan) -> float:
        """Keys and values of all encoder tokens on one rank."""
        return self.encoder_tokens * self.projections.kv_bytes_per_token(plan)

    def token_ops(self, plan: Plan, m: Ints, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:
        """Query side only; ``m`` decoder tokens."""
        query, _, output = self._linears(plan)
        cell = self.projections
        dtype = activation_dtype(plan, cell.dtype)
        ops = [*cell.norm.add_into(m, dtype, query, kernels), query.gemm(m)]
        ops += kernels.rounding(output, m)
        return [*ops, output.gemm(m), *tensor_all_reduce(plan, m, cell.hidden, dtype)]

    def item_ops(self, plan: Plan, tokens: Ints) -> list[Op]:
        """Keys and values of ``tokens`` encoder tokens, projected and written once per request."""
        _, both, _ = self._linears(plan)
        dtype = activation_dtype(plan, self.projections.dtype)
        cache = kv_dtype(plan, self.projections.dtype)
        write = small_op("kv_write", rows=tokens, width=both.n, dtype=dtype, out=cache)
        return [*both.quantise(tokens), both.gemm(tokens), write]

    def attention(self, plan: Plan) -> AttentionTemplate:
        """Every query sees all ``encoder_tokens`` keys, however long the sequence."""
        return replace(self.projections.attention(plan), fixed_kv_tokens=self.encoder_tokens)

    def refusal(self, plan: Plan) -> str | None:
        """As a self-attention of the same size."""
        return self.projections.refusal(plan)

    def _linears(self, plan: Plan) -> tuple[Linear, Linear, Linear]:
        """Query, key and value together, output."""
        qkv, output = self.projections.linears(plan)
        heads = self.projections.num_heads // plan.tp
        width = heads * self.projections.head_dim
        return replace(qkv, n=width), replace(qkv, n=qkv.n - width), output
