"""ShareGPT conversations, one JSON list or one per line: texts without times.

Lengths are counted by a tokeniser or estimated from characters, and all requests arrive at 0;
``synthetic:like=FILE,rate=...`` draws arrivals over its lengths.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from simulator.workload.columns import MOST_REQUESTS
from simulator.workload.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLengths:
    """How texts become token counts, and which conversations a benchmark keeps (vLLM's limits by default)."""

    count_tokens: Callable[[str], int] | None = None  # None: estimate from characters
    chars_per_token: float = 4.0
    min_tokens: int = 4
    max_prompt_tokens: int = 1024
    max_total_tokens: int = 2048

    def __post_init__(self) -> None:
        if not (math.isfinite(self.chars_per_token) and self.chars_per_token > 0):
            raise UserError(f"chars_per_token is {self.chars_per_token}, must be a positive number")

    def tokens(self, text: str) -> int:
        """Token count of ``text``."""
        if self.count_tokens is not None:
            return self.count_tokens(text)
        return math.ceil(len(text) / self.chars_per_token)


def is_conversation(record: Mapping[str, Any]) -> bool:
    """Tell a conversation by its list of turns."""
    return isinstance(record.get("conversations", record.get("conversation")), list)


def read_sharegpt(path: Path, entries: Iterable[tuple[str, object]], limit: int | None, text: TextLengths) -> Workload:
    """Read conversations, each with its place; UserError names the one that cannot be used."""
    lengths: list[tuple[int, int]] = []
    count, short, outside = 0, 0, 0
    for place, entry in entries:
        if limit is not None and len(lengths) == limit:
            break
        count += 1
        if len(lengths) == MOST_REQUESTS:
            raise UserError(f"{path}: holds more than {MOST_REQUESTS:,} conversations", hint="pass --limit")
        turns = _turn_texts(place, entry)
        if len(turns) < 2:
            short += 1
            continue
        prompt, output = text.tokens(turns[0]), text.tokens(turns[1])
        if (
            min(prompt, output) < text.min_tokens
            or prompt > text.max_prompt_tokens
            or prompt + output > text.max_total_tokens
        ):
            outside += 1
            continue
        lengths.append((prompt, output))
    if not lengths:
        raise UserError(
            f"{path}: holds no usable request: {short} of {count} conversations have fewer than 2 turns, "
            f"{outside} lie outside the length limits"
        )
    notes = [f"{path}: no arrival times; all {len(lengths)} requests arrive at once"]
    if text.count_tokens is None:
        notes.append(f"{path}: token counts estimated at {text.chars_per_token:g} characters per token")
    if short or outside:
        notes.append(
            f"{path}: dropped {short} conversations of fewer than 2 turns and {outside} outside "
            f">= {text.min_tokens} tokens each, <= {text.max_prompt_tokens} prompt, <= {text.max_total_tokens} in all"
        )
    pairs = np.array(lengths, dtype=np.int64)
    return Workload(
        name=path.name.split(".")[0],
        arrival_s=np.zeros(len(pairs)),
        prompt_tokens=pairs[:, 0].copy(),
        output_tokens=pairs[:, 1].copy(),
        notes=tuple(notes),
    )


def _turn_texts(place: str, entry: object) -> list[str]:
    turns = entry.get("conversations", entry.get("conversation")) if isinstance(entry, dict) else None
    if not isinstance(turns, list):
        raise UserError(f"{place}: has no list 'conversations'", hint="is this a ShareGPT file?")
    texts = [turn.get("value", turn.get("content")) if isinstance(turn, dict) else None for turn in turns[:2]]
    if not all(isinstance(value, str) for value in texts):
        raise UserError(f"{place}: a turn has no text 'value'", hint="is this a ShareGPT file?")
    return [value for value in texts if isinstance(value, str)]
