"""CUDA-graph capture of a serving engine: which steps run as graphs, and of how many tokens."""

from itertools import pairwise
from typing import Annotated, Literal

from cluster_specs.files.declared import Field, field_validator
from simulator.engine_profiles.graph_modes import MOST_GRAPH_TOKENS
from simulator.engine_profiles.profile_section import GraphTokens, ProfileSection, Source


class GraphCapture(ProfileSection):
    """CUDA-graph capture: which steps run as graphs, and the token counts they are padded to."""

    memory_is_reserved: bool  # set aside before the KV cache is sized
    decode: Literal["full", "piecewise", "none"]
    mixed: Literal["piecewise", "none"]
    sizes: list[GraphTokens]  # ascending
    # Sizes go on in steps up to this many tokens.
    max_tokens: Annotated[int, Field(ge=0, le=MOST_GRAPH_TOKENS)]
    step: GraphTokens
    # Replaces it for an architecture, whatever the number of sequences.
    max_tokens_by_model: dict[str, GraphTokens] = Field(default_factory=dict)
    follows_sequences: bool = True  # no size above twice the sequences
    source: Source

    @field_validator("sizes")
    @classmethod
    def _ascending(cls, sizes: list[int]) -> list[int]:
        for before, after in pairwise(sizes):
            if after <= before:
                msg = f"{after} follows {before}, must be ascending without repeats"
                raise ValueError(msg)
        return sizes

    def capture_sizes(self, max_num_seqs: int) -> list[int]:
        """Token counts a graph exists for, ascending; none above twice ``max_num_seqs`` where they follow it."""
        top = min(self.max_tokens, 2 * max_num_seqs) if self.follows_sequences else self.max_tokens
        last = self.sizes[-1] if self.sizes else 0
        return [size for size in [*self.sizes, *range(last + self.step, self.max_tokens + 1, self.step)] if size <= top]

    def reserved_graphs(self, max_num_seqs: int) -> int:
        """Return the number of graphs memory is set aside for: each size once per graph mode."""
        if not self.memory_is_reserved:
            return 0
        modes = {self.decode, self.mixed} - {"none"}
        return len(modes) * len(self.capture_sizes(max_num_seqs))
