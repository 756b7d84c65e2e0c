"""Turns raw trace columns into checked requests: order, duplicates, failed rows and plausibility, across chunks."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from simulator.workload.columns import (
    RawChunk,
    block_ids,
    calendar_ns,
    numbers,
    objects,
    token_counts,
    whole_numbers,
)
from simulator.workload.formats import UNITS_PER_SECOND, RecordFormat

# A recorded service beyond these mean gaps is taken for a wrong time unit: public traces lie between 0.01 s and 10 s.
_MIN_MEAN_GAP_S: Final = 1e-4
_MAX_MEAN_GAP_S: Final = 600.0


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

    def __len__(self) -> int:
        return len(self.arrival_s)


@dataclass(slots=True, kw_only=True)
class RecordChecker:
    """Checks chunk after chunk of one trace and counts what it drops; state is what spans two chunks."""

    path: str
    fmt: RecordFormat
    sort: bool = False
    origin: int | None = None
    kept: int = 0
    failed: int = 0
    zero_output: int = 0
    orphan_turns: int = 0
    first_s: float = np.inf
    last_s: float = -np.inf
    index_of_id: dict[object, int] = field(default_factory=dict)

    def check(self, chunk: RawChunk) -> Requests:
        """Return the chunk's requests; UserError names the first record that cannot be one."""
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
        if fmt.after is not None and fmt.after in chunk.values:
            requests.think_s = self._think_times(chunk)
        self.kept += len(requests)
        return requests

    def _arrivals(self, chunk: RawChunk) -> NDArray[np.float64]:
        key = self.fmt.time
        if self.fmt.time_unit is None:
            stamps_ns = calendar_ns(chunk, key)
            if self.origin is None and len(stamps_ns):
                self.origin = int(stamps_ns.min() if self.sort else stamps_ns[0])
            arrival_s = (stamps_ns - (self.origin or 0)) / 1e9
        else:
            arrival_s = numbers(chunk, key) / UNITS_PER_SECOND[self.fmt.time_unit]
        if not self.sort:
            self._check_ascending(chunk, arrival_s)
        if len(arrival_s):
            self.first_s = min(self.first_s, float(arrival_s.min()))
            self.last_s = max(self.last_s, float(arrival_s.max()))
        return arrival_s

    def _check_ascending(self, chunk: RawChunk, arrival_s: NDArray[np.float64]) -> None:
        before = np.concatenate([[self.last_s], arrival_s[:-1]])
        late = arrival_s < before
        if late.any():
            index = int(np.argmax(late))
            raise UserError(
                f"{self.path}:{chunk.line[index]}: {self.fmt.time} is {arrival_s[index]:.6f} s, "
                f"{before[index] - arrival_s[index]:.6f} s earlier than the record before it",
                hint="arrivals must ascend; pass --sort to order them by time",
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

    def _parents(self, chunk: RawChunk) -> NDArray[np.int64] | None:
        fmt = self.fmt
        if fmt.after is not None and fmt.after in chunk.values:
            return self._explicit_parents(chunk, fmt.after)
        if fmt.request_id is None or fmt.request_id not in chunk.values:
            return None
        ids = objects(chunk.values[fmt.request_id])
        for index, request_id in enumerate(ids):
            position = self.index_of_id.setdefault(request_id, self.kept + index)
            if position != self.kept + index:
                raise chunk.refuse(index, fmt.request_id, request_id, f"unique; request {position + 1} has it too")
        if fmt.parent_id is None or fmt.parent_id not in chunk.values:
            return None
        named = objects(chunk.values[fmt.parent_id])
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
        return numbers(chunk, key).astype(np.float64, copy=False)

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
        gap_s = self._implausible_gap_s()
        if gap_s is not None and not self.fmt.unit_is_certain:
            raise UserError(
                f"{self.path}: {self.fmt.time} read in {self.fmt.time_unit!r} puts one request every {gap_s:.3g} s, "
                f"plausible is {_MIN_MEAN_GAP_S:g} to {_MAX_MEAN_GAP_S:g} s",
                hint=f"is it in another unit? pass --time-unit s, ms, us or ns (--time-unit {self.fmt.time_unit} "
                "if it is right as it is)",
            )

    def _implausible_gap_s(self) -> float | None:
        """Mean gap between arrivals when no service would see it; None when it is plausible or undefined."""
        span_s = self.last_s - self.first_s
        if self.fmt.time_unit is None or self.kept < 2 or span_s <= 0:
            return None
        gap_s = span_s / (self.kept - 1)
        return None if _MIN_MEAN_GAP_S <= gap_s <= _MAX_MEAN_GAP_S else gap_s

    def notes(self) -> tuple[str, ...]:
        """Say what was dropped or stands out, one sentence each."""
        found: list[str] = []
        if self.failed:
            found.append(f"{self.path}: dropped {self.failed} failed requests (0 response tokens), kept {self.kept}")
        if self.zero_output:
            found.append(f"{self.path}: {self.zero_output} requests generate 0 tokens; kept")
        if (gap_s := self._implausible_gap_s()) is not None:
            found.append(f"{self.path}: one request every {gap_s:.3g} s is unusual; is the time unit right?")
        if self.orphan_turns:
            found.append(
                f"{self.path}: {self.orphan_turns} turns name a parent that is not in the trace; kept as roots"
            )
        return tuple(found)
