"""Normalisation: its parameters and the kernel it costs, fused with the residual add and the activation rounding.

Compiled engines run `residual += x; y = norm(residual)` as one kernel that reads and writes both operands once.
"""

from dataclasses import fields
from typing import Literal

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.number_formats import DTYPE_BYTES
from costmodel.ops.op_types import Elementwise, Ints, Op
from costmodel.ops.small_ops import small_op
from simulator.model.cell import KernelChoices
from simulator.model.linear import Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """RMSNorm (scale) or LayerNorm (scale and shift) over ``width`` elements; some families learn less of the two."""

    kind: Literal["rmsnorm", "layernorm"]
    width: int
    learned: Literal["all", "scale", "nothing"] = "all"

    def parameters(self) -> int:
        """Scale, and shift where there is one."""
        vectors = {"all": 2 if self.kind == "layernorm" else 1, "scale": 1, "nothing": 0}
        return self.width * vectors[self.learned]

    def weight_bytes(self, dtype: str) -> int:
        """Replicated on every rank."""
        return int(self.parameters() * DTYPE_BYTES[dtype])

    def plain(self, m: Ints, dtype: str) -> Elementwise:
        """Return the norm alone."""
        return small_op(self.kind, rows=m, width=self.width, dtype=dtype)

    def add_into(self, m: Ints, dtype: str, consumer: Linear, kernels: KernelChoices) -> list[Op]:
        """Residual add and norm as one kernel, then the rounding ``consumer`` needs, fused or not."""
        name = f"add_{self.kind}"
        rows_within = kernels.norm_in_all_reduce_bytes // int(self.width * DTYPE_BYTES[dtype])
        if consumer.quantises_activations and kernels.rounds(consumer) == "fused":
            return [_after_all_reduce(consumer.rounded_by(name, m, width=self.width, dtype=dtype), rows_within)]
        follow = consumer.quantise(m) if kernels.rounds(consumer) == "separate" else []
        return [_after_all_reduce(small_op(name, rows=m, width=self.width, dtype=dtype), rows_within), *follow]


@dataclass(frozen=True, slots=True, kw_only=True)
class NormWithinAllReduce(Elementwise):
    """A norm that is part of the all-reduce before it up to ``rows_within`` tokens, and the kernel ``alone`` above."""

    alone: Elementwise
    rows_within: int


def _after_all_reduce(op: Elementwise, rows_within: int) -> Elementwise:
    if rows_within == 0:
        return op
    named = {field.name: getattr(op, field.name) for field in fields(Elementwise)}
    return NormWithinAllReduce(**named, alone=op, rows_within=rows_within)
