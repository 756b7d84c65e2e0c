"""Bidirectional self-attention of an encoder: every token of an item, or of a window of it, sees every other."""

from dataclasses import replace

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.op_types import Attention, Elementwise, Ints, Op
from simulator.model.cell import DEFAULT_KERNELS, KernelChoices, register_cell
from simulator.model.cells.attention import SelfAttention
from simulator.plan.plan import Plan


@register_cell("encoder_attention")
@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderAttention:
    """The projections of a self-attention cell without its KV cache."""

    projections: SelfAttention
    window_tokens: int = 0  # of the windows an item is cut into; 0 = the item is one

    def parameters(self) -> int:
        """As the projections."""
        return self.projections.parameters()

    def active_parameters(self) -> int:
        """Every token meets all of them."""
        return self.parameters()

    def weight_bytes(self, plan: Plan) -> int:
        """As the projections."""
        return self.projections.weight_bytes(plan)

    def kv_bytes_per_token(self, plan: Plan) -> float:  # noqa: ARG002 - the contract of a cell
        """Keep nothing."""
        return 0.0

    def token_ops(self, plan: Plan, m: Ints, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:
        """All but the attention call; nothing is written to a cache."""
        ops = self.projections.token_ops(plan, m, kernels)
        return [op for op in ops if not (isinstance(op, Elementwise) and op.op == "kv_write")]

    def attention(self, plan: Plan) -> None:  # noqa: ARG002 - the contract of a cell
        """Attend to no cache; ``item_attention`` is the call over one item."""
        return

    def item_attention(self, plan: Plan, tokens: Ints) -> Attention:
        """Attention of one item of ``tokens`` tokens, each of which sees all.

        n queries at the end of n + (n - 1) / 2 keys see n^2 pairs under the causal triangle: the same FLOPs.
        """
        call = self.projections.attention(plan).prefill
        half: Ints = (3 * tokens - 1) // 2
        return replace(call, num_prefill=1, prefill_q=tokens, prefill_kv=half)

    def window_attention(self, plan: Plan, tokens: Ints) -> Attention:
        """Attention within the windows that ``tokens`` tokens fill."""
        size = self.window_tokens
        return replace(self.item_attention(plan, size), num_prefill=-(-tokens // size))

    def refusal(self, plan: Plan) -> str | None:
        """As the projections."""
        return self.projections.refusal(plan)
