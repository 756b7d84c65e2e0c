"""What went into a run must have come out of it: requests and tokens, counted after every run.

A request is answered or rejected with a reason. Every prompt token was computed, found in the prefix cache or came from
another pool; every output token but a request's first took one decode. Only preemption computes anything twice, and a
resumed prefill gives the token of one decode. What does not add up is a defect of the engine, never a result.
"""

import numpy as np

from cluster_specs.lazy_dataclass import dataclass
from simulator.engine.request import ABORTED, TIMED_OUT
from simulator.engine.result import EngineResult, ReplicaTotals
from simulator.errors import EngineDefectError


@dataclass(slots=True, kw_only=True)
class RunSums:
    """Sums over the requests of a run, of one piece or of many."""

    requests: int = 0
    finished: int = 0
    rejected: int = 0
    given_up: int = 0  # of the rejected: those whose client left, or that were aborted
    prompt_tokens: int = 0  # of answered requests, as the rest
    decoded_tokens: int = 0  # all output tokens but the first of each

    def add(self, result: EngineResult) -> None:
        """Count the requests of ``result``."""
        done = result.is_finished
        finished = int(np.count_nonzero(done))
        self.requests += len(result)
        self.finished += finished
        if finished == len(result):
            prompts, outputs = result.prompt_tokens, result.output_tokens
        else:
            self.rejected += sum(result.rejections().values())
            self.given_up += int(np.count_nonzero((result.status == TIMED_OUT) | (result.status == ABORTED)))
            prompts, outputs = result.prompt_tokens[done], result.output_tokens[done]
        self.prompt_tokens += int(prompts.sum())
        self.decoded_tokens += int(outputs.sum()) - int(np.count_nonzero(outputs))

    def check(self, name: str, requests: int, totals: ReplicaTotals, *, remote_tokens: int = 0, items: int = 0) -> None:
        """Raise ``EngineDefectError`` unless the sums of the replicas and ``requests`` sent agree with what was added.

        ``remote_tokens`` of the prompts came from another pool; ``items`` are the images and clips of those answered.
        """
        if self.requests != requests or self.finished + self.rejected != requests:
            raise EngineDefectError(
                f"workload {name!r}: {requests} requests were sent, {self.finished} answered and "
                f"{self.rejected} rejected"
            )
        computed = sum(map(int, (totals.prefill_tokens + totals.prefix_hit_tokens).tolist())) + remote_tokens
        plain = totals.decode_tokens - totals.draft_tokens - totals.surplus_tokens
        decodes = int((plain + totals.accepted_tokens).sum())
        preemptions = int(totals.preemptions.sum())
        has_drafts = bool(totals.draft_tokens.any())
        # What was computed for a request whose client gave up is in the replicas' sums alone.
        repeats = preemptions > 0 or self.given_up > 0
        prompts_hold = computed >= self.prompt_tokens if repeats else computed == self.prompt_tokens
        # Drafts that end an answer early leave one step that was scheduled for nothing.
        decodes_hold = decodes >= self.decoded_tokens - preemptions
        decodes_hold &= has_drafts or self.given_up > 0 or decodes <= self.decoded_tokens
        ran = int(totals.items.sum())
        if ran < items or (ran > items and not repeats):
            raise EngineDefectError(
                f"workload {name!r}: the encoder ran {ran} items for answered requests with {items}, {preemptions} "
                "preemptions"
            )
        if not (prompts_hold and decodes_hold):
            raise EngineDefectError(
                f"workload {name!r}: prompts of {self.prompt_tokens} tokens and {self.decoded_tokens} further output "
                f"tokens were answered with {computed} prompt tokens and {decodes} decodes, {preemptions} preemptions"
            )
