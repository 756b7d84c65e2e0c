"""A tower in front of the decoder: the encoder of an encoder-decoder, an audio encoder, or a vision tower.

It runs once per item (a prompt, a clip, an image) and every token of the item sees every other, so its cost depends on
the item alone. What it hands over are either prompt tokens (`outputs`) or keys and values of cross attention.
"""

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.number_formats import DTYPE_BYTES
from costmodel.ops.op_types import Ints, Op
from simulator.model.block import Block
from simulator.model.cell import DEFAULT_KERNELS, KernelChoices
from simulator.model.cells.encoder_attention import EncoderAttention
from simulator.model.collectives import tensor_all_gather
from simulator.model.item_rules import Clip, ImageRule
from simulator.model.linear import Linear, activation_dtype
from simulator.plan.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """A stack of bidirectional blocks between an input projection and, for towers, a projector to the decoder.

    ``tokens`` per item (0 = as many as the item has); ``outputs`` = prompt tokens an item becomes (0 = none, or as the
    item has). ``merged`` tokens become one row of the projector. ``other_parameters`` are positions, class tokens and
    norms outside the blocks; they are replicated. ``rule`` says what images or clips become; None for text.
    ``keeps_items_whole``: engines end no chunk of a prompt within an item, whose tokens all see each other there too.
    """

    kind: Literal["text", "audio", "vision"]
    dtype: str
    unique_blocks: tuple[Block, ...]
    layers: tuple[int, ...]
    tokens: int
    outputs: int = 0
    merged: int = 1
    front: tuple[Linear, ...] = ()
    projector: tuple[Linear, ...] = ()
    other_parameters: int = 0
    rule: ImageRule | Clip | None = None
    keeps_items_whole: bool = False
    is_spread: bool = False  # whole items over the tensor ranks, each of which has all weights

    @property
    def tokens_per_row(self) -> float:
        """Tokens the encoder runs for each row it hands over, of the largest item."""
        return 1.0 if self.rule is None else self.rule.largest.tokens / self.rule.largest.embeds

    def parameters(self) -> int:
        """Blocks, input projection, projector and what lies between."""
        blocks = sum(self.unique_blocks[index].parameters() for index in self.layers)
        outer = sum(linear.parameters() for linear in (*self.front, *self.projector))
        return blocks + outer + self.other_parameters

    def weight_bytes(self, plan: Plan) -> int:
        """Blocks sharded over the tensor axis unless items are spread over it, everything else replicated."""
        plan = self._plan(plan)
        blocks = sum(self.unique_blocks[index].weight_bytes(plan) for index in self.layers)
        outer = sum(linear.stored_bytes() for linear in (*self.front, *self.projector))
        return blocks + outer + math.ceil(self.other_parameters * DTYPE_BYTES[activation_dtype(plan, self.dtype)])

    def item_ops(self, plan: Plan, tokens: int | None = None, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:
        """Every op of one rank for one item of ``tokens`` tokens (by default the tower's own fixed count)."""
        length = self.tokens if tokens is None else tokens
        ops: list[Op] = []
        for parts in (self.token_ops(plan, length, kernels), self.attention_ops(plan, length**2)):
            ops += [op for op, count in parts for _ in range(count)]
        return ops

    def token_ops(self, plan: Plan, tokens: Ints, kernels: KernelChoices = DEFAULT_KERNELS) -> Iterator[tuple[Op, int]]:
        """Yield the ops of one rank for items of so many tokens together, and how often each runs.

        Attention over windows is among them: windows are as good as full. Attention over whole items is not. Where
        items are spread, tokens are those of one rank, and all of them gather the rows.
        """
        whole, plan = plan, self._plan(plan)
        for linear in self.front:
            yield linear.gemm(tokens), 1
        for index, block in enumerate(self.unique_blocks):
            count = self.layers.count(index)
            for cell in block.cells:
                for op in cell.token_ops(plan, tokens, kernels):
                    yield op, count
                if isinstance(cell, EncoderAttention) and cell.window_tokens:
                    yield cell.window_attention(plan, tokens), count
        for linear in self.projector:
            yield linear.gemm(np.maximum(tokens // self.merged, 1)), 1
        if self.is_spread and self.projector:
            rows = np.maximum(tokens // self.merged, 1) * whole.tp
            dtype = activation_dtype(whole, self.dtype)
            yield from ((op, 1) for op in tensor_all_gather(whole, rows, self.projector[-1].n, dtype))

    def attention_ops(self, plan: Plan, pairs: Ints) -> Iterator[tuple[Op, int]]:
        """Yield the attention over whole items with so many pairs of tokens together, priced as that of one item."""
        plan = self._plan(plan)
        tokens = np.maximum(np.rint(np.sqrt(pairs)).astype(np.int64), 1)
        for index, block in enumerate(self.unique_blocks):
            for cell in block.cells:
                if isinstance(cell, EncoderAttention) and not cell.window_tokens:
                    yield cell.item_attention(plan, tokens), self.layers.count(index)

    def refusal(self, plan: Plan) -> str | None:
        """Why ``plan`` cannot shard the tower; None when it can."""
        plan = self._plan(plan)
        reasons = (cell.refusal(plan) for block in self.unique_blocks for cell in block.cells)
        return next((f"{self.kind} encoder: {reason}" for reason in reasons if reason), None)

    def ranks(self, plan: Plan) -> int:
        """Ranks that whole items are spread over; 1 where every rank runs a part of each."""
        return plan.tp if self.is_spread else 1

    def _plan(self, plan: Plan) -> Plan:
        """Return the plan as the tower's own layers see it."""
        return Plan(weight_dtype=plan.weight_dtype, kv_dtype=plan.kv_dtype) if self.is_spread else plan
