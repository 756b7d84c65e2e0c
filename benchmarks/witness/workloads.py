"""What the servers are asked: which server, which requests, and how often, as arguments of ``vllm bench serve``."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

CONTEXT: Final = 4096
BLOCK_TOKENS: Final = 128  # vLLM's own choice on a CPU


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCase:
    """One server: its model and longest sequence and, where it is to be short of memory, its KV blocks."""

    name: str
    model: str
    context: int = CONTEXT
    kv_blocks: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadCase:
    """Requests of one length, at a rate or a concurrency; ``prefix`` tokens are the same in all of them.

    Lengths are not drawn: oneDNN compiles a product for every number of rows it has not seen, tens of milliseconds in
    all, so that a server of drawn lengths is measured while it warms up.
    """

    name: str
    server: str
    prompt: int
    answer: int
    requests: int
    concurrency: int | None = None
    rate_per_s: float | None = None
    prefix: int = 0
    runs: int = 1
    is_for_calibration: bool = False

    def arguments(self, run: int) -> list[str]:
        """Return the client's arguments; every run has prompts of its own: none finds another's in the cache."""
        found = ["--random-input-len", self.prompt, "--random-output-len", self.answer]
        found += ["--random-prefix-len", self.prefix, "--random-range-ratio", 0]
        found += ["--num-prompts", self.requests, "--seed", _seed(self.name, run)]
        if self.concurrency is not None:
            found += ["--max-concurrency", self.concurrency]
        if self.rate_per_s is not None:
            found += ["--request-rate", self.rate_per_s]
        return [str(argument) for argument in found]

    def run_names(self) -> Iterator[str]:
        """Yield the name of every run: the workload's, with a number from the second on."""
        yield self.name
        yield from (f"{self.name}-{number}" for number in range(2, self.runs + 1))


def _seed(name: str, run: int) -> int:
    return sum((place + 1) * ord(letter) for place, letter in enumerate(name)) * 100 + run


SERVERS: Final = (
    ServerCase(name="null", model="null"),
    ServerCase(name="wide", model="wide"),
    ServerCase(name="dense", model="dense"),
    ServerCase(name="tight", model="dense", context=1024, kv_blocks=24),
    ServerCase(name="mixture", model="mixture"),
)
# The runs for calibration are of the kinds `apex calibrate --plan-runs` asks for: one sequence, many, long prompts.
WORKLOADS: Final = (
    WorkloadCase(
        name="dense-closed-1",
        server="dense",
        prompt=256,
        answer=64,
        requests=12,
        concurrency=1,
        is_for_calibration=True,
    ),
    WorkloadCase(name="dense-closed-4", server="dense", prompt=256, answer=64, requests=30, concurrency=4, runs=2),
    WorkloadCase(
        name="dense-closed-16",
        server="dense",
        prompt=256,
        answer=64,
        requests=72,
        concurrency=16,
        is_for_calibration=True,
    ),
    WorkloadCase(
        name="dense-open-slow",
        server="dense",
        prompt=256,
        answer=48,
        requests=30,
        rate_per_s=0.6,
        runs=2,
    ),
    WorkloadCase(name="dense-open-fast", server="dense", prompt=256, answer=48, requests=60, rate_per_s=1.8),
    WorkloadCase(
        name="dense-long-prompts",
        server="dense",
        prompt=1536,
        answer=32,
        requests=15,
        concurrency=2,
        is_for_calibration=True,
    ),
    WorkloadCase(
        name="dense-shared-prefix", server="dense", prompt=128, answer=64, requests=30, concurrency=4, prefix=1024
    ),
    WorkloadCase(name="dense-preempted", server="tight", prompt=256, answer=128, requests=36, concurrency=12),
    WorkloadCase(name="mixture-closed-1", server="mixture", prompt=256, answer=48, requests=9, concurrency=1),
    WorkloadCase(name="mixture-closed-8", server="mixture", prompt=256, answer=48, requests=36, concurrency=8, runs=2),
    WorkloadCase(name="mixture-open", server="mixture", prompt=256, answer=48, requests=24, rate_per_s=0.6),
    WorkloadCase(name="mixture-long-prompts", server="mixture", prompt=1024, answer=32, requests=9, concurrency=2),
)
# Few tokens, many, and many of several at a time; then many between weights that pass through the caches. They are not
# predicted: host times are read from them.
HOST_WORKLOADS: Final = (
    WorkloadCase(name="null-few", server="null", prompt=16, answer=8, requests=20, concurrency=1),
    WorkloadCase(name="null-many", server="null", prompt=16, answer=136, requests=8, concurrency=1),
    WorkloadCase(name="null-together", server="null", prompt=16, answer=136, requests=32, concurrency=16),
    WorkloadCase(name="wide-many", server="wide", prompt=16, answer=136, requests=8, concurrency=1),
)
HOST_SERVERS: Final = frozenset(case.server for case in HOST_WORKLOADS)
