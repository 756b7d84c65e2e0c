"""What a benchmark client says of a run as a whole, whichever client that was."""

from collections.abc import Mapping
from dataclasses import field

from cluster_specs.lazy_dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSummary:
    """A client's own figures in SI units; None, or missing from ``metrics``, where the client does not give one.

    ``metrics`` is by path, as `apex simulate --json` names them: ``ttft_s.mean``, ``itl_s.p99``,
    ``throughput_tokens_per_s`` (of answers). Times are over the requests that were answered.
    """

    day: str | None = None  # on which it was measured, ISO 8601
    duration_s: float | None = None  # over which the client takes its rates
    completed: int | None = None
    failed: int | None = None
    prompt_tokens: int | None = None  # of all answered requests together
    output_tokens: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
