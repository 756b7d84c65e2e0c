"""A model as the simulator sees it: a few unique blocks and the order they repeat in.

The repetition is what makes large models cheap: a step's cost is that of the unique blocks times their counts,
whether a model has 8 billion or a trillion parameters.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import field, fields, is_dataclass, replace
from itertools import groupby
from typing import Final

from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.number_formats import DTYPE_BYTES
from costmodel.ops.op_types import Collective, Ints, Op
from costmodel.ops.small_ops import small_op
from simulator.model.block import Block
from simulator.model.cell import DEFAULT_KERNELS, Cell, KernelChoices, keeps_state
from simulator.model.cells.attention import SelfAttention
from simulator.model.cells.cross_attention import CrossAttention
from simulator.model.cells.draft_input import DraftInput
from simulator.model.cells.latent_attention import LatentAttention
from simulator.model.cells.moe import MixtureOfExperts
from simulator.model.checkpoint_kv import CheckpointKv
from simulator.model.collectives import tensor_all_gather, tensor_all_reduce
from simulator.model.encoder import Encoder
from simulator.model.expert_layout import ExpertLayout
from simulator.model.linear import Linear, WeightFormat, activation_dtype
from simulator.model.norm import Norm
from simulator.model.rope import Positions
from simulator.plan.plan import Plan

__all__ = ["Block", "Embedding", "ModelSpec", "padded_vocab", "stage_layers"]

VOCAB_PADDING: Final = 64  # engines pad the vocabulary to whole blocks of this many rows


@dataclass(frozen=True, slots=True, kw_only=True)
class PerLayerTable:
    """A second embedding: for every token a narrow slice per layer, to which a projection of the first is added."""

    rows: int
    width: int  # of one layer's slice
    num_layers: int

    @property
    def row_width(self) -> int:
        """Slices of all layers together."""
        return self.width * self.num_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """Token rows, learned positions, an optional norm and an optional projection to the hidden width."""

    width: int  # of a token row; differs from the hidden width only where it is projected
    positions: int = 0  # rows of a learned position table
    norm: Norm | None = None
    projected: bool = False
    per_layer: PerLayerTable | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A decoder (or the decoder half of an encoder-decoder) with its embedding and head.

    ``layers[i]`` indexes ``unique_blocks``. ``quantisation`` is the checkpoint's scheme, None when unquantised.
    """

    name: str
    architecture: str
    hidden_size: int
    vocab_size: int
    max_position: int
    dtype: str
    quantisation: str | None
    tied_embeddings: bool
    unique_blocks: tuple[Block, ...]
    layers: tuple[int, ...]
    embedding: Embedding
    final_norm: Norm | None
    head_bias: bool = False
    head_weights: WeightFormat = field(default_factory=lambda: WeightFormat(scheme="bf16"))
    encoder: Encoder | None = None
    tower: Encoder | None = None  # what images or audio run through, left out of memory until requests hold any
    left_out: tuple[str, ...] = ()  # parts of the checkpoint that text requests never use, such as a vision tower
    positions: Positions = field(default_factory=Positions)  # what scales ``max_position``
    checkpoint_kv: CheckpointKv | None = None  # the KV-cache format the checkpoint states
    checkpoint: str | None = None  # the Hugging Face id it was asked for by
    draft_layers: int = 0  # multi-token-prediction layers of the checkpoint, none of them among ``layers``
    notes: tuple[str, ...] = field(default=(), compare=False)  # what a reader of an answer should know of the config
    _schemes: frozenset[str] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def schemes(self) -> frozenset[str]:
        """Schemes of the quantised matrices of all blocks; empty when there are none."""
        if self._schemes is None:  # every plan asks, and the walk takes as long as a tenth of its compilation
            matrices = (self.head_weights, *(item for block in self.unique_blocks for item in _formats_in(block)))
            object.__setattr__(self, "_schemes", frozenset(item.scheme for item in matrices if item.is_quantised))
        assert self._schemes is not None
        return self._schemes

    @property
    def num_layers(self) -> int:
        """Layers of the decoder."""
        return len(self.layers)

    @property
    def blocks(self) -> tuple[tuple[Block, int], ...]:
        """Runs of equal layers, in order."""
        return tuple((self.unique_blocks[index], len(list(run))) for index, run in groupby(self.layers))

    def stage_blocks(self, plan: Plan) -> tuple[tuple[tuple[Block, int], ...], ...]:
        """For every pipeline stage, its unique blocks and how often each occurs in it."""
        stages, start = [], 0
        for length in plan.stage_layers or stage_layers(self.num_layers, plan.pp):
            counts = Counter(self.layers[start : start + length])
            stages.append(tuple((self.unique_blocks[index], count) for index, count in sorted(counts.items())))
            start += length
        return tuple(stages)

    def parameters(self) -> int:
        """Parameters of the whole model, exact; a tied head is counted once."""
        tower = self.encoder.parameters() if self.encoder else 0
        return sum(block.parameters() * count for block, count in self.blocks) + self._outer_parameters() + tower

    def active_parameters(self) -> int:
        """Parameters one decoder token meets: of the experts only the chosen ones; an encoder is not among them."""
        return sum(block.active_parameters() * count for block, count in self.blocks) + self._outer_parameters()

    def kv_bytes_per_token(self, plan: Plan | None = None) -> int:
        """KV cache per token over all layers, on one rank of every stage together; windows not taken into account."""
        plan = plan or Plan()
        return round(sum(block.kv_bytes_per_token(plan) * count for block, count in self.blocks))

    def stage_weight_bytes(self, plan: Plan) -> tuple[int, ...]:
        """Weights of one rank of every pipeline stage."""
        stages = [
            sum(block.weight_bytes(plan) * count for block, count in blocks) for blocks in self.stage_blocks(plan)
        ]
        dtype = activation_dtype(plan, self.dtype)
        stages[0] += self._embedding_bytes(plan, dtype) + (self.encoder.weight_bytes(plan) if self.encoder else 0)
        if not (self.tied_embeddings and plan.pp == 1):
            stages[-1] += self._head(plan).stored_bytes()
        if self.final_norm is not None:
            stages[-1] += self.final_norm.weight_bytes(dtype)
        return tuple(stages)

    def embedding_ops(self, plan: Plan, m: Ints) -> list[Op]:
        """Vocabulary-parallel gather and its all-reduce, once per step on the first stage."""
        dtype = activation_dtype(plan, self.dtype)
        width = self.embedding.width
        ops: list[Op] = [small_op("embedding", rows=m, width=width, dtype=dtype)]
        if self.embedding.positions:
            ops.append(small_op("embedding", rows=m, width=self.hidden_size, dtype=dtype))
        ops += tensor_all_reduce(plan, m, width, dtype)
        if self.embedding.projected:
            ops.append(self._projection(dtype).gemm(m))
        if self.embedding.norm is not None:
            ops.append(self.embedding.norm.plain(m, dtype))
        if (table := self.embedding.per_layer) is not None:
            ops.append(small_op("embedding", rows=m, width=table.row_width, dtype=dtype))
            ops += tensor_all_reduce(plan, m, table.row_width, dtype)
            ops.append(self._per_layer_projection(table, dtype, plan.tp).gemm(m))
            ops += tensor_all_gather(plan, m, table.row_width, dtype)
            ops.append(Norm(kind="rmsnorm", width=table.row_width).plain(m, dtype))
        return ops

    def final_norm_ops(self, plan: Plan, m: Ints, kernels: KernelChoices = DEFAULT_KERNELS) -> list[Op]:
        """Residual add and final norm over all ``m`` tokens of the step, on the last stage."""
        if self.final_norm is None:
            return []
        dtype = activation_dtype(plan, self.dtype)
        return self.final_norm.add_into(m, dtype, self._head(plan), kernels)

    def head_ops(self, plan: Plan, rows: Ints) -> list[Op]:
        """Head GEMM on the sampled rows only, logits gathered over the tensor axis, sampler; on the last stage."""
        dtype = activation_dtype(plan, self.dtype)
        head = self._head(plan)
        ops: list[Op] = [small_op("gather_rows", rows=rows, width=self.hidden_size, dtype=dtype)]
        if self.embedding.projected:
            ops.append(self._projection(dtype).gemm(rows))
        ops.append(head.gemm(rows))
        ops += tensor_all_gather(plan, rows, head.n * plan.tp, dtype)
        ops.append(small_op("sampler", rows=rows, width=self.vocab_size, dtype=dtype))
        return ops

    def send_ops(self, plan: Plan, m: Ints) -> list[Op]:
        """Hidden state and residual to the next stage: each tensor rank sends its share, the receivers gather it."""
        if plan.pp == 1:
            return []
        dtype = activation_dtype(plan, self.dtype)
        payload = 2 * self.hidden_size
        sent = m * payload * int(DTYPE_BYTES[dtype]) // plan.tp
        hop = Collective(kind="send_recv", message_bytes=sent, ranks=2, group_stride=plan.stage_ranks, dtype=dtype)
        return [hop, *tensor_all_gather(plan, m, payload, dtype)]

    def refusal(self, plan: Plan) -> str | None:
        """Why the model's shapes cannot be laid out as ``plan``; None when they can."""
        if plan.pp > self.num_layers:
            return f"pp is {plan.pp}, must be at most the {self.num_layers} layers"
        padded = padded_vocab(self.vocab_size)
        if padded % plan.tp:
            return f"tp is {plan.tp}, must divide the padded vocabulary {padded}"
        if plan.stage_layers is not None and sum(plan.stage_layers) != self.num_layers:
            stated = " + ".join(map(str, plan.stage_layers))
            return f"stages have {stated} = {sum(plan.stage_layers)} layers, {self.name} has {self.num_layers}"
        if (plan.ep > 1 or plan.moe_dp > 1) and not self.has_experts:
            axis = "ep" if plan.ep > 1 else "moe.dp"
            return f"{axis} is above 1, but {self.name} has no experts"
        cells = [cell for block in self.unique_blocks for cell in block.cells]
        if plan.dcp > 1 and not all(map(_can_share_context, cells)):
            return f"dcp is {plan.dcp}, must be 1 where a layer keeps anything but keys and values of attention"
        reason = next((reason for cell in cells if (reason := cell.refusal(plan))), None)
        return reason or (self.encoder.refusal(plan) if self.encoder else None)

    def with_tower(self) -> "ModelSpec":
        """Return the model as it serves images or audio: its tower is loaded."""
        if self.tower is None:
            return self
        name = f"{self.tower.kind} tower"
        left_out = tuple(part for part in self.left_out if part != name)
        return replace(self, encoder=self.tower, tower=None, left_out=left_out)

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the decoder attends to what an encoder makes of the request."""
        return any(isinstance(cell, CrossAttention) for block in self.unique_blocks for cell in block.cells)

    @property
    def has_experts(self) -> bool:
        """Whether some layer is a mixture of experts."""
        return any(block.active_parameters() != block.parameters() for block in self.unique_blocks)

    def with_expert_layout(self, layout: ExpertLayout) -> "ModelSpec":
        """Return the model with its MXFP4 experts stored as an engine's kernel does."""
        return replace(
            self,
            unique_blocks=tuple(
                Block(
                    cells=tuple(
                        replace(cell, layout=layout) if isinstance(cell, MixtureOfExperts) else cell
                        for cell in block.cells
                    )
                )
                for block in self.unique_blocks
            ),
        )

    def with_draft_layer(self) -> "ModelSpec":
        """Return the model with its multi-token-prediction layer behind its last one, which it is like.

        Raises ``ValueError`` for a model that has none.
        """
        if self.draft_layers == 0 or self.final_norm is None:
            raise ValueError(f"{self.name} has no multi-token-prediction layer")
        entry = DraftInput(hidden=self.hidden_size, dtype=self.dtype, norm=self.final_norm)
        layer = Block(cells=(entry, *self.unique_blocks[self.layers[-1]].cells))
        return replace(
            self,
            unique_blocks=(*self.unique_blocks, layer),
            layers=(*self.layers, len(self.unique_blocks)),
            draft_layers=0,
        )

    def _outer_parameters(self) -> int:
        tokens = self.vocab_size * self.embedding.width
        positions = self.embedding.positions * self.hidden_size
        projections = 2 * self._projection(self.dtype).parameters() if self.embedding.projected else 0
        norms = sum(norm.parameters() for norm in (self.embedding.norm, self.final_norm) if norm is not None)
        head = (0 if self.tied_embeddings else tokens) + (self.vocab_size if self.head_bias else 0)
        table = self.embedding.per_layer
        second = 0
        if table is not None:
            projection = self._per_layer_projection(table, self.dtype, 1)
            second = table.rows * table.row_width + projection.parameters() + table.width
        return tokens + positions + projections + norms + head + second

    def _embedding_bytes(self, plan: Plan, dtype: str) -> int:
        rows = padded_vocab(self.vocab_size) // plan.tp * self.embedding.width
        replicated = self.embedding.positions * self.hidden_size
        if self.embedding.projected:
            replicated += 2 * self.hidden_size * self.embedding.width
        if (table := self.embedding.per_layer) is not None:
            rows += padded_vocab(table.rows) // plan.tp * table.row_width
            rows += self._per_layer_projection(table, dtype, plan.tp).parameters()
            replicated += table.width
        norm = self.embedding.norm.weight_bytes(dtype) if self.embedding.norm else 0
        return math.ceil((rows + replicated) * DTYPE_BYTES[dtype]) + norm

    def _head(self, plan: Plan) -> Linear:
        dtype = activation_dtype(plan, self.dtype)
        weights = self.head_weights if self.head_weights.is_quantised else WeightFormat(scheme=dtype)
        rows = padded_vocab(self.vocab_size) // plan.tp
        return Linear(n=rows, k=self.embedding.width, weights=weights, dtype=dtype, bias=self.head_bias)

    def _per_layer_projection(self, table: PerLayerTable, dtype: str, tp: int) -> Linear:
        rows = -(-table.row_width // tp)
        return Linear(n=rows, k=self.hidden_size, weights=WeightFormat(scheme=dtype), dtype=dtype)

    def _projection(self, dtype: str) -> Linear:
        return Linear(n=self.hidden_size, k=self.embedding.width, weights=WeightFormat(scheme=dtype), dtype=dtype)


def _can_share_context(cell: Cell) -> bool:
    """Whether what a cell keeps, if anything, is a row of each token that some rank may hold alone."""
    if isinstance(cell, SelfAttention | LatentAttention):
        return True
    return cell.kv_bytes_per_token(Plan()) == 0 and not keeps_state(cell)


def _formats_in(value: object) -> Iterator[WeightFormat]:
    """Yield the formats anywhere in a block, whatever its cells call them."""
    if isinstance(value, WeightFormat):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _formats_in(item)
    elif is_dataclass(value):
        for part in fields(value):
            yield from _formats_in(getattr(value, part.name))


def padded_vocab(vocab_size: int) -> int:
    """Vocabulary rows engines allocate."""
    return -(-vocab_size // VOCAB_PADDING) * VOCAB_PADDING


def stage_layers(num_layers: int, pp: int, leftover: str = "before_last") -> tuple[int, ...]:
    """Layers of each stage: even, and one more in the stages that an engine gives the ``leftover`` ones to.

    vLLM: from the second-to-last stage backwards; others the last or the first stages, or all of them to the last one.
    """
    even, left = divmod(num_layers, pp)
    stages = [even] * pp
    if leftover == "all_last":
        stages[-1] += left
        return tuple(stages)
    takers = {
        "before_last": [pp - 2 - index for index in range(left)],
        "last": range(pp - left, pp),
        "first": range(left),
    }
    for index in takers[leftover]:
        stages[index] += 1
    return tuple(stages)
