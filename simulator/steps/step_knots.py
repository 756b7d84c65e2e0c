"""Where the curves of a step are evaluated: how large a step may be, and the knots between which costs are lines.

Token curves have a knot at every CUDA-graph size and eight per octave; attention has knots of its own variables.
"""

import math

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from simulator.engine_profiles.engine_profile import EngineProfile

I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """The largest step the tables must answer for."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    kv_tokens: int  # KV capacity of one replica
    queries: int = 1  # tokens a decoding sequence runs per step: one and its drafts
    served_seqs: int = 0  # sequences the server captures graphs for, where they are more than ``max_num_seqs``

    @property
    def decode_tokens(self) -> int:
        """Tokens of a step in which every sequence decodes."""
        return self.max_num_seqs * self.queries

    @property
    def captured_tokens(self) -> int:
        """Tokens of a step in which every sequence the server admits decodes: what its graphs are captured for."""
        return max(self.max_num_seqs, self.served_seqs) * self.queries


@dataclass(frozen=True, slots=True, kw_only=True)
class TableKnots:
    """Where curves are evaluated: tokens, sampled rows, (batch, total KV) of decode, pairs and KV of prefill."""

    tokens: I64
    rows: I64
    batch: I64
    kv: I64
    pairs: I64
    reads: I64


def knots_of(profile: EngineProfile, shape: StepShape) -> TableKnots:
    """Return the knots that every step up to ``shape`` lies between."""
    budget, seqs = shape.max_num_batched_tokens, shape.max_num_seqs
    captured = profile.graphs.capture_sizes(shape.captured_tokens)
    tokens = {size for size in [*captured, *_steps(1, budget, 8)] if size <= budget} | {budget}
    largest_pairs = budget * shape.max_model_len
    return TableKnots(
        tokens=np.asarray(sorted(tokens), dtype=np.int64),
        rows=np.asarray(_steps(1, shape.decode_tokens, 2), dtype=np.int64),
        batch=np.asarray(_steps(1, max(seqs, 2), 2), dtype=np.int64),
        kv=np.asarray([0, *covering(64, max(shape.kv_tokens, 128), 2)], dtype=np.int64),
        pairs=np.asarray([0, *covering(256, max(largest_pairs, 512), 1)], dtype=np.int64),
        reads=np.asarray([0, *covering(512, max(shape.kv_tokens, 1024), 1)], dtype=np.int64),
    )


def padded_tokens(profile: EngineProfile, shape: StepShape) -> I64:
    """Next captured size of every token count; above the largest, and of none at all, the count itself."""
    tokens = np.arange(shape.max_num_batched_tokens + 1, dtype=np.int64)
    sizes = np.asarray(profile.graphs.capture_sizes(shape.captured_tokens), dtype=np.int64)
    if not len(sizes):
        return tokens
    captured = tokens[1 : sizes[-1] + 1]
    captured[:] = sizes[np.searchsorted(sizes, captured)]
    return tokens


def covering(first: int, least: int, per_octave: int) -> list[int]:
    """Whole numbers first x 2^(i / per_octave) up to the first that reaches ``least``.

    All plans share one grid, whatever their limits, so that they share measured shapes and priced curves.
    """
    octaves = max(1, math.ceil(per_octave * math.log2(least / first) - 1e-9))
    return [round(first * 2.0 ** (index / per_octave)) for index in range(octaves + 1)]


def _steps(first: int, last: int, per_octave: int) -> list[int]:
    """Return the same numbers up to ``last``, which is always the end."""
    return [*(value for value in dict.fromkeys(covering(first, last, per_octave)) if value < last), last]
