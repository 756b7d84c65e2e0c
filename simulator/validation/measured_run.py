"""One run of a real server: what it served, how, and what its client measured."""

from collections.abc import Mapping
from dataclasses import field

from cluster_specs.lazy_dataclass import dataclass
from profiles_db.recordings.server_facts import ServerFacts
from simulator.validation.deployment import Deployment
from simulator.workload.traces.recorded import MeasuredRequests
from simulator.workload.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """A run that can be replayed.

    ``measured`` holds the client's metrics by path, in SI units, as results name them (``ttft_s.mean``,
    ``itl_s.p99``, ``throughput_tokens_per_s``); what was not measured is missing. ``requests`` are those of
    ``workload``, in its order, where the file keeps them one by one. ``client_lead_s`` is the part of the client's
    duration in which none of its requests was under way: it starts its clock before the first of them is due.
    """

    name: str
    place: str  # file, and line or number of the result where it holds several
    tool: str  # the client that wrote it
    deployment: Deployment
    workload: Workload
    measured: Mapping[str, float]
    requests: MeasuredRequests | None = None
    failed: int = 0  # requests that were not answered
    client_lead_s: float = 0.0
    day: str | None = None  # on which it was measured, ISO 8601
    server: ServerFacts = field(default_factory=ServerFacts)
    notes: tuple[str, ...] = ()
    group: str = ""  # the server, where a table holds runs of several
    set: str = ""  # what its errors are summed up with, where a mapping keeps sets of servers apart


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusableRun:
    """A run of which nothing can be predicted, and why."""

    name: str
    place: str
    reason: str
    group: str = ""
    set: str = ""
