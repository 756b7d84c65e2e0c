"""Multi-turn chat sessions that share prefixes: a system prompt common to all, then each session's own history.

Turn k of a session sends system prompt + all earlier questions and answers + its question, ``think_s`` after turn k - 1
finished. Its full blocks carry ids that are equal exactly when the tokens up to and including the block are equal, so
a prefix cache hits on the system prompt across sessions and on the whole history within one. The last, partial block of
a prompt has an id of its own: no other prompt equals it to its end.
"""

import math
from typing import Final

import numpy as np

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from simulator.workload.columns import MAX_PLAUSIBLE_TOKENS, MOST_BLOCK_IDS, MOST_REQUESTS
from simulator.workload.generators.arrivals import ArrivalName, generate_arrivals, random_stream
from simulator.workload.generators.lengths import LengthDistribution
from simulator.workload.workload import PrefixBlocks, Workload

_MOST_TURNS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """``count`` sessions of a geometric number of turns (mean ``mean_turns``); rate is sessions per second."""

    count: int
    question: LengthDistribution
    answer: LengthDistribution
    rate_per_s: float = 1.0
    process: ArrivalName = "poisson"
    arrival_cv: float = 1.0
    mean_turns: float = 4.0
    mean_think_s: float = 10.0
    system_prompt_tokens: int = 0
    max_prompt_tokens: int = 32_768  # a session ends before its prompt would grow beyond this
    block_tokens: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.mean_turns <= _MOST_TURNS:
            must = f"<= {_MOST_TURNS}" if self.mean_turns > _MOST_TURNS else ">= 1"
            raise UserError(f"mean number of turns is {self.mean_turns:g}, must be {must}")
        if not (math.isfinite(self.mean_think_s) and self.mean_think_s >= 0):
            raise UserError(f"mean think time is {self.mean_think_s:g} s, must be >= 0")
        if not 0 <= self.system_prompt_tokens <= MAX_PLAUSIBLE_TOKENS:
            must = f"<= {MAX_PLAUSIBLE_TOKENS}" if self.system_prompt_tokens > 0 else ">= 0"
            raise UserError(f"system prompt is {shown(self.system_prompt_tokens)} tokens, must be {must}")
        if self.block_tokens < 1:
            raise UserError(f"block size is {self.block_tokens} tokens, must be >= 1")


def generate_sessions(spec: Sessions) -> Workload:
    """Return the sessions' requests; a follow-up carries its session's start as arrival until its parent finishes."""
    starts = generate_arrivals(
        spec.count, process=spec.process, rate_per_s=spec.rate_per_s, cv=spec.arrival_cv, seed=spec.seed
    )
    turns = random_stream(spec.seed, "turns").geometric(1 / spec.mean_turns, size=spec.count)
    total = int(turns.sum())
    if total > MOST_REQUESTS:
        raise UserError(f"{spec.count} sessions have {total:,} turns, must be <= {MOST_REQUESTS:,}")
    questions = spec.question.draw(total, random_stream(spec.seed, "prompt lengths"))
    answers = spec.answer.draw(total, random_stream(spec.seed, "output lengths"))
    thinks = random_stream(spec.seed, "think times").exponential(spec.mean_think_s, size=total)
    builder = _BlockIds(spec)
    prompts: list[int] = []
    outputs: list[int] = []
    arrivals: list[float] = []
    after: list[int] = []
    think_s: list[float] = []
    cut, drawn = 0, 0
    for start, turn_count in zip(starts.tolist(), turns.tolist(), strict=True):
        history = spec.system_prompt_tokens
        builder.start_session()
        for turn in range(turn_count):
            prompt = history + int(questions[drawn + turn])
            if turn > 0 and prompt > spec.max_prompt_tokens:
                cut += turn_count - turn
                break
            builder.add_prompt(prompt)
            if builder.count > MOST_BLOCK_IDS:
                raise UserError(
                    f"the prompts of {spec.count} sessions have more than {MOST_BLOCK_IDS:,} blocks of "
                    f"{spec.block_tokens} tokens",
                    hint="use larger blocks (block=), shorter prompts or fewer sessions",
                )
            after.append(len(prompts) - 1 if turn > 0 else -1)
            think_s.append(float(thinks[drawn + turn]) if turn > 0 else 0.0)
            arrivals.append(start)
            prompts.append(prompt)
            outputs.append(int(answers[drawn + turn]))
            history = prompt + outputs[-1]
        drawn += turn_count
    notes = (f"{cut} turns left out: their prompts exceed {spec.max_prompt_tokens} tokens",) if cut else ()
    return Workload(
        name="sessions",
        arrival_s=np.array(arrivals),
        prompt_tokens=np.array(prompts, dtype=np.int64),
        output_tokens=np.array(outputs, dtype=np.int64),
        prefix=builder.blocks(),
        after=np.array(after, dtype=np.int64),
        think_s=np.array(think_s),
        notes=notes,
    )


class _BlockIds:
    """Numbers prompt blocks so that equal ids mean equal prefixes."""

    __slots__ = ("_block_tokens", "_counts", "_ids", "_next", "_session", "_system")

    def __init__(self, spec: Sessions) -> None:
        self._block_tokens = spec.block_tokens
        self._system = list(range(spec.system_prompt_tokens // spec.block_tokens))
        self._next = len(self._system)
        self._session: list[int] = []
        self._ids: list[int] = []
        self._counts: list[int] = []

    @property
    def count(self) -> int:
        """Blocks of all prompts so far."""
        return len(self._ids)

    def start_session(self) -> None:
        self._session = list(self._system)

    def add_prompt(self, prompt_tokens: int) -> None:
        full, rest = divmod(prompt_tokens, self._block_tokens)
        fresh = full - len(self._session)
        self._session.extend(range(self._next, self._next + fresh))
        self._next += fresh
        self._ids.extend(self._session)
        if rest:
            self._ids.append(self._next)
            self._next += 1
        self._counts.append(full + bool(rest))

    def blocks(self) -> PrefixBlocks:
        return PrefixBlocks(
            block_tokens=self._block_tokens,
            offsets=np.concatenate([[0], np.cumsum(self._counts)]).astype(np.int64),
            ids=np.array(self._ids, dtype=np.int64),
        )
