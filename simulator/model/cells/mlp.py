"""Dense feed-forward: gated (SwiGLU, GeGLU) or plain (GELU, ReLU), its inner width sharded over the tensor axis.

Beside attention that runs data-parallel, a stage may hold fewer copies than attention ranks, each sharded over more
devices, whose tokens it then gathers; `simulator.model.collectives` has the transfers.
"""

from dataclasses import replace
from typing import Final

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.number_formats import DTYPE_BYTES
from costmodel.ops.op_types import Ints, Op
from costmodel.ops.small_ops import small_op
from simulator.model.cell import DEFAULT_KERNELS, KernelChoices, register_cell
from simulator.model.collectives import TokenShare
from simulator.model.linear import Linear, WeightFormat, activation_dtype
from simulator.model.norm import Norm
from simulator.plan.plan import Plan

_LEARNED: Final = {"xielu": 2}  # scalars of an activation, per layer


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForward:
    """The two (gated: fused three) matrices and the activation between them, without norm, residual or collective."""

    hidden: int
    inter: int
    dtype: str
    weights: WeightFormat
    down_weights: WeightFormat | None = None  # of the second matrix, where not as the first
    gated: bool = True
    activation: str = "silu"
    bias: bool = False

    def linears(self, plan: Plan) -> tuple[Linear, Linear]:
        """Up (gate and up as one matrix) and down, as one rank of the tensor axis holds them."""
        weights, dtype = self.weights.under(plan), activation_dtype(plan, self.dtype)
        down = (self.down_weights or self.weights).under(plan)
        inter = self.inter // plan.tp
        up_width = 2 * inter if self.gated else inter
        return (
            Linear(n=up_width, k=self.hidden, weights=weights, dtype=dtype, bias=self.bias),
            Linear(n=self.hidden, k=inter, weights=down, dtype=dtype, bias=self.bias),
        )

    def parameters(self) -> int:
        """Both matrices, biases, and what the activation itself learns."""
        return sum(linear.parameters() for linear in self.linears(Plan())) + _LEARNED.get(self.activation, 0)

    def weight_bytes(self, plan: Plan) -> int:
        """Both shards."""
        return sum(linear.stored_bytes() for linear in self.linears(plan))

    def token_ops(self, plan: Plan, m: Ints, kernels: KernelChoices) -> list[Op]:
        """Up GEMM, activation, rounding where the format needs it, down GEMM; the input is already rounded."""
        up, down = self.linears(plan)
        dtype = activation_dtype(plan, self.dtype)
        name = f"{self.activation}_mul" if self.gated else self.activation
        if down.quantises_activations and kernels.rounds(down) == "fused":
            return [up.gemm(m), down.rounded_by(name, m, width=down.k, dtype=dtype), down.gemm(m)]
        follow = down.quantise(m) if kernels.rounds(down) == "separate" else []
        return [up.gemm(m), small_op(name, rows=m, width=down.k, dtype=dtype), *follow, down.gemm(m)]

    def refusal(self, plan: Plan) -> str | None:
        """Why the inner width does not split evenly, quantised blocks included."""
        if self.inter % plan.tp:
            return f"tp is {plan.tp}, must divide the feed-forward width {self.inter}"
        return next((reason for linear in self.linears(plan) if (reason := linear.refusal())), None)


@register_cell("mlp")
@dataclass(frozen=True, slots=True, kw_only=True)
class Mlp:
    """Norm, feed-forward, all-reduce.

    Without a norm it runs beside the attention before it: on the same normalised input, into the same sum.
    """

    feed_forward: FeedForward
    norm: Norm | None
    post_norm: Norm | None = None

    def parameters(self) -> int:
        """Matrices and norms."""
        return self.feed_forward.parameters() + self._norm_parameters()

    def active_parameters(self) -> int:
        """Every token meets all of them."""
        return self.parameters()

    def weight_bytes(self, plan: Plan) -> int:
        """Shards of the matrices; norms replicated."""
        element = DTYPE_BYTES[activation_dtype(plan, self.feed_forward.dtype)]
        return self.feed_forward.weight_bytes(_sharded(plan)) + int(self._norm_parameters() * element)

    def kv_bytes_per_token(self, plan: Plan) -> float:  # noqa: ARG002 - the contract of a cell
        """Keep nothing."""
        return 0.0

    def token_ops(self, plan: Plan, m: Ints, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:
        """Everything: a feed-forward depends on the token count alone."""
        dtype = activation_dtype(plan, self.feed_forward.dtype)
        share = TokenShare.of(plan, plan.mlp_copies)
        up, _ = self.feed_forward.linears(_sharded(plan))
        ops = [] if self.norm is None else self.norm.add_into(m, dtype, up, kernels)
        ops += (
            self.pooled_ops(plan, m, kernels) if share.gathered > 1 else self._own_ops(plan, share.tokens(m), kernels)
        )
        if self.norm is None:
            ops.append(small_op("add", rows=m, width=self.feed_forward.hidden, dtype=dtype))
        ops += share.finish(m, self.feed_forward.hidden, dtype)
        if self.post_norm is not None:
            ops.append(self.post_norm.plain(m, dtype))
        return ops

    def pooled_ops(self, plan: Plan, m: Ints, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:
        """Return the part of ``token_ops`` that works on the tokens of several attention ranks, ``m`` of each."""
        share = TokenShare.of(plan, plan.mlp_copies)
        if share.gathered == 1:
            return []
        hidden, dtype = self.feed_forward.hidden, activation_dtype(plan, self.feed_forward.dtype)
        return [
            *share.gather(m, hidden * int(DTYPE_BYTES[dtype]), dtype),
            *self._own_ops(plan, share.tokens(m), kernels),
            *share.scatter(m, hidden, dtype),
        ]

    def _own_ops(self, plan: Plan, tokens: Ints, kernels: KernelChoices) -> list[Op]:
        """Return the matrices over the tokens of one copy, and the rounding of an input that no norm wrote."""
        sharded = _sharded(plan)
        up, _ = self.feed_forward.linears(sharded)
        rounding = up.quantise(tokens) if self.norm is None and kernels.rounds(up) == "separate" else []
        return [*rounding, *self.feed_forward.token_ops(sharded, tokens, kernels)]

    def attention(self, plan: Plan) -> None:  # noqa: ARG002 - the contract of a cell
        """Attends to nothing."""
        return

    def refusal(self, plan: Plan) -> str | None:
        """As the feed-forward."""
        return self.feed_forward.refusal(_sharded(plan))

    def _norm_parameters(self) -> int:
        return sum(norm.parameters() for norm in (self.norm, self.post_norm) if norm is not None)


def _sharded(plan: Plan) -> Plan:
    """Return ``plan`` as a feed-forward sees it: its tensor axis is the devices of one copy."""
    if plan.mlp_ranks == plan.tp:
        return plan
    return replace(plan, tp=plan.mlp_ranks, attention_dp=1, ep=1, moe_dp=1, mlp_dp=None)
