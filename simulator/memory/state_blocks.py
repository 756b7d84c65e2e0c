"""What the states of linear-attention layers take of the KV cache: a request's state does not grow with its sequence.

Paged engines (vLLM) keep one kind of block for all layers. The attention block grows, in whole kernel blocks, until
one layer's page of it holds one layer's state; states are padded to it, and layers form groups of equal size that take
their blocks from one pool:

    tokens per block  = ceil(state bytes / (b * KV bytes per token)) * b,   b = the engine's own block size
    bytes per block   = layers per group * tokens per block * KV bytes per token

so that a request takes blocks for its context in each attention group, and one or two in each group of states. Where
there is no attention a block is the state of all layers, and a request of any length takes one or two.
Qwen3.5-27B has pages of 784 tokens at tp 1, 3 groups of states and 1 of attention. Source: vLLM 0.33.0,
platforms/interface.py (``_align_hybrid_block_size``) and v1/core/kv_cache_planning.py.
"""

from math import ceil
from typing import Final

from cluster_specs.lazy_dataclass import dataclass
from simulator.model.cell import keeps_state
from simulator.model.spec import Block
from simulator.plan.plan import Plan

_ANY_LENGTH: Final = 1 << 32  # more tokens than a model may be asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePages:
    """The one kind of block that attention and states share on a rank."""

    block_tokens: int
    block_bytes: int  # over the layers of one group
    attention_groups: int
    state_groups: int

    def blocks_of(self, context_tokens: int, *, caches_prefixes: bool) -> int:
        """Blocks a request of ``context_tokens`` holds.

        A prefix cache keeps the state at the last block's end beside the running one.
        """
        pages = max(1, ceil(context_tokens / self.block_tokens))
        states = min(2, pages) if caches_prefixes else 1
        return self.attention_groups * pages + self.state_groups * states

    def longest(self, blocks: int, *, caches_prefixes: bool) -> int:
        """Tokens of the longest request that ``blocks`` blocks hold alone."""
        if not self.attention_groups:
            return _ANY_LENGTH if blocks >= self.blocks_of(_ANY_LENGTH, caches_prefixes=caches_prefixes) else 0
        pages = (blocks - self.state_groups * (2 if caches_prefixes else 1)) // self.attention_groups
        return max(0, pages) * self.block_tokens


def state_pages(plan: Plan, blocks: tuple[tuple[Block, int], ...], block_size: int) -> StatePages | None:
    """Return the blocks of a stage that has states; None where it has none."""
    token_bytes, attention_layers = _largest(plan, blocks, is_state=False)
    state_bytes, state_layers = _largest(plan, blocks, is_state=True)
    if not state_layers:
        return None
    if not attention_layers:
        whole = round(state_layers * state_bytes)
        return StatePages(block_tokens=block_size, block_bytes=whole, attention_groups=0, state_groups=1)
    block_tokens = max(1, ceil(state_bytes / (block_size * token_bytes))) * block_size
    fewer, more = sorted((attention_layers, state_layers))
    group = more if more < 1.5 * fewer else fewer
    return StatePages(
        block_tokens=block_tokens,
        block_bytes=round(group * block_tokens * token_bytes),
        attention_groups=ceil(attention_layers / group),
        state_groups=ceil(state_layers / group),
    )


def state_bytes_of(plan: Plan, blocks: tuple[tuple[Block, int], ...]) -> float:
    """Bytes of one request's states over the layers of a stage."""
    return sum(
        count * cell.kv_bytes_per_request(plan)
        for block, count in blocks
        for cell in block.cells
        if keeps_state(cell) and cell.is_recurrent
    )


def _largest(plan: Plan, blocks: tuple[tuple[Block, int], ...], *, is_state: bool) -> tuple[float, int]:
    """Bytes of the largest layer's state, or of its KV per token, and the number of such layers."""
    largest, layers = 0.0, 0
    for block, count in blocks:
        for cell in block.cells:
            if is_state:
                held = cell.kv_bytes_per_request(plan) if keeps_state(cell) and cell.is_recurrent else 0.0
            else:
                held = cell.kv_bytes_per_token(plan)
            if held:
                largest, layers = max(largest, held), layers + count
    return largest, layers
