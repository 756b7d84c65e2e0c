"""What is known of the observed server: engine, version, KV cache, and its own counters before and after a load.

`ObservedServer.to_document` writes the ``server`` object of a result (`profiles_db.recordings.server_facts` reads it);
whatever a server does not tell is null.
"""

from dataclasses import asdict
from typing import Any

from cluster_specs.lazy_dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReading:
    """Counters and gauges of a server at one instant, summed over its engines; None where it does not tell."""

    running: float | None = None  # requests in the batch
    waiting: float | None = None  # requests in the queue
    preemptions: float | None = None  # since the start of the server
    prefix_hit_tokens: float | None = None  # prompt tokens found in the prefix cache, since the start
    prefix_query_tokens: float | None = None  # prompt tokens looked up there, since the start


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedServer:
    """A server as it showed itself: `num_gpu_blocks` and `block_size` (tokens) are those of one of its ``engines``."""

    engine: str | None = None  # vllm, sglang or tensorrt-llm
    version: str | None = None
    model: str | None = None
    max_model_len: int | None = None
    num_gpu_blocks: int | None = None
    block_size: int | None = None
    engines: int | None = None  # data-parallel engines that the metrics tell apart

    def to_document(self, before: ServerReading | None, after: ServerReading | None) -> dict[str, Any]:
        """Return the facts with the counters around a load: preemptions and prefix hits are those of the load alone."""
        hits, queries = (during(before, after, name) for name in ("prefix_hit_tokens", "prefix_query_tokens"))
        preemptions = during(before, after, "preemptions")
        return {
            **asdict(self),
            "preemptions": None if preemptions is None else round(preemptions),
            "prefix_hit_frac": min(1.0, hits / queries) if hits is not None and queries else None,
            "before": None if before is None else asdict(before),
            "after": None if after is None else asdict(after),
        }


def during(before: ServerReading | None, after: ServerReading | None, counter: str) -> float | None:
    """Return how far a counter moved; None where it was not told, or fell because the server started anew."""
    first, last = (None if reading is None else getattr(reading, counter) for reading in (before, after))
    return None if first is None or last is None or last < first else float(last - first)
