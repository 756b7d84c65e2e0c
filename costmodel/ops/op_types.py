"""The ops a serving step is made of, with exact FLOP and byte counts.

Every size may be an integer or an array; arrays broadcast, so one op object can stand for a whole curve. Arrays of
floats are for curves prepared between whole sizes.
Byte counts are compulsory traffic: each operand read once, each result written once.
"""

from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.arrays import Array
from costmodel.ops.custom import Custom
from costmodel.ops.expert_routing import BALANCED, chances_on_heaviest
from costmodel.ops.number_formats import DTYPE_BYTES, SCHEMES
from profiles_db.collective_kinds import COLLECTIVE_KINDS

Ints = int | NDArray[np.int64] | NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """C[m, n] = A[m, k] B[k, n]; ``m`` tokens; output in 16 bits (32 for fp32)."""

    family: ClassVar[str] = "gemm"
    m: Ints
    n: Ints
    k: Ints
    dtype: str = "bf16"

    def flop(self) -> Array:
        """Two per multiply-add."""
        return 2.0 * _float(self.m) * self.n * self.k

    def io_bytes(self) -> Array:
        """Activations in, weights, result out."""
        scheme = SCHEMES[self.dtype]
        weight, activation = DTYPE_BYTES[scheme.weight], DTYPE_BYTES[scheme.activation]
        out = 4 if self.dtype == "fp32" else 2
        m, n, k = _float(self.m), _float(self.n), _float(self.k)
        return m * k * activation + n * k * weight + m * n * out


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """One attention call: equal prefill chunks, decode sequences, or both (columns as ``profiles_db.schema``)."""

    family: ClassVar[str] = "attention"
    num_heads: Ints
    num_kv_heads: Ints
    head_dim: int
    v_head_dim: int
    dtype: str = "bf16"
    kv_dtype: str = "bf16"
    variant: str = "gqa"
    window: int = 0
    num_prefill: Ints = 0
    prefill_q: Ints = 0
    prefill_kv: Ints = 0
    num_decode: Ints = 0
    decode_q: Ints = 1
    decode_kv: Ints = 0
    decode_kv_max: Ints = 0

    @property
    def phase(self) -> str:
        """``prefill``, ``decode`` or ``mixed``."""
        has_prefill, has_decode = bool(np.any(self.num_prefill)), bool(np.any(self.num_decode))
        return "mixed" if has_prefill and has_decode else "prefill" if has_prefill else "decode"

    def prefill_pairs(self) -> Array:
        """(query, key) pairs of the prefill chunks under the causal triangle, cut by the window."""
        return _float(self.num_prefill) * _causal_pairs(self.prefill_q, self.prefill_kv, self.window)

    def decode_pairs(self) -> Array:
        """(query, key) pairs of the decode sequences."""
        return _float(self.num_decode) * _causal_pairs(self.decode_q, self.decode_kv, self.window)

    def flop(self) -> Array:
        """QK^T and PV: two FLOP per pair, head and element of each."""
        pairs = self.prefill_pairs() + self.decode_pairs()
        return _float(2.0 * pairs * self.num_heads * (self.head_dim + self.v_head_dim))

    def io_bytes(self) -> Array:
        """Bytes of queries and results in 16 bits, and of keys and values read once per sequence."""
        num_prefill, num_decode = _float(self.num_prefill), _float(self.num_decode)
        q_tokens = num_prefill * self.prefill_q + num_decode * self.decode_q
        kv_tokens = num_prefill * _visible(self.prefill_kv, self.prefill_q, self.window)
        kv_tokens = kv_tokens + num_decode * _visible(self.decode_kv, self.decode_q, self.window)
        return 2.0 * q_tokens * self.num_heads * (self.head_dim + self.v_head_dim) + kv_tokens * self.kv_bytes()

    def kv_bytes(self) -> Array:
        """Bytes of one token's keys and values in one layer (MLA: the latent is key and value at once)."""
        width = self.head_dim if self.variant == "mla" else self.head_dim + self.v_head_dim
        return DTYPE_BYTES[self.kv_dtype] * float(width) * _float(self.num_kv_heads)


def _float(x: float | Ints | NDArray[np.floating]) -> Array:
    return np.asarray(x, dtype=np.float64)


def _causal_pairs(q: Ints, kv: Ints, window: int) -> Array:
    """Pairs (query, key) of q queries at the end of kv tokens: query i sees min(kv - q + i + 1, window) keys."""
    queries = _float(q)
    prefix = _float(kv) - queries
    if not window:
        return _float(queries * prefix + queries * (queries + 1) / 2)
    # The first `short` queries see fewer keys than the window; the others see exactly `window`.
    short = np.clip(window - prefix, 0, queries)
    return _float(short * prefix + short * (short + 1) / 2 + (queries - short) * window)


def _visible(kv: Ints, q: Ints, window: int) -> Array:
    """Keys that at least one of the q queries sees."""
    return _float(np.minimum(_float(kv), window + _float(q) - 1.0)) if window else _float(kv)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """One call that carries a matrix per head and sequence through its tokens: equal prefill chunks, or decode steps.

    ``variant``: ``mamba2`` (state-space duality, arXiv 2405.21060) or ``gated_delta`` (gated delta rule, arXiv
    2412.06464). A head's state is ``state_dim`` x ``head_dim``; ``num_groups`` keys and queries (C and B of a
    state-space layer) serve ``num_heads`` heads. Prefill works through ``chunk`` tokens at a time, as matrix products
    inside a chunk and through its state between chunks; decode updates the state token by token.
    """

    family: ClassVar[str] = "scan"
    variant: str
    num_heads: int
    num_groups: int
    head_dim: int
    state_dim: int
    chunk: int
    dtype: str = "bf16"
    state_dtype: str = "fp32"
    num_prefill: Ints = 0
    prefill_q: Ints = 0
    num_decode: Ints = 0
    decode_q: Ints = 1

    @property
    def phase(self) -> str:
        """``prefill`` or ``decode``; engines run both of one step as two calls."""
        return "prefill" if np.any(self.num_prefill) else "decode"

    @property
    def state_elements(self) -> int:
        """Elements of one sequence's state."""
        return self.num_heads * self.head_dim * self.state_dim

    def prompt(self, tokens: Ints) -> "Scan":
        """Return the call of a prompt of so many tokens."""
        return replace(self, num_prefill=1, prefill_q=tokens)

    def steps(self, sequences: Ints, tokens: int) -> "Scan":
        """Return the call of so many sequences that decode so many tokens each."""
        return replace(self, num_decode=sequences, decode_q=tokens)

    def tokens(self) -> Array:
        """Tokens of the call."""
        return _float(self.num_prefill) * self.prefill_q + _float(self.num_decode) * self.decode_q

    def flop(self) -> Array:
        """Two per multiply-add; pairs of a chunk under its causal triangle."""
        q = _float(self.prefill_q)
        whole, rest = np.divmod(q, self.chunk)
        pairs = (whole * self.chunk * (self.chunk + 1) + rest * (rest + 1)) / 2
        chunks = whole + (rest > 0)
        scores, values = self.num_groups * self.state_dim, self.num_heads * self.head_dim
        if self.variant == "mamba2":
            # Scores and results inside a chunk; tokens into its state and out of the one before; states passed on.
            prefill = 2 * pairs * (scores + values) + 4 * q * self.state_elements + 2 * chunks * self.state_elements
            step = 5  # decayed, one product added, one read out
        else:
            # Scores of keys with keys and queries with keys; the inverse of a triangle per head; its products with keys
            # and values, and the results; state read twice and written once per token; states decayed.
            keys = self.num_heads * self.state_dim
            inverse = self.num_heads * (whole * self.chunk**3 + rest**3) / 3
            prefill = 2 * pairs * (2 * scores + keys + 2 * values) + inverse
            prefill = prefill + 6 * q * self.state_elements + chunks * self.state_elements
            step = 7  # decayed, read at the key, corrected, read out
        decode = _float(self.num_decode) * self.decode_q * step * self.state_elements
        return _float(_float(self.num_prefill) * prefill + decode)

    def io_bytes(self) -> Array:
        """Bytes of inputs and results once, and of the state: read once, written once, or per token of a decode."""
        element = DTYPE_BYTES[self.dtype]
        values, scores = self.num_heads * self.head_dim, self.num_groups * self.state_dim
        scalars = 4 * self.num_heads * (1 if self.variant == "mamba2" else 2)  # fp32: step; decay and strength
        per_token = 2 * (values + scores) * element + scalars
        state = self.state_elements * DTYPE_BYTES[self.state_dtype]
        passes = 2.0 * _float(self.num_prefill) + _float(self.num_decode) * (1 + _float(self.decode_q))
        return self.tokens() * per_token + passes * state


@dataclass(frozen=True, slots=True, kw_only=True)
class Moe:
    """The routed experts of one layer on one rank: both GEMMs, activation and combine (router excluded).

    Where routing is skewed, the rank is the one with most pairs (`costmodel.ops.expert_routing`). FLOPs and bytes are
    those of uniform routing all the same: they add up over ranks, and references of fitted curves are made of them.
    """

    family: ClassVar[str] = "moe"
    num_tokens: Ints
    hidden: int
    inter: int
    num_experts: int
    topk: int
    tp: int = 1
    ep: int = 1
    dtype: str = "bf16"
    routing: str = "balanced"
    is_gated: bool = True  # False: one matrix before the activation instead of two

    @property
    def matrices(self) -> int:
        """Matrices of an expert."""
        return 3 if self.is_gated else 2

    @property
    def up_width(self) -> int:
        """Columns of this rank's shard before the activation: up, and gate where there is one."""
        return (self.matrices - 1) * self.local_inter

    @property
    def local_experts(self) -> int:
        """Experts this rank holds."""
        return -(-self.num_experts // self.ep)

    @property
    def local_inter(self) -> int:
        """Inner width of this rank's shard of an expert."""
        return self.inter // self.tp

    def active_experts(self) -> Array:
        """Distinct experts of the heaviest rank that its pairs hit on average: the sum of 1 - (1 - p)^T."""
        if self.routing == BALANCED:
            return self._uniform_experts()
        tokens = _float(self.num_tokens)[..., None]
        return _float((1.0 - (1.0 - self._chances()) ** tokens).sum(axis=-1))

    def routed_tokens(self) -> Array:
        """(token, expert) pairs that land on the heaviest rank on average."""
        return self._uniform_pairs() if self.routing == BALANCED else _float(self.num_tokens) * self._chances().sum()

    def flop(self) -> Array:
        """Gate (where there is one), up and down projections of the pairs of a rank, the mean over ranks."""
        return self.flop_of(self._uniform_pairs())

    def io_bytes(self) -> Array:
        """Weights of the active experts, activations in, inner result out and in, result out, under uniform routing."""
        return self.bytes_of(self._uniform_pairs(), self._uniform_experts())

    def _chances(self) -> Array:
        return chances_on_heaviest(self.num_experts, self.topk, self.ep, self.routing)

    def _uniform_experts(self) -> Array:
        """Distinct local experts that uniform routing hits on average: E_local (1 - (1 - k/E)^T)."""
        miss = (1.0 - self.topk / self.num_experts) ** _float(self.num_tokens)
        return self.local_experts * (1.0 - miss)

    def _uniform_pairs(self) -> Array:
        return _float(self.num_tokens) * self.topk * self.local_experts / self.num_experts

    def flop_of(self, pairs: Array) -> Array:
        """FLOPs of a rank with so many pairs."""
        return 2.0 * self.matrices * pairs * self.hidden * self.local_inter

    def bytes_of(self, pairs: Array, experts: Array) -> Array:
        """Bytes of a rank with so many pairs, which hit so many of its experts."""
        scheme = SCHEMES[self.dtype]
        weights = experts * self.matrices * self.hidden * self.local_inter * DTYPE_BYTES[scheme.weight]
        per_pair = (
            self.hidden * DTYPE_BYTES[scheme.activation] + 2.0 * self.hidden + 2.0 * self.matrices * self.local_inter
        )
        return weights + pairs * per_pair


@dataclass(frozen=True, slots=True, kw_only=True)
class Elementwise:
    """A memory-bound small op: ``rows`` tokens of ``width`` elements moving ``bytes_per_row`` bytes each."""

    family: ClassVar[str] = "elementwise"
    op: str
    rows: Ints
    width: int
    bytes_per_row: float
    dtype: str = "bf16"

    def flop(self) -> Array:
        """Not compute-bound: counted as none."""
        return 0.0 * _float(self.rows)

    def io_bytes(self) -> Array:
        """Bytes read plus written."""
        return _float(self.rows) * float(self.bytes_per_row)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """A collective or point-to-point transfer; ``message_bytes`` is nccl-tests' S.

    ``group_stride`` is the distance between neighbouring ranks of the group in device order, so that a group that
    jumps across nodes is priced on the links it really uses.
    """

    family: ClassVar[str] = "collective"
    kind: str  # a name of `profiles_db.collective_kinds`
    message_bytes: Ints
    ranks: int
    group_stride: int = 1
    dtype: str = "bf16"

    def flop(self) -> Array:
        """Reduction arithmetic is never the bound: counted as none."""
        return 0.0 * _float(self.message_bytes)

    def wire_bytes(self) -> Array:
        """Bytes each rank must send: S times nccl-tests' bus factor."""
        return _float(self.message_bytes) * bus_factor(self.kind, self.ranks)


def bus_factor(kind: str, ranks: int) -> float:
    """Busbw / algbw as nccl-tests defines it."""
    if kind not in COLLECTIVE_KINDS:
        msg = f"unknown collective {kind!r}"
        raise ValueError(msg)
    return COLLECTIVE_KINDS[kind].bus_factor(ranks)


Op = Gemm | Attention | Scan | Moe | Elementwise | Custom | Collective
