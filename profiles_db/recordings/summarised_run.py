"""One served run of which a client kept no list of requests: how many, how long in the mean, and its own figures."""

from dataclasses import field
from typing import Literal

from cluster_specs.lazy_dataclass import dataclass
from profiles_db.recordings.server_facts import ServerFacts
from profiles_db.recordings.stated_server import StatedServer
from profiles_db.recordings.summary import ClientSummary

# How a client draws lengths around nominal ones: `simulator.workload.generators.client` says which numbers the first
# two take; SGLang's are drawn as the first, but from one token on.
Draw = Literal["benchmark-serving", "vllm-bench", "sglang-bench"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NominalLengths:
    """What the client was told to draw lengths around, in tokens; a ratio as its own flag has it."""

    prompt_tokens: int
    output_tokens: int
    range_ratio: float
    draw: Draw
    seeds: tuple[int, ...] = (0,)  # of which the client took one


@dataclass(frozen=True, slots=True, kw_only=True)
class SummarisedRun:
    """A run as a whole; lengths in tokens per answered request, None where the result does not tell."""

    tool: str
    place: str
    requests: int  # answered
    failed: int = 0
    mean_prompt_tokens: float | None = None
    mean_output_tokens: float | None = None
    nominal: NominalLengths | None = None
    warmup: int = 0  # requests before these, as a phase of their own
    rate_per_s: float | None = None  # inf: all at once, or as answers come; None: not said
    burstiness: float = 1.0  # 1 / cv^2 of the gaps between arrivals
    spans_rate: bool = False  # the client stretches its arrivals so that they take requests / rate
    max_concurrency: int | None = None
    states_load: bool = True
    summary: ClientSummary = field(default_factory=ClientSummary)
    stated: StatedServer = field(default_factory=StatedServer)
    server: ServerFacts = field(default_factory=ServerFacts)
    refusal: str | None = None  # why nothing can be predicted of it
    notes: tuple[str, ...] = ()
