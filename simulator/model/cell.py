"""What a cell is: a sublayer with a residual around it, which knows its weights, its KV and the ops it runs.

A cell is a bag of tasks (heads, filters, experts) that a plan maps to ranks. It lives in one file, is registered by
name, and is a frozen value: equal cells are one cell, however many layers repeat it.
"""

from collections.abc import Callable
from typing import ClassVar, Final, Literal, Protocol, TypeGuard, TypeVar, runtime_checkable

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.op_types import Attention, Gemm, Ints, Op
from simulator.model.linear import MXFP4_MXFP8, Linear
from simulator.plan.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelChoices:
    """What an engine fuses, and how tokens travel to experts that live on other ranks.

    ``activation_quantisation``: ``separate`` kernels; ``fused`` into the norm or activation before the GEMM where
    there is one; ``in_gemm`` when the GEMM's own price already includes it, which it also does for ``in_gemm_schemes``.
    ``norm_in_all_reduce_bytes``: the norm after an all-reduce of up to so many bytes is part of it; 0 = never.
    ``rope_writes_kv``: one kernel rotates queries and keys and writes keys and values.
    ``splits_delta_inputs``: the gated delta rule takes queries with keys and values, gate, step and decay one by one.
    ``rounds_mxfp4_inputs``: the kernel of MXFP4 experts rounds what it is given to MXFP8.
    """

    activation_quantisation: Literal["separate", "fused", "in_gemm"] = "separate"
    all2all: Literal["allgather_reducescatter", "deepep"] = "allgather_reducescatter"
    moe_routing: str = "balanced"
    in_gemm_schemes: frozenset[str] = frozenset()
    norm_in_all_reduce_bytes: int = 0
    rope_writes_kv: bool = False
    splits_delta_inputs: bool = False
    rounds_mxfp4_inputs: bool = False

    def expert_scheme(self, scheme: str) -> str:
        """Return the scheme that experts of a stored scheme run in: of MXFP4, whether their inputs are rounded too."""
        return MXFP4_MXFP8 if scheme == "mxfp4" and self.rounds_mxfp4_inputs else scheme

    def rounds(self, linear: Linear) -> Literal["separate", "fused", "in_gemm"]:
        """Say where the input of ``linear`` is rounded to fewer bits, if it is.

        Static scales are known before the input is: the norm or activation before it writes rounded rows.
        """
        if linear.weights.has_static_inputs and self.activation_quantisation != "separate":
            return "fused"
        return "in_gemm" if linear.weights.scheme in self.in_gemm_schemes else self.activation_quantisation

    def rounding(self, linear: Linear, m: Ints) -> list[Op]:
        """Return the kernel that rounds an input no kernel before it could; none where the GEMM's price has it."""
        return [] if self.rounds(linear) == "in_gemm" else linear.quantise(m)


DEFAULT_KERNELS: Final = KernelChoices()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTemplate:
    """One rank's attention calls with the batch left open: ``dataclasses.replace`` fills in the counts.

    ``window`` of the ops bounds the keys a query sees. ``context_gemm`` (MLA) runs once per step over the *cached*
    context tokens of the prefill chunks (its ``m``), which must be expanded before they can be attended to.
    ``fixed_kv_tokens`` is set where keys do not grow with the sequence (cross attention). ``is_sparse``: a query sees
    ``window`` keys of the whole sequence, so that all of them stay cached. ``decode`` has the heads of all ranks that
    share out the cached tokens, ``prefill`` those of one.
    """

    prefill: Attention
    decode: Attention
    context_gemm: Gemm | None = None
    fixed_kv_tokens: int = 0
    is_sparse: bool = False
    context_shares: int = 1  # ranks that share out the cached tokens, each of which attends for the heads of all


@runtime_checkable
class Cell(Protocol):
    """The contract of a cell; every byte and op is that of one rank under ``plan``."""

    def parameters(self) -> int:
        """Parameters of the whole cell, exact."""

    def active_parameters(self) -> int:
        """Parameters one token meets (fewer than all in a mixture of experts)."""

    def weight_bytes(self, plan: Plan) -> int:
        """Bytes of weights on one rank, replicated parts included."""

    def kv_bytes_per_token(self, plan: Plan) -> float:
        """Bytes of KV cache one token of context takes on one rank."""

    def token_ops(self, plan: Plan, m: Ints, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:
        """Every op of one rank whose cost depends only on the ``m`` tokens of the step, in execution order."""

    def attention(self, plan: Plan) -> AttentionTemplate | None:
        """Return the attention calls, which depend on the lengths too; None where there are none."""

    def refusal(self, plan: Plan) -> str | None:
        """Why ``plan`` cannot shard this cell; None when it can."""


class KeepsState(Protocol):
    """What a cell is beside, that keeps something per request which does not grow with the sequence.

    ``is_recurrent``: every step rewrites it, as a linear attention's matrix; keys of an encoder only stay.
    """

    is_recurrent: ClassVar[bool]

    def kv_bytes_per_request(self, plan: Plan) -> float:
        """Bytes on one rank."""


class StateCall(Protocol):
    """A call that carries a state through the tokens of sequences, its batch left open.

    `costmodel.ops.op_types.Scan` is one, `costmodel.extension.custom_op.CustomScan` one of a person's own.
    """

    def prompt(self, tokens: Ints) -> Op:
        """Return the call of a prompt of so many tokens; several prompts of a step count as one of all their tokens."""

    def steps(self, sequences: Ints, tokens: int) -> Op:
        """Return the call of so many sequences that decode so many tokens each."""


class Scans(Protocol):
    """What a cell is beside, that carries a state through the tokens of a sequence instead of attending to them."""

    def scan(self, plan: Plan) -> StateCall:
        """One rank's call with the batch left open."""


class PoolsTokens(Protocol):
    """What a cell is beside, that works on the tokens of several attention-data ranks at once."""

    def pooled_ops(self, plan: Plan, m: Ints, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:
        """Return the part of ``token_ops`` that does, transfers included; ``m`` is the tokens of one rank."""


def pools_tokens(cell: object) -> TypeGuard[PoolsTokens]:
    """Whether a cell is one that `PoolsTokens`."""
    return hasattr(cell, "pooled_ops")


def keeps_state(cell: object) -> TypeGuard[KeepsState]:
    """Whether a cell is a `KeepsState`; a run-time protocol would take a tenth of a plan's compilation to say so."""
    return hasattr(cell, "kv_bytes_per_request") and hasattr(cell, "is_recurrent")


def scans(cell: object) -> TypeGuard[Scans]:
    """Whether a cell is one that `Scans`."""
    return hasattr(cell, "scan")


CellType = TypeVar("CellType", bound=type)

CELL_KINDS: Final[dict[str, type]] = {}


def register_cell(kind: str) -> Callable[[CellType], CellType]:
    """Class decorator: make a cell known by ``kind``; a second class under one name is a programming error."""

    def register(cell: CellType) -> CellType:
        known = CELL_KINDS.get(kind)
        if known is not None and (known.__module__, known.__qualname__) != (cell.__module__, cell.__qualname__):
            msg = f"cell kind {kind!r} is already registered by {known.__qualname__}"
            raise ValueError(msg)
        CELL_KINDS[kind] = cell
        return cell

    return register


def kind_of(cell: Cell) -> str:
    """Return the name a cell's class is registered under, or its class name when it is not."""
    return next((kind for kind, known in CELL_KINDS.items() if known is type(cell)), type(cell).__name__)
