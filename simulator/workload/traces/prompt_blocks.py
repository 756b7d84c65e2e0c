"""Numbers the blocks of prompts whose tokens a trace holds, so that equal beginnings get equal ids."""

from collections.abc import Sequence
from dataclasses import field
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from simulator.workload.columns import RawChunk, objects

_ROOT: Final = -1
_MOST_BLOCKS: Final = 4_000_000  # of different content: about 250 bytes each


@dataclass(slots=True, kw_only=True)
class PromptBlocks:
    """Gives every block of ``block_tokens`` tokens an id that names it and everything before it in its prompt."""

    block_tokens: int
    _id_of: dict[tuple[int, bytes], int] = field(default_factory=dict)

    def number(
        self, chunk: RawChunk, key: str, prompt_tokens: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the ids of the whole blocks of column ``key`` (lists of token ids) as (counts[n], flat ids).

        Raises UserError where a list is not one of whole numbers, or not as long as the prompt.
        """
        counts: list[int] = []
        ids: list[int] = []
        for index, row in enumerate(objects(chunk.values[key])):
            if not isinstance(row, list) or not set(map(type, row)) <= {int}:
                raise chunk.refuse(index, key, row, "a list of token ids")
            if len(row) != prompt_tokens[index]:
                raise UserError(
                    f"{chunk.path}:{chunk.line[index]}: {key} holds {len(row)} tokens, "
                    f"the prompt {prompt_tokens[index]}"
                )
            own = self._of(cast("Sequence[int]", row))
            if len(self._id_of) > _MOST_BLOCKS:
                raise UserError(
                    f"{chunk.path}:{chunk.line[index]}: the prompts hold more than {_MOST_BLOCKS:,} different blocks "
                    f"of {self.block_tokens} tokens, the most that is read",
                    hint="--limit N reads the first N requests; --block-tokens takes larger blocks",
                )
            counts.append(len(own))
            ids += own
        return np.array(counts, dtype=np.int64), np.array(ids, dtype=np.int64)

    def _of(self, tokens: Sequence[int]) -> list[int]:
        found: list[int] = []
        before = _ROOT
        for start in range(0, len(tokens) - self.block_tokens + 1, self.block_tokens):
            text = repr(tokens[start : start + self.block_tokens]).encode()
            before = self._id_of.setdefault((before, text), len(self._id_of))
            found.append(before)
        return found
