"""A request workload in memory: struct of arrays, arrival order, plus how the client offers it."""

from dataclasses import field, replace

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from simulator.workload.items import EncoderItems, Media


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoop:
    """Requests arrive when the trace says, whatever the server does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoop:
    """At most ``concurrency`` requests are in flight; the next is sent when one finishes.

    ``warmup`` requests at the head of the workload are a phase of their own: they run to completion first and are
    left out of every statistic, as benchmark clients do. In each phase a slot sends its first request at a time drawn
    uniformly from ``spread_s`` seconds, the earliest one at once; without a spread all of them do. A client that takes
    ``request_s`` to prepare a request, one after the other, sends none sooner after the last; latencies count from the
    sending.
    """

    concurrency: int
    warmup: int = 0
    spread_s: float = 0.0
    request_s: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CappedLoop:
    """Requests are due when the trace says, and sent in order once fewer than ``concurrency`` are unanswered.

    So clients behave that are given a rate and a concurrency (``vllm bench serve``). Latencies count from the sending.
    """

    concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixBlocks:
    """Prefix-unique ids of each request's prompt blocks: request i owns ``ids[offsets[i]:offsets[i + 1]]``."""

    block_tokens: int
    offsets: NDArray[np.int64]  # [n + 1]
    ids: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """``n`` requests sorted by arrival; arrivals in seconds from the start, lengths in tokens."""

    name: str
    arrival_s: NDArray[np.float64]  # [n], ascending
    prompt_tokens: NDArray[np.int64]  # [n], > 0
    output_tokens: NDArray[np.int64]  # [n], >= 0
    client: OpenLoop | ClosedLoop | CappedLoop = field(default_factory=OpenLoop)
    prefix: PrefixBlocks | None = None
    # Multi-turn sessions: request i is sent `think_s[i]` after request `after[i]` finished (-1: at arrival_s[i]).
    after: NDArray[np.int64] | None = None
    think_s: NDArray[np.float64] | None = None
    # Replica that served the request in the recorded run, for replays; None lets the router decide.
    replica: NDArray[np.int64] | None = None
    # Images and audio as the trace states them; what a model's encoder makes of them, once it is known which.
    media: Media | None = None
    items: EncoderItems | None = None
    # The client gives up a request that is not answered by then, and the server drops it; None: it waits for ever.
    client_timeout_s: float | None = None
    # What was dropped or assumed when the workload was read or generated; the CLI prints each as one line.
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def longest_tokens(self) -> int:
        """Tokens of the longest request, its answer included."""
        return int((self.prompt_tokens + self.output_tokens).max(initial=1))

    @property
    def mean_prompt_tokens(self) -> float:
        """Prompt tokens of the mean request."""
        return float(self.prompt_tokens.mean()) if len(self) else 0.0

    @property
    def mean_context_tokens(self) -> int:
        """Tokens a running request holds on average: its prompt and half of its answer, longer runs weighing more."""
        steps = np.maximum(self.output_tokens, 1)
        held = self.prompt_tokens + steps / 2
        return max(1, round(float(np.average(held, weights=steps)))) if len(self) else 1

    def head(self, count: int) -> "Workload":
        """Return the first ``count`` requests (all of them when there are fewer)."""
        if count >= len(self):
            return self

        prefix = self.prefix
        if prefix is not None:
            offsets = prefix.offsets[: count + 1]
            prefix = replace(prefix, offsets=offsets, ids=prefix.ids[: offsets[-1]])
        return replace(
            self,
            arrival_s=self.arrival_s[:count],
            prompt_tokens=self.prompt_tokens[:count],
            output_tokens=self.output_tokens[:count],
            prefix=prefix,
            after=None if self.after is None else self.after[:count],
            think_s=None if self.think_s is None else self.think_s[:count],
            replica=None if self.replica is None else self.replica[:count],
            media=None if self.media is None else self.media.head(count),
            items=None if self.items is None else self.items.head(count),
        )
