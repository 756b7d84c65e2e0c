"""A workload in consecutive parts, for one that need not fit into memory: read or drawn again as often as it is asked.

A first reading, the survey, says what a plan must know before it starts: the longest request and the mean ones.
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from simulator.workload.workload import OpenLoop, PrefixBlocks, Workload

PART_REQUESTS: Final = 65_536
# What a request takes while a workload is simulated whole: 2 million take 0.9 GB, beside 0.3 GB of code.
REQUEST_BYTES: Final = 430
WHOLE_REQUESTS: Final = 2_000_000  # beyond so many a run is streamed by itself


class NotStreamableError(UserError):
    """A workload or a plan that needs all requests at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadParts:
    """Requests in order of arrival, part after part; sums are over all of them.

    The figures are those of the ``Workload`` that holds the same requests at once, to the bit.
    """

    head: Workload  # the first part
    reopen: Callable[[], Iterator[Workload]]
    count: int
    longest_tokens: int  # prompt and answer of the longest request
    prompt_tokens: int
    decode_steps: int  # one per output token, at least one per request
    doubled_held_tokens: int  # sum over decode steps of twice the tokens held at the middle of the answer
    notes: tuple[str, ...]  # of the last part: what was dropped or assumed up to the end

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Workload]:
        return self.reopen()

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.head.name

    @property
    def client(self) -> OpenLoop:
        """How requests are offered: other clients are refused by the survey."""
        return OpenLoop()

    @property
    def client_timeout_s(self) -> None:
        """Nobody gives up: a client that does is refused by the survey."""
        return

    @property
    def prefix(self) -> PrefixBlocks | None:
        """Prefix blocks of the first part; None where no request has any."""
        return self.head.prefix

    @property
    def replica(self) -> NDArray[np.int64] | None:
        """Recorded replicas of the first part; None where the router decides."""
        return self.head.replica

    @property
    def items(self) -> None:
        """Images and audio are refused by the survey."""
        return

    @property
    def mean_prompt_tokens(self) -> float:
        """Prompt tokens of the mean request."""
        return self.prompt_tokens / self.count

    @property
    def mean_context_tokens(self) -> int:
        """Tokens a running request holds on average: its prompt and half of its answer, longer runs weighing more."""
        return max(1, round(self.doubled_held_tokens / (2 * self.decode_steps)))


Traffic = Workload | WorkloadParts  # what a plan is started for


def survey(reopen: Callable[[], Iterator[Workload]]) -> WorkloadParts:
    """Read all parts once; raises ``UserError`` for a fault in any, ``NotStreamableError`` for a client that waits."""
    head: Workload | None = None
    count = longest = prompts = steps = held = 0
    notes: tuple[str, ...] = ()
    for part in reopen():
        check_streamable(part)
        head = head or part
        part_steps = np.maximum(part.output_tokens, 1)
        count += len(part)
        longest = max(longest, part.longest_tokens)
        prompts += int(part.prompt_tokens.sum())
        steps += int(part_steps.sum())
        held += int(((2 * part.prompt_tokens + part_steps) * part_steps).sum())
        notes = part.notes
    if head is None:
        raise UserError("the workload has no requests")
    return WorkloadParts(
        head=head,
        reopen=reopen,
        count=count,
        longest_tokens=longest,
        prompt_tokens=prompts,
        decode_steps=steps,
        doubled_held_tokens=held,
        notes=notes,
    )


def check_streamable(workload: Workload) -> None:
    """Refuse a client whose sends depend on answers, and turns that follow others; raises ``NotStreamableError``."""
    if not isinstance(workload.client, OpenLoop):
        reason = f"a client with a concurrency of {workload.client.concurrency} sends when it is answered"
    elif workload.client_timeout_s is not None:
        reason = "a client that gives up after a time-out"
    elif workload.after is not None:
        reason = "turns that follow the answers of earlier ones"
    elif workload.media is not None:
        reason = "requests with images or audio"
    else:
        return
    raise NotStreamableError(f"{workload.name} cannot be streamed: {reason}", hint=WHOLE_HINT)


WHOLE_HINT: Final = "--no-stream simulates it whole"
