"""Mixture of experts: router, routed experts, optional shared expert, and the transfers that bring tokens to experts.

A stage holds `moe_dp` copies of its experts, each over `expert_ranks` of its devices: `ep` groups of those hold so many
parts of the experts, and each expert is sharded over the devices of its group. Where attention runs data-parallel,
every attention rank brings its own m tokens and a copy sees those of all ranks that share it: tokens and their top-k
choices are gathered before and scattered back after. Where there are more copies than attention ranks, a copy routes a
part of one rank's tokens; `simulator.model.collectives` has both.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.expert_routing import BALANCED, unevenness_left
from costmodel.ops.number_formats import DTYPE_BYTES, SCHEMES
from costmodel.ops.op_types import Collective, Ints, Moe, Op
from costmodel.ops.small_ops import small_op
from simulator.model.cell import DEFAULT_KERNELS, KernelChoices, register_cell
from simulator.model.cells.mlp import FeedForward
from simulator.model.collectives import TokenShare, tensor_all_gather
from simulator.model.expert_layout import PLAIN, ExpertLayout
from simulator.model.linear import Linear, WeightFormat, activation_dtype
from simulator.model.norm import Norm
from simulator.plan.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class EvenedExperts(Moe):
    """Routed experts of which some are held twice, so that the heaviest rank has less of a surplus over the mean.

    Its time lies between that of even routing and that of the routing's own unevenness, by the surplus that is left.
    """

    unevenness: float = 1.0

    @classmethod
    def of(cls, routed: Moe, copies: int) -> "EvenedExperts":
        """Return ``routed`` with so many experts held twice."""
        left = unevenness_left(routed.num_experts, routed.topk, routed.ep, routed.routing, copies)
        return cls(**{item.name: getattr(routed, item.name) for item in dataclasses.fields(Moe)}, unevenness=left)

    @property
    def uneven(self) -> Moe:
        """The experts where each is held once."""
        return Moe(**{item.name: getattr(self, item.name) for item in dataclasses.fields(Moe)})

    @property
    def even(self) -> Moe:
        """The experts where every one is chosen as often."""
        return dataclasses.replace(self.uneven, routing=BALANCED)


@register_cell("moe")
@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureOfExperts:
    """Norm, router, top-k, dispatch, experts, combine, and the shared expert beside them."""

    hidden: int
    inter: int  # of one routed expert
    num_experts: int
    topk: int
    dtype: str
    weights: WeightFormat
    norm: Norm
    router_bias: bool = False
    router_dtype: str = ""  # of the router's weights and scores where the engine keeps them wider than ``dtype``
    expert_bias: bool = False
    correction_bias: bool = False  # one learned score offset per expert, used in the choice only
    shared: FeedForward | None = None
    post_norms: tuple[Norm, ...] = ()  # over the experts' sum, and over what is added to it
    router_scales: bool = False  # one learned factor per element of the router's input, and one per expert
    shared_gate: bool = False  # the shared expert is scaled by a learned sigmoid gate
    is_gated: bool = True  # False: an expert is two matrices instead of three
    latent: int = 0  # width the experts work in, projected to and from on every rank; 0 = that of the hidden state
    layout: ExpertLayout = PLAIN  # how the engine's kernel stores MXFP4 experts

    def parameters(self) -> int:
        """All experts, router, shared expert and norm."""
        return self.num_experts * self._expert_parameters() + self._unrouted_parameters()

    def active_parameters(self) -> int:
        """``topk`` experts and everything that is not routed."""
        return self.topk * self._expert_parameters() + self._unrouted_parameters()

    def weight_bytes(self, plan: Plan) -> int:
        """Count this rank's experts or shards; router, norm and gate replicated; shared expert on the tp axis."""
        dtype = activation_dtype(plan, self.dtype)
        routed = -(-(self.num_experts + plan.redundant_experts) // plan.ep) * self._expert_bytes(
            plan, plan.expert_shards
        )
        shared = self.shared.weight_bytes(self._outside_experts(plan)) if self.shared else 0
        replicated = self._router(dtype).stored_bytes()
        replicated += sum(norm.weight_bytes(dtype) for norm in (self.norm, *self.post_norms))
        replicated += int((self.hidden + self.num_experts) * DTYPE_BYTES[dtype]) if self.router_scales else 0
        replicated += 4 * self.num_experts if self.correction_bias else 0
        replicated += int(self.hidden * DTYPE_BYTES[dtype]) if self.shared_gate else 0
        replicated += sum(linear.stored_bytes() for linear in self._latent_linears(plan))
        return routed + shared + replicated

    def kv_bytes_per_token(self, plan: Plan) -> float:  # noqa: ARG002 - the contract of a cell
        """Keep nothing."""
        return 0.0

    def token_ops(self, plan: Plan, m: Ints, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:
        """Everything; ``m`` is the tokens of one attention-data rank, padded to the most loaded of them.

        Rounding of the experts' inputs and the weighted sum of their outputs are inside the ``Moe`` op.
        """
        dtype = activation_dtype(plan, self.dtype)
        router = self._router(dtype)
        own = self._own_tokens(plan, m)
        ops = self.norm.add_into(m, dtype, router, kernels)
        if router.dtype != dtype:
            ops.append(small_op("cast", rows=own, width=self.hidden, dtype=dtype, out=router.dtype))
        ops.append(router.gemm(own))
        ops.append(small_op("topk", rows=own, width=self.num_experts, dtype=dtype, chosen=self.topk))
        ops += self.shared_ops(plan, m, kernels)
        latent = self._latent_linears(plan)
        for linear in latent[:1]:
            ops += [*kernels.rounding(linear, own), linear.gemm(own)]
        ops += self.pooled_ops(plan, m, kernels)
        for linear in latent[1:]:
            ops += [*kernels.rounding(linear, own), linear.gemm(own)]
        if self.shared is not None:
            ops.append(small_op("add", rows=own, width=self.hidden, dtype=dtype))
        if self._is_sequence_parallel(plan):
            ops += tensor_all_gather(plan, m, self.hidden, dtype)
        else:
            ops += TokenShare.of(plan, plan.moe_dp).finish(m, self.hidden, dtype)
        return [*ops, *(norm.plain(m, dtype) for norm in self.post_norms)]

    def pooled_ops(self, plan: Plan, m: Ints, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:
        """Return the part of ``token_ops`` that works on the tokens of all attention-data ranks, ``m`` of each."""
        share = TokenShare.of(plan, plan.moe_dp)
        routed = Moe(
            num_tokens=share.tokens(m),
            hidden=self._width,
            inter=self.inter,
            num_experts=self.num_experts,
            topk=self.topk,
            tp=plan.expert_shards,
            ep=plan.ep,
            dtype=kernels.expert_scheme(self.weights.under(plan).scheme),
            routing=kernels.moe_routing,
            is_gated=self.is_gated,
        )
        if plan.redundant_experts:
            routed = EvenedExperts.of(routed, plan.redundant_experts)
        before, after = self._transfers(plan, share, m, activation_dtype(plan, self.dtype), kernels)
        return [*before, routed, *after]

    def shared_ops(self, plan: Plan, m: Ints, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:
        """Return the part of ``token_ops`` that engines run beside the routed experts: all of the shared expert."""
        if self.shared is None:
            return []
        outside = self._outside_experts(plan)
        own = self._own_tokens(plan, m)
        rounding = kernels.rounding(self.shared.linears(outside)[0], own)
        ops = [*rounding, *self.shared.token_ops(outside, own, kernels)]
        if self.shared_gate:
            dtype = activation_dtype(plan, self.dtype)
            gate = Linear(n=1, k=self.hidden, weights=WeightFormat(scheme=dtype), dtype=dtype)
            ops += [gate.gemm(own), small_op("sigmoid_mul", rows=own, width=self.hidden, dtype=dtype)]
        return ops

    def attention(self, plan: Plan) -> None:  # noqa: ARG002 - the contract of a cell
        """Attends to nothing."""
        return

    def refusal(self, plan: Plan) -> str | None:
        """Whole experts must spread over ranks, sharded ones must split evenly."""
        experts, shards = plan.ep, plan.expert_shards
        if experts > self.num_experts:
            return f"ep is {experts}, must be at most the {self.num_experts} experts"
        held = self.num_experts + plan.redundant_experts
        if held % experts:
            more = f" and {plan.redundant_experts} held twice" if plan.redundant_experts else ""
            return f"ep is {experts}, must divide the {self.num_experts} experts{more}"
        if self.inter % shards:
            return f"experts are sharded over {shards} ranks, which must divide their width {self.inter}"
        linears = self._expert_linears(plan, shards)
        shared = self.shared.refusal(self._outside_experts(plan)) if self.shared else None
        return shared or next((reason for linear in linears if (reason := linear.refusal())), None)

    def _own_tokens(self, plan: Plan, m: Ints) -> Ints:
        """Tokens that a rank routes, and runs the shared expert for: its slice where ranks have one each."""
        if self._is_sequence_parallel(plan):
            return -(-m // plan.tp)
        share = TokenShare.of(plan, plan.moe_dp)
        return share.tokens(m) if share.parts > 1 else m

    @staticmethod
    def _is_sequence_parallel(plan: Plan) -> bool:
        """Each tensor rank routes its own slice of the tokens, so none is sent twice."""
        return plan.ep > 1 and plan.ep == plan.stage_ranks and plan.tp > 1 and plan.attention_dp > 1

    def _outside_experts(self, plan: Plan) -> Plan:
        """How the shared expert is laid out: whole on every rank where each has its own slice of the tokens.

        Where copies have slices, it is sharded as the routed experts of a copy are, whose sums it is part of.
        """
        if self._is_sequence_parallel(plan):
            return dataclasses.replace(plan, tp=1, ep=1)
        if TokenShare.of(plan, plan.moe_dp).parts > 1:
            return dataclasses.replace(plan, tp=plan.expert_ranks, attention_dp=1, ep=1, moe_dp=1, mlp_dp=None)
        return plan

    def _transfers(
        self, plan: Plan, share: TokenShare, m: Ints, dtype: str, kernels: KernelChoices
    ) -> tuple[list[Op], list[Op]]:
        """Ops before and after the experts; none while all ranks share tokens."""
        if share.gathered == 1:
            return [], []
        spread = self._is_sequence_parallel(plan)
        element = int(DTYPE_BYTES[dtype])
        if spread:
            share = TokenShare(gathered=plan.stage_ranks, parts=1, ranks=plan.stage_ranks, tp=1)
        ranks = share.gathered
        if kernels.all2all == "deepep" and plan.ep == plan.expert_ranks:
            own = m / plan.tp if spread else m
            copies = ranks * (1.0 - (1.0 - 1.0 / ranks) ** self.topk)  # expected distinct ranks of topk choices
            sent = DTYPE_BYTES[SCHEMES[kernels.expert_scheme(self.weights.under(plan).scheme)].activation]
            out, back = (
                Collective(
                    kind="all_to_all",
                    message_bytes=_whole(own * copies * self._width * width),
                    ranks=ranks,
                    group_stride=share.tp,
                    dtype=dtype,
                )
                for width in (sent, element)
            )
            return [out], [back]
        tokens = m * plan.attention_dp if spread else m * share.gathered
        gather = Collective(
            kind="all_gather",
            message_bytes=tokens * (self._width * element + 8 * self.topk),
            ranks=ranks,
            group_stride=share.tp,
            dtype=dtype,
        )
        scatter = Collective(
            kind="reduce_scatter",
            message_bytes=tokens * self._width * element,
            ranks=ranks,
            group_stride=share.tp,
            dtype=dtype,
        )
        return [gather], [scatter]

    @property
    def _width(self) -> int:
        """Width of what enters and leaves an expert."""
        return self.latent or self.hidden

    def _latent_linears(self, plan: Plan) -> tuple[Linear, ...]:
        """Return the projections to and from the experts' own width, where they have one."""
        if not self.latent:
            return ()
        weights, dtype = self.weights.under(plan), activation_dtype(plan, self.dtype)
        return (
            Linear(n=self.latent, k=self.hidden, weights=weights, dtype=dtype),
            Linear(n=self.hidden, k=self.latent, weights=weights, dtype=dtype),
        )

    def _router(self, dtype: str) -> Linear:
        dtype = self.router_dtype or dtype
        return Linear(
            n=self.num_experts,
            k=self.hidden,
            weights=WeightFormat(scheme=dtype),
            dtype=dtype,
            bias=self.router_bias,
        )

    def _expert_linears(self, plan: Plan, shards: int) -> tuple[Linear, Linear]:
        weights, dtype = self.weights.under(plan), activation_dtype(plan, self.dtype)
        inter = self.inter // shards
        up_width = 2 * inter if self.is_gated else inter
        return (
            Linear(n=up_width, k=self._width, weights=weights, dtype=dtype, bias=self.expert_bias),
            Linear(n=self._width, k=inter, weights=weights, dtype=dtype, bias=self.expert_bias),
        )

    def _expert_bytes(self, plan: Plan, shards: int) -> int:
        """Bytes of one rank's share of an expert, as the engine's kernel stores it."""
        up, down = self._expert_linears(plan, shards)
        if up.weights.scheme != "mxfp4":
            return up.stored_bytes() + down.stored_bytes()
        layout = self.layout
        inter, hidden = layout.inter(down.k), layout.hidden(self._width)
        stored = (
            dataclasses.replace(up, n=up.n // down.k * inter, k=hidden),
            dataclasses.replace(down, n=hidden, k=inter),
        )
        if layout.has_fp32_bias:
            stored = (dataclasses.replace(stored[0], dtype="fp32"), dataclasses.replace(stored[1], dtype="fp32"))
        return sum(linear.stored_bytes() + layout.second_scale_bytes(linear.n, linear.k) for linear in stored)

    def _expert_parameters(self) -> int:
        return sum(linear.parameters() for linear in self._expert_linears(Plan(), 1))

    def _unrouted_parameters(self) -> int:
        shared = self.shared.parameters() if self.shared else 0
        router = self._router(self.dtype).parameters() + (self.num_experts if self.correction_bias else 0)
        norms = sum(norm.parameters() for norm in (self.norm, *self.post_norms))
        router += self.hidden + self.num_experts if self.router_scales else 0
        latent = sum(linear.parameters() for linear in self._latent_linears(Plan()))
        return shared + router + norms + latent + (self.hidden if self.shared_gate else 0)


def _whole(size: float | NDArray[np.floating]) -> Ints:
    """Round a byte count up."""
    return math.ceil(size) if isinstance(size, float) else np.ceil(size).astype(np.int64)
