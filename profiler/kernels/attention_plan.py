"""How our paged attention is cut into programs: tiles of rows, and ranges of keys where tiles alone leave a GPU idle.

A row is a (query, head) pair of one KV head: a sequence of q queries has q x group rows, cut into tiles. A tile sees
the keys from its first row's window to its last row's position. Ranges are as long as fills every processor with two
programs, but at least 256 keys; a tile with several ranges is merged afterwards.
"""

import math
from collections.abc import Sequence
from typing import Final

from cluster_specs.lazy_dataclass import dataclass

_MIN_SPLIT_KEYS: Final = 256
_PROGRAMS_PER_PROCESSOR: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTile:
    """A program's rows and keys per turn, its warps and pipeline stages."""

    rows: int
    keys: int
    warps: int
    stages: int

    @classmethod
    def choose(cls, packed_rows: int, head_dim: int) -> "AttentionTile":
        """Choose by the largest number of rows of a sequence.

        Decode is bound by the keys' way into shared memory: few rows, deep pipeline. Prefill wants the rows that let a
        key be used 64 to 128 times, as far as registers hold their sums; MLA's 512 wide ones are held for 32 rows. The
        page table, read before the keys, takes one of the stages.
        """
        most = 128 if head_dim <= 128 else 64 if head_dim <= 256 else 32
        rows = min(max(16, 1 << (packed_rows - 1).bit_length()), most)
        keys = 64 if head_dim <= 128 else 32
        if rows <= 32 and head_dim <= 256:
            return cls(rows=rows, keys=keys, warps=4, stages=5)
        return cls(rows=rows, keys=keys, warps=4 if rows == 64 and keys == 64 else 8, stages=3)


class AttentionPlan:
    """Which program works on which rows and keys.

    ``work`` tuples: sequence, its first token, first row, rows of the sequence, first key, end of the keys, keys before
    the first query, slot of the part (-1: it is the result). ``merge`` tuples: first token, first row, rows of the
    sequence, first slot, slots. ``slots`` counts the parts.
    """

    def __init__(
        self,
        lengths_q: Sequence[int],
        lengths_kv: Sequence[int],
        *,
        group: int,
        kv_heads: int,
        head_dim: int,
        window: int,
        processors: int,
    ) -> None:
        self.group = group
        self.kv_heads = kv_heads
        self.window = window
        self.tile = AttentionTile.choose(max(lengths_q) * group, head_dim)
        self.work: list[tuple[int, ...]] = []
        self.merge: list[tuple[int, ...]] = []
        self.slots = 0
        tiles = self._tiles(lengths_q, lengths_kv)
        wanted = sum(end - begin for *_, begin, end, _ in tiles) * kv_heads / (processors * _PROGRAMS_PER_PROCESSOR)
        split = max(_MIN_SPLIT_KEYS, wanted)
        # The longest first, so that none starts when the others are done.
        for sequence, token, row, rows, begin, end, prefix in sorted(tiles, key=lambda tile: tile[4] - tile[5]):
            count = math.ceil((end - begin) / split)
            length = math.ceil((end - begin) / count / self.tile.keys) * self.tile.keys
            starts = range(begin, end, length)
            is_split = len(starts) > 1
            for index, start in enumerate(starts):
                slot = self.slots + index if is_split else -1
                self.work.append((sequence, token, row, rows, start, min(start + length, end), prefix, slot))
            if is_split:
                self.merge.append((token, row, rows, self.slots, len(starts)))
                self.slots += len(starts)

    def _tiles(self, lengths_q: Sequence[int], lengths_kv: Sequence[int]) -> list[tuple[int, ...]]:
        """Tuples of sequence, first token, first row, rows, first key, end of the keys, keys before the first query."""
        tiles: list[tuple[int, ...]] = []
        token = 0
        for sequence, (q, kv) in enumerate(zip(lengths_q, lengths_kv, strict=True)):
            rows, prefix = q * self.group, kv - q
            for row in range(0, rows, self.tile.rows):
                last_query = (min(row + self.tile.rows, rows) - 1) // self.group
                begin = max(0, prefix + row // self.group - self.window + 1) if self.window else 0
                tiles.append((sequence, token, row, rows, begin, prefix + last_query + 1, prefix))
            token += q
        return tiles
