"""KV blocks of tokens. A division costs as much as the rest of a small function; most block sizes are powers of two."""

from simulator.engine.kernel import kernel
from simulator.engine.state import State


@kernel
def full_blocks(state: State, tokens: int) -> int:
    """KV blocks that ``tokens`` fill."""
    if state.block_bits >= 0:
        return tokens >> state.block_bits
    return tokens // state.block_size


@kernel
def blocks_for(state: State, tokens: int) -> int:
    """KV blocks that hold ``tokens``."""
    return full_blocks(state, tokens + state.block_size - 1)


@kernel
def phase(state: State, tokens: int) -> int:
    """Tokens in the block that is not full, or 0."""
    if state.block_bits >= 0:
        return tokens & (state.block_size - 1)
    return tokens % state.block_size
