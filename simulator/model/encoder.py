"""A tower in front of the decoder: the encoder of an encoder-decoder, an audio encoder, or a vision tower.

It runs once per item (a prompt, a clip, an image) and every token of the item sees every other, so its cost depends on
the item alone. What it hands over are either prompt tokens (`outputs`) or keys and values of cross attention.
"""

import math
from typing import Literal

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.number_formats import DTYPE_BYTES
from costmodel.ops.op_types import Op
from simulator.model.block import Block
from simulator.model.cell import DEFAULT_KERNELS, KernelChoices
from simulator.model.cells.encoder_attention import EncoderAttention
from simulator.model.linear import Linear, activation_dtype
from simulator.plan.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """A stack of bidirectional blocks between an input projection and, for towers, a projector to the decoder.

    ``tokens`` per item (0 = as many as the prompt has); ``outputs`` = prompt tokens an item becomes (0 = none).
    ``other_parameters`` are positions, class tokens and norms outside the blocks; they are replicated.
    """

    kind: Literal["text", "audio", "vision"]
    dtype: str
    unique_blocks: tuple[Block, ...]
    layers: tuple[int, ...]
    tokens: int
    outputs: int = 0
    front: tuple[Linear, ...] = ()
    projector: tuple[Linear, ...] = ()
    other_parameters: int = 0

    def parameters(self) -> int:
        """Blocks, input projection, projector and what lies between."""
        blocks = sum(self.unique_blocks[index].parameters() for index in self.layers)
        outer = sum(linear.parameters() for linear in (*self.front, *self.projector))
        return blocks + outer + self.other_parameters

    def weight_bytes(self, plan: Plan) -> int:
        """Blocks sharded over the tensor axis, everything else replicated."""
        blocks = sum(self.unique_blocks[index].weight_bytes(plan) for index in self.layers)
        outer = sum(linear.stored_bytes() for linear in (*self.front, *self.projector))
        return blocks + outer + math.ceil(self.other_parameters * DTYPE_BYTES[activation_dtype(plan, self.dtype)])

    def item_ops(self, plan: Plan, tokens: int | None = None, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:
        """Every op of one rank for one item of ``tokens`` tokens (by default the tower's own fixed count)."""
        length = self.tokens if tokens is None else tokens
        ops: list[Op] = [linear.gemm(length) for linear in self.front]
        for index in self.layers:
            for cell in self.unique_blocks[index].cells:
                ops += cell.token_ops(plan, length, kernels)
                if isinstance(cell, EncoderAttention):
                    ops.append(cell.item_attention(plan, length))
        return ops + [linear.gemm(self.outputs or length) for linear in self.projector]

    def refusal(self, plan: Plan) -> str | None:
        """Why ``plan`` cannot shard the tower; None when it can."""
        reasons = (cell.refusal(plan) for block in self.unique_blocks for cell in block.cells)
        return next((f"{self.kind} encoder: {reason}" for reason in reasons if reason), None)
