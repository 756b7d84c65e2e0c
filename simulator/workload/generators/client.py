"""The closed loop of a benchmark client: which lengths it draws, how many prompts it sends, how it warms up.

Two draws exist under the same flag ``random_range_ratio``. The public serving benchmark's client
(`benchmark_serving.py` of SemiAnalysisAI/InferenceX, from older vLLM) draws whole numbers uniform in
[int(r n), n] from numpy's legacy generator, prompts first, then outputs. `vllm bench serve` (vLLM >= 0.10) draws them
uniform in [floor(n (1 - r)), ceil(n (1 + r))] from `numpy.random.default_rng`, after taking the tokeniser's special
tokens off the prompt. The former warms up with copies of its first request, ``warmup_per_slot`` for each slot of
concurrency, as a phase of its own; then its first ``concurrency`` requests go out at once.
"""

import math
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from simulator.workload.columns import MAX_PLAUSIBLE_TOKENS, MOST_REQUESTS
from simulator.workload.generators.arrivals import LARGEST_SEED
from simulator.workload.span import LONGEST_SPAN_S
from simulator.workload.workload import ClosedLoop, Workload

LONGEST_REQUEST_S: Final = 60.0

# The note on requests of one length whose slots all start at once.
WAVES: Final = (
    "all requests are of one length and all slots start at once: they march in waves, and time to first token is the "
    "worst case; real clients start apart (spread_s=SECONDS)"
)
DrawName = Literal["benchmark-serving", "vllm-bench"]


def check_seconds(*, spread_s: float, request_s: float) -> None:
    """Refuse times of a client that are negative or too long; raises ``UserError``."""
    for name, value, most in (("spread_s", spread_s, LONGEST_SPAN_S), ("request_s", request_s, LONGEST_REQUEST_S)):
        if not 0 <= value <= most:
            raise UserError(f"{name} is {value:g}, must be 0 to {most:g}")


def wave_notes(prompts: NDArray[np.int64], outputs: NDArray[np.int64], client: ClosedLoop) -> tuple[str, ...]:
    """Say that a closed loop is the worst case it is: all requests [n] of one length, all slots in step."""
    has_queue = len(prompts) > client.concurrency > 1
    is_even = has_queue and int(np.ptp(prompts)) == 0 and int(np.ptp(outputs)) == 0
    return (WAVES,) if is_even and client.spread_s == client.request_s == 0 else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkClient:
    """A closed-loop benchmark run: nominal lengths in tokens, slots, prompts and warm-up requests per slot."""

    prompt_tokens: int
    output_tokens: int
    concurrency: int
    range_ratio: float = 0.8
    draw: DrawName = "benchmark-serving"
    prompts_per_slot: int = 10
    warmup_per_slot: int = 2
    spread_s: float = 0.0  # within which the slots send their first requests
    request_s: float = 0.0  # what the client takes to prepare (tokenise) a request, one after the other
    special_tokens: int = 0  # what the tokeniser adds to a prompt; only `vllm bench serve` accounts for it
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "output_tokens", "concurrency", "prompts_per_slot"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, must be >= 1")
        for name in ("warmup_per_slot", "special_tokens", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}, must be >= 0")
        for name in ("prompt_tokens", "output_tokens", "special_tokens"):
            if getattr(self, name) > MAX_PLAUSIBLE_TOKENS:
                raise UserError(f"{name} is {shown(getattr(self, name))}, must be <= {MAX_PLAUSIBLE_TOKENS}")
        check_seconds(spread_s=self.spread_s, request_s=self.request_s)
        if self.seed > LARGEST_SEED:
            raise UserError(f"seed is {shown(self.seed)}, must be 0 to {LARGEST_SEED}")
        if self.concurrency * (self.prompts_per_slot + self.warmup_per_slot) > MOST_REQUESTS:
            raise UserError(
                f"concurrency {shown(self.concurrency)} x ({shown(self.prompts_per_slot)} prompts + "
                f"{shown(self.warmup_per_slot)} warm-up requests per slot), must be <= {MOST_REQUESTS} requests"
            )
        if self.draw not in {"benchmark-serving", "vllm-bench"}:
            raise UserError(
                f"length draw {self.draw!r} is not known", hint="choose one of benchmark-serving, vllm-bench"
            )
        upper_open = self.draw == "vllm-bench"
        if not 0 <= self.range_ratio <= 1 or (upper_open and self.range_ratio == 1):
            raise UserError(
                f"range_ratio is {self.range_ratio:g}, must be in [0, 1{')' if upper_open else ']'}",
                hint="benchmark-serving draws in [ratio, 1] x nominal, vllm-bench in [1 - ratio, 1 + ratio] x nominal",
            )

    def draw_lengths(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return ``count`` (prompt, output) lengths exactly as the client draws them."""
        if self.draw == "benchmark-serving":
            legacy = np.random.RandomState(self.seed)
            prompts, outputs = (
                legacy.randint(int(nominal * self.range_ratio), nominal + 1, size=count)
                for nominal in (self.prompt_tokens, self.output_tokens)
            )
        else:
            modern = np.random.default_rng(self.seed)
            low, high = self._symmetric_range(max(self.prompt_tokens - self.special_tokens, 0))
            prompts = modern.integers(low, high, size=count, endpoint=True) + self.special_tokens
            low, high = self._symmetric_range(self.output_tokens)
            outputs = modern.integers(max(low, 1), high, size=count, endpoint=True)
        shortest = min(int(prompts.min()), int(outputs.min()))
        if shortest < 1:
            raise UserError(
                f"range_ratio {self.range_ratio:g} draws a length of {shortest} tokens, must be >= 1",
                hint="raise the nominal lengths or narrow the range",
            )
        return prompts.astype(np.int64), outputs.astype(np.int64)

    def _symmetric_range(self, nominal: int) -> tuple[int, int]:
        return math.floor(nominal * (1 - self.range_ratio)), math.ceil(nominal * (1 + self.range_ratio))

    def workload(self) -> Workload:
        """Return warm-up requests followed by the measured ones, all ready at 0, under a closed loop."""
        prompts, outputs = self.draw_lengths(self.prompts_per_slot * self.concurrency)
        warmup = self.warmup_per_slot * self.concurrency
        client = ClosedLoop(
            concurrency=self.concurrency,
            warmup=warmup,
            spread_s=self.spread_s,
            request_s=self.request_s,
            seed=self.seed,
        )
        return Workload(
            name=f"closed-{self.prompt_tokens}-{self.output_tokens}-c{self.concurrency}",
            arrival_s=np.zeros(warmup + len(prompts)),
            prompt_tokens=np.concatenate([np.full(warmup, prompts[0]), prompts]),
            output_tokens=np.concatenate([np.full(warmup, outputs[0]), outputs]),
            client=client,
            notes=wave_notes(prompts, outputs, client),
        )
