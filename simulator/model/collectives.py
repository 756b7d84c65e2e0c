"""The transfers between cells that a plan implies: none is listed by hand, each follows from the degrees.

Device order inside a replica is tensor axis innermost, then attention-data, then pipeline; that order gives each
group its stride. `message_bytes` is nccl-tests' S: the whole payload of the group.

A feed-forward whose copies in a stage are not as many as the attention ranks sees other tokens than attention does
(`TokenShare`): fewer copies gather the tokens of several attention ranks, and scatter the sums back; more copies take a
part of one rank's tokens each, all of which are on their devices already, and gather the results.
"""

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.number_formats import DTYPE_BYTES
from costmodel.ops.op_types import Collective, Ints, Op
from simulator.plan.plan import Plan


def tensor_all_reduce(plan: Plan, m: Ints, width: int, dtype: str) -> list[Op]:
    """Sum the partial results [m, width] of the tensor-parallel ranks."""
    return _all_reduce(plan.tp, m * width * _bytes(dtype), dtype)


def tensor_all_gather(plan: Plan, m: Ints, width: int, dtype: str) -> list[Op]:
    """Collect [m, width] from the tensor-parallel ranks, each of which holds 1/tp of it."""
    if plan.tp == 1:
        return []
    return [Collective(kind="all_gather", message_bytes=m * width * _bytes(dtype), ranks=plan.tp, dtype=dtype)]


def context_exchange(plan: Plan, m: Ints, *, heads: int, query_width: int, value_width: int, dtype: str) -> list[Op]:
    """Bring the queries of ranks that share out the cached tokens to each of them, and their results back.

    Every rank attends for the ``heads`` of all of them over its own tokens; results are summed by their fp32 log-sums,
    which are gathered from all. Source: vLLM 0.33, attention/ops (cp_lse_ag_out_rs).
    """
    if plan.dcp == 1:
        return []
    rows = m * heads * plan.dcp
    return [
        Collective(kind=kind, message_bytes=size, ranks=plan.dcp, dtype=dtype)
        for kind, size in (
            ("all_gather", rows * query_width * _bytes(dtype)),
            ("all_gather", rows * plan.dcp * 4),
            ("reduce_scatter", rows * value_width * _bytes(dtype)),
        )
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenShare:
    """How ``copies`` of a feed-forward in a stage share the tokens of its attention ranks.

    A copy sees the tokens of ``gathered`` attention ranks, or one of ``parts`` equal parts of one rank's.
    """

    gathered: int
    parts: int
    ranks: int  # devices of a copy
    tp: int  # devices of an attention rank

    @classmethod
    def of(cls, plan: Plan, copies: int) -> "TokenShare":
        """Share the tokens of ``plan`` among so many copies; one of both numbers divides the other."""
        return cls(
            gathered=max(1, plan.attention_dp // copies),
            parts=max(1, copies // plan.attention_dp),
            ranks=plan.stage_ranks // copies,
            tp=plan.tp,
        )

    def tokens(self, m: Ints) -> Ints:
        """Tokens that a copy works on, where each attention rank has ``m``."""
        return m * self.gathered if self.parts == 1 else -(-m // self.parts)

    def gather(self, m: Ints, token_bytes: int, dtype: str) -> list[Op]:
        """Bring the tokens of the attention ranks that share a copy to all of its devices."""
        if self.gathered == 1:
            return []
        size = m * self.gathered * token_bytes
        return [
            Collective(kind="all_gather", message_bytes=size, ranks=self.gathered, group_stride=self.tp, dtype=dtype)
        ]

    def scatter(self, m: Ints, width: int, dtype: str) -> list[Op]:
        """Sum what the devices of a copy hold over those it gathered from, each of which keeps its own tokens."""
        if self.gathered == 1:
            return []
        size = m * self.gathered * width * _bytes(dtype)
        return [
            Collective(
                kind="reduce_scatter", message_bytes=size, ranks=self.gathered, group_stride=self.tp, dtype=dtype
            )
        ]

    def finish(self, m: Ints, width: int, dtype: str) -> list[Op]:
        """Complete the sums of an attention rank's tokens on all of its devices, after ``scatter``."""
        if self.parts == 1:
            return _all_reduce(self.tp, m * width * _bytes(dtype), dtype)
        gathered = Collective(
            kind="all_gather",
            message_bytes=m * width * _bytes(dtype),
            ranks=self.parts,
            group_stride=self.ranks,
            dtype=dtype,
        )
        return [*_all_reduce(self.ranks, self.tokens(m) * width * _bytes(dtype), dtype), gathered]


def _all_reduce(ranks: int, message_bytes: Ints, dtype: str) -> list[Op]:
    return [Collective(kind="all_reduce", message_bytes=message_bytes, ranks=ranks, dtype=dtype)] if ranks > 1 else []


def _bytes(dtype: str) -> int:
    return int(DTYPE_BYTES[dtype])
