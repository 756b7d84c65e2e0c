"""How the memory left for the KV cache is divided: blocks of context, and the states that linear attention keeps."""

from typing import Final

from cluster_specs.lazy_dataclass import dataclass
from simulator.engine_profiles.start_up import StateRule
from simulator.memory.state_blocks import StatePages, state_bytes_of, state_pages
from simulator.model.cell import keeps_state
from simulator.model.spec import Block
from simulator.plan.plan import Plan

# What the scheduler counts to: a cache of 4 billion tokens, which only a model that keeps nothing per token reaches.
MOST_BLOCKS: Final = 1 << 28


@dataclass(frozen=True, slots=True, kw_only=True)
class KvCache:
    """The KV cache of a rank in blocks of the engine's own size; ``longest_tokens`` of one request fit alone."""

    kv_bytes: int
    block_bytes: int
    blocks: int
    longest_tokens: int
    state_slots: int | None = None


def kv_cache(
    rule: StateRule | None,
    plan: Plan,
    blocks: tuple[tuple[Block, int], ...],
    kv: int,
    *,
    block_size: int,
    context_tokens: int | None,
    num_gpu_blocks: int | None,
    caches_prefixes: bool,
) -> KvCache:
    """Divide ``kv`` bytes into blocks; states of linear attention are kept as the engine keeps them (``rule``)."""
    state_bytes = 0.0 if rule is None else state_bytes_of(plan, blocks)
    if rule is not None and rule.layout == "pages" and state_bytes:
        pages = state_pages(plan, blocks, block_size)
        if pages is not None:
            shared = max(0, kv) // pages.block_bytes if num_gpu_blocks is None else num_gpu_blocks
            kv = kv if num_gpu_blocks is None else shared * pages.block_bytes
            return _paged(pages, kv, shared, block_size, context_tokens, caches_prefixes=caches_prefixes)
    state_slots, has_pool = None, rule is not None and rule.layout == "pool" and state_bytes > 0
    if rule is not None and has_pool:
        pool = max(0, int(kv * rule.pool_ratio / (1 + rule.pool_ratio)))
        kv -= pool
        state_slots = int(pool / state_bytes) // (rule.pool_states_per_sequence if caches_prefixes else 1)
    block_bytes = _block_bytes(plan, blocks, block_size, context_tokens, has_pool=has_pool)
    held = min(max(0, kv) // block_bytes, MOST_BLOCKS) if num_gpu_blocks is None else num_gpu_blocks
    return KvCache(
        kv_bytes=kv if num_gpu_blocks is None else num_gpu_blocks * block_bytes,
        block_bytes=block_bytes,
        blocks=held,
        longest_tokens=held * block_size,
        state_slots=state_slots,
    )


def _paged(
    pages: StatePages, kv: int, shared: int, block_size: int, context_tokens: int | None, *, caches_prefixes: bool
) -> KvCache:
    """``shared`` blocks of attention and states, as blocks of ``block_size`` that carry a mean request's share."""
    context = context_tokens or pages.block_tokens
    held = pages.blocks_of(context, caches_prefixes=caches_prefixes) * pages.block_bytes
    block_bytes = max(1, round(held * block_size / context))
    return KvCache(
        kv_bytes=kv,
        block_bytes=block_bytes,
        blocks=max(0, kv) // block_bytes,
        longest_tokens=pages.longest(shared, caches_prefixes=caches_prefixes),
        state_slots=shared,
    )


def _block_bytes(
    plan: Plan,
    blocks: tuple[tuple[Block, int], ...],
    block_size: int,
    context_tokens: int | None,
    *,
    has_pool: bool,
) -> int:
    """Bytes of one KV block over the layers of a stage; windowed layers count the share of the context they keep."""
    total = 0.0
    for block, count in blocks:
        for cell in block.cells:
            call = cell.attention(plan)
            window = call.decode.window if call is not None and not call.is_sparse else 0
            share = 1.0
            if window and context_tokens is not None:
                share = min(1.0, (window + block_size) / context_tokens)
            total += count * share * cell.kv_bytes_per_token(plan) * block_size
            if keeps_state(cell) and not (has_pool and cell.is_recurrent):
                # A request's state does not grow: it weighs on the blocks of the context a request holds on average.
                total += count * cell.kv_bytes_per_request(plan) * block_size / max(context_tokens or 0, block_size)
    return max(1, round(total))
