"""Turns raw trace columns into checked requests: order, duplicates, failed rows and plausibility, across chunks."""

from collections.abc import Sequence
from dataclasses import field

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from simulator.workload.columns import (
    MOST_BLOCK_IDS,
    RawChunk,
    block_ids,
    identities,
    numbers,
    objects,
    token_counts,
    whole_numbers,
)
from simulator.workload.span import HINT, LONGEST_SPAN_S, shown_span
from simulator.workload.traces.formats import RecordFormat
from simulator.workload.traces.media_columns import Sizes, clip_lengths, image_sizes
from simulator.workload.traces.prompt_blocks import PromptBlocks
from simulator.workload.traces.time_units import ArrivalClock


@dataclass(slots=True, kw_only=True)
class Requests:
    """Checked columns of consecutive requests; ``block_counts`` and ``block_ids`` hold ragged prefix-block lists."""

    arrival_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    replica: NDArray[np.int64] | None = None
    block_counts: NDArray[np.int64] | None = None
    block_ids: NDArray[np.int64] | None = None
    parent: NDArray[np.int64] | None = None  # index of the parent request in the whole trace, -1 for none
    think_s: NDArray[np.float64] | None = None
    images: Sizes | None = None
    audio_s: Sequence[Sequence[float]] | None = None

    def __len__(self) -> int:
        return len(self.arrival_s)


@dataclass(slots=True, kw_only=True)
class RecordChecker:
    """Checks chunk after chunk of one trace and counts what it drops; state is what spans two chunks."""

    path: str
    fmt: RecordFormat
    sort: bool = False
    rate_scale: float = 1.0  # what the arrivals will be divided by
    is_streamed: bool = False  # what would grow with the trace is not kept: names of requests, the count of blocks
    kept: int = 0
    failed: int = 0
    zero_output: int = 0
    orphan_turns: int = 0
    blocks: int = 0
    first_s: float = np.inf
    last_s: float = -np.inf
    index_of_id: dict[object, int] = field(default_factory=dict)
    clock: ArrivalClock = field(init=False)
    prompt_blocks: PromptBlocks | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.clock = ArrivalClock(path=self.path, fmt=self.fmt)

    def check(self, chunk: RawChunk) -> Requests:
        """Return the chunk's requests, counted from the first arrival; UserError names what cannot be one."""
        fmt = self.fmt
        if fmt.zero_output_failed:
            served = token_counts(chunk, fmt.output, minimum=0) > 0
            self.failed += int(len(chunk) - served.sum())
            chunk = chunk if served.all() else chunk.take(np.flatnonzero(served))
        requests = Requests(
            arrival_s=self._arrivals(chunk),
            prompt_tokens=token_counts(chunk, fmt.prompt, minimum=1),
            output_tokens=token_counts(chunk, fmt.output, minimum=0),
            parent=self._parents(chunk),
        )
        self.zero_output += int((requests.output_tokens == 0).sum())
        if fmt.replica is not None and fmt.replica in chunk.values:
            requests.replica = whole_numbers(chunk, fmt.replica, minimum=0)
        if fmt.hash_ids is not None and fmt.hash_ids in chunk.values:
            requests.block_counts, requests.block_ids = block_ids(chunk, fmt.hash_ids)
            self._check_block_counts(chunk, requests.prompt_tokens, requests.block_counts)
        elif fmt.token_ids is not None and fmt.token_ids in chunk.values:
            self.prompt_blocks = self.prompt_blocks or PromptBlocks(block_tokens=fmt.block_tokens or 16)
            requests.block_counts, requests.block_ids = self.prompt_blocks.number(
                chunk, fmt.token_ids, requests.prompt_tokens
            )
        if requests.block_counts is not None:
            self._count_blocks(int(requests.block_counts.sum()))
        if fmt.after is not None and fmt.after in chunk.values:
            requests.think_s = self._think_times(chunk)
        if fmt.images is not None and fmt.images in chunk.values:
            requests.images = image_sizes(chunk, fmt.images)
        if fmt.audio_s is not None and fmt.audio_s in chunk.values:
            requests.audio_s = clip_lengths(chunk, fmt.audio_s)
        self.kept += len(requests)
        return requests

    def _arrivals(self, chunk: RawChunk) -> NDArray[np.float64]:
        arrival_s = self.clock.seconds(chunk)
        if not self.sort:
            self._check_ascending(chunk, arrival_s)
        if len(arrival_s):
            self._check_span(chunk, arrival_s)
            self.first_s = min(self.first_s, float(arrival_s.min()))
            self.last_s = max(self.last_s, float(arrival_s.max()))
        return arrival_s

    def _check_ascending(self, chunk: RawChunk, arrival_s: NDArray[np.float64]) -> None:
        before = np.concatenate([[self.last_s], arrival_s[:-1]])
        late = arrival_s < before
        if late.any():
            index = int(np.argmax(late))
            value = objects(chunk.values[self.fmt.time][index : index + 1])[0]
            raise UserError(
                f"{self.path}:{chunk.line[index]}: {self.fmt.time} is {shown(value)}, "
                f"{before[index] - arrival_s[index]:.6f} s earlier than the record before it",
                hint="arrivals must ascend; pass --sort to order them by time",
            )

    def _check_span(self, chunk: RawChunk, arrival_s: NDArray[np.float64]) -> None:
        """Refuse the record that lies further from the first than the engine's clock counts."""
        first_s = min(self.first_s, float(arrival_s.min()))
        last_s = max(self.last_s, float(arrival_s.max()))
        if last_s - first_s <= LONGEST_SPAN_S * self.rate_scale:
            return
        late = arrival_s - first_s > LONGEST_SPAN_S * self.rate_scale
        index = int(np.argmax(late)) if late.any() else int(arrival_s.argmin())
        span_s = (float(arrival_s[index]) if late.any() else last_s) - first_s
        scaled = "" if self.rate_scale == 1.0 else f" x rate_scale {self.rate_scale:g}"
        raise UserError(
            f"{self.path}:{chunk.line[index]}: {self.fmt.time} makes the trace {shown_span(span_s)} long, "
            f"the engine's clock holds {shown_span(LONGEST_SPAN_S)}{scaled}",
            hint=HINT,
        )

    def _check_block_counts(self, chunk: RawChunk, prompt: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        block_tokens = self.fmt.block_tokens
        if block_tokens is None:
            raise UserError(
                f"{self.path}: has prefix blocks ({self.fmt.hash_ids}) of unknown size", hint="pass --block-tokens"
            )
        excess = counts > -(-prompt // block_tokens)
        if excess.any():
            index = int(np.argmax(excess))
            raise UserError(
                f"{self.path}:{chunk.line[index]}: {self.fmt.hash_ids} has {counts[index]} blocks of {block_tokens} "
                f"tokens, more than the {prompt[index]} prompt tokens need",
                hint="if this trace hashes blocks of another size, pass --block-tokens",
            )

    def _count_blocks(self, blocks: int) -> None:
        self.blocks += blocks
        if self.blocks > MOST_BLOCK_IDS and not self.is_streamed:
            raise UserError(
                f"{self.path}: holds more than {MOST_BLOCK_IDS:,} prefix blocks, the most that is read whole",
                hint="--limit N reads the first N requests",
            )

    def _parents(self, chunk: RawChunk) -> NDArray[np.int64] | None:
        fmt = self.fmt
        if fmt.after is not None and fmt.after in chunk.values:
            return self._explicit_parents(chunk, fmt.after)
        if fmt.request_id is None or fmt.request_id not in chunk.values or self.is_streamed:
            return None
        for index, request_id in enumerate(identities(chunk, fmt.request_id)):
            position = self.index_of_id.setdefault(request_id, self.kept + index)
            if position != self.kept + index:
                raise chunk.refuse(index, fmt.request_id, request_id, f"unique; request {position + 1} has it too")
        if fmt.parent_id is None or fmt.parent_id not in chunk.values:
            return None
        named = identities(chunk, fmt.parent_id, may_lack=True)
        parents = [self.index_of_id.get(parent, -1) for parent in named]
        for index, parent in enumerate(parents):
            if parent >= self.kept + index:
                raise chunk.refuse(index, fmt.parent_id, named[index], "the id of an earlier request")
        self.orphan_turns += sum(
            p == -1 and name not in (-1, "-1", None) for p, name in zip(parents, named, strict=True)
        )
        return np.array(parents, dtype=np.int64)

    def _think_times(self, chunk: RawChunk) -> NDArray[np.float64]:
        key = self.fmt.think_s
        if key is None or key not in chunk.values:
            return np.zeros(len(chunk))
        think_s = numbers(chunk, key).astype(np.float64, copy=False)
        if len(think_s) and think_s.max() > LONGEST_SPAN_S:
            index = int(np.argmax(think_s > LONGEST_SPAN_S))
            limit = f"at most {shown_span(LONGEST_SPAN_S)}, what the engine's clock holds"
            raise chunk.refuse(index, key, float(think_s[index]), limit)
        return think_s

    def _explicit_parents(self, chunk: RawChunk, key: str) -> NDArray[np.int64]:
        parents = whole_numbers(chunk, key, minimum=-1)
        ahead = parents >= self.kept + np.arange(len(chunk))
        if ahead.any():
            index = int(np.argmax(ahead))
            raise chunk.refuse(index, key, int(parents[index]), "the index of an earlier request, or -1")
        return parents

    def check_whole(self) -> None:
        """Check what only the whole trace shows: that it holds a request, and that its rate is plausible."""
        if self.kept == 0:
            dropped = f" ({self.failed} failed requests dropped)" if self.failed else ""
            raise UserError(
                f"{self.path}: the trace is empty, must hold at least one request{dropped}",
                hint="try --trace chat-synthetic, the bundled trace",
            )
        self.clock.check_gap(self.kept, self.last_s - self.first_s)

    def notes(self) -> tuple[str, ...]:
        """Say what was dropped or stands out, one sentence each."""
        found: list[str] = []
        if self.clock.note:
            found.append(self.clock.note)
        if self.failed:
            found.append(f"{self.path}: dropped {self.failed} failed requests (0 response tokens), kept {self.kept}")
        if self.zero_output:
            found.append(f"{self.path}: {self.zero_output} requests generate 0 tokens; kept")
        if gap_note := self.clock.gap_note(self.kept, self.last_s - self.first_s):
            found.append(gap_note)
        if self.orphan_turns:
            found.append(
                f"{self.path}: {self.orphan_turns} turns name a parent that is not in the trace; kept as roots"
            )
        return tuple(found)
