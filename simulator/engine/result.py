"""What a run of the engine leaves behind: integer times per request and sums per replica."""

from dataclasses import field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from simulator.engine.bounds import OCCUPANCY_BITS
from simulator.engine.records import I64, Flags, Rows, taken
from simulator.engine.request import (
    ABORTED,
    FINISHED,
    LEAVING,
    OFFERED,
    OVERRUNNING,
    RECEIVING,
    REJECTED_BUDGET,
    REJECTED_CONTEXT,
    REJECTED_KV,
    TIMED_OUT,
    UNSEEN,
    VERIFYING,
)
from simulator.engine.state_arrays import CACHED_ROWS, StateArrays

F64 = NDArray[np.float64]

STATUS_NAMES: Final = {
    FINISHED: "finished",
    REJECTED_CONTEXT: "rejected: longer than max_model_len",
    REJECTED_KV: "rejected: longer than all KV memory",
    REJECTED_BUDGET: "rejected: longer than max_num_batched_tokens",
    TIMED_OUT: "timed out: the client gave up",
    ABORTED: "aborted: out of KV memory, alone in its micro-batch",
}

# Columns of the result, and the fields of the requests they come from.
_COLUMNS: Final = {
    "arrival_ps": "arrival_ps",
    "scheduled_ps": "scheduled_ps",
    "first_token_ps": "first_token_ps",
    "finish_ps": "finish_ps",
    "status": "status",
    "preemptions": "preemptions",
    "hit_tokens": "hit_tokens",
    "replica": "replica",
    "prompt_tokens": "prompt",
    "output_tokens": "asked",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaTotals:
    """Sums over the steps of each replica, one entry per replica; times in ps, the rest are counts."""

    stages: int
    steps: I64
    decode_steps: I64  # steps without prefill
    busy_ps: I64  # summed over pipeline stages
    active_ps: I64  # time in which at least one step was under way
    token_ps: I64  # everything that depends on the number of tokens alone: GEMMs, norms, collectives
    attention_ps: I64
    sample_ps: I64
    send_ps: I64
    draft_ps: I64  # draft model of speculative decoding
    encoder_ps: I64  # encoder of images and audio
    host_ps: I64  # host time the device waited for
    bubble_ps: I64  # pipeline stages waiting although the replica had work, summed over stages
    last_end_ps: I64
    prefill_tokens: I64  # computed, repeats after preemption included
    decode_tokens: I64  # computed, drafts included
    draft_tokens: I64
    accepted_tokens: I64  # drafts that became output
    surplus_tokens: I64  # decodes of sequences whose last token was under way already
    encoder_steps: I64  # in which the encoder ran
    items: I64  # images and clips it ran, repeats after preemption included, their tokens and pairs
    item_tokens: I64
    item_pairs: I64
    sampled_rows: I64
    decode_kv_reads: I64  # sum over decode steps of the KV tokens read
    prefill_pairs: I64  # causal (query, key) pairs
    prefill_kv_reads: I64
    preemptions: I64
    prefix_hit_tokens: I64
    evicted_units: I64
    peak_blocks: I64
    used_block_s: F64  # integral of used KV blocks over active time; blocks taken linear within a leap
    running_s: F64  # integral of sequences in the step over active time
    batch_histogram: I64  # [dp, max_num_seqs + 1]: steps by sequences in the step

    @property
    def dp(self) -> int:
        """Number of replicas."""
        return len(self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks:
    """How answers reach the client: ``first`` tokens together, then those up to ``origin`` + i ``tokens``, the rest."""

    first: int = 1
    tokens: int = 1
    origin: int = 1

    def after_first(self, output_tokens: I64) -> I64:
        """Count the chunks that follow the first one of answers [n] of so many tokens."""
        following = -(-(output_tokens - self.origin) // self.tokens)
        return np.where(output_tokens > self.first, following, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineResult:
    """Per-request times in ps since the first request of the workload was sent; -1 where it never happened.

    ``arrival_ps`` is when the client sent the request, so a time to first token contains the front end.
    ``first_token_ps`` is when the client gets the first chunk, which a streaming interval may hold back, ``finish_ps``
    when it gets the last one. ``measured`` is False for warm-up requests. A request asked for zero output tokens
    finishes with its prefill, where ``first_token_ps == finish_ps``, and counts no output token.
    """

    arrival_ps: I64
    scheduled_ps: I64
    first_token_ps: I64
    finish_ps: I64
    status: I64  # see STATUS_NAMES
    preemptions: I64
    hit_tokens: I64
    replica: I64
    prompt_tokens: I64
    output_tokens: I64
    measured: Flags
    replicas: ReplicaTotals
    num_gpu_blocks: int
    index: I64 | None = None  # [n] place of each request in the whole workload where this is a part of it
    chunks: Chunks = field(default_factory=Chunks)
    log: Rows | None = None  # [iterations] of ``LogRow``, in order of decision

    def __len__(self) -> int:
        return len(self.arrival_ps)

    @property
    def is_finished(self) -> Flags:
        """Which requests were answered."""
        return np.equal(self.status, FINISHED)

    def rejections(self, *, measured_only: bool = False) -> dict[str, int]:
        """Count the requests that could not run or were given up, by reason; empty if all were answered."""
        status = self.status[self.measured] if measured_only else self.status
        found = {name: int(np.count_nonzero(status == code)) for code, name in STATUS_NAMES.items()}
        del found["finished"]
        return {name: count for name, count in found.items() if count}


def is_under_way(requests: Rows) -> Flags:
    """Which requests are neither answered nor rejected."""
    status = requests["status"]
    is_late = (status == OFFERED) | (status == RECEIVING)
    is_late |= (status == VERIFYING) | (status == UNSEEN) | (status == LEAVING) | (status == OVERRUNNING)
    return np.asarray((status < FINISHED) | is_late, dtype=np.bool_)


def over_replicas(column: I64) -> int:
    """Sum over replicas as a Python integer: times of several replicas together need not fit into int64."""
    return sum(column.tolist())


def _integral_s(integral: Rows) -> F64:
    return np.asarray((integral["whole"] * float(1 << OCCUPANCY_BITS) + integral["rest"]) * 1e-12, dtype=np.float64)


def totals_from_state(state: StateArrays) -> ReplicaTotals:
    """Read the sums out of the engine's state."""
    rows = taken(state.replicas)
    bins = state.header.max_seqs + 1
    return ReplicaTotals(
        stages=int(state.header.stages),
        steps=rows["steps"],
        decode_steps=rows["decode_steps"],
        busy_ps=rows["busy_ps"],
        active_ps=rows["active_ps"],
        token_ps=rows["token_ps"],
        attention_ps=rows["attention"]["ps"],
        sample_ps=rows["sample_ps"],
        send_ps=rows["send_ps"],
        draft_ps=rows["draft_ps"],
        encoder_ps=rows["encoder_ps"],
        encoder_steps=rows["encoder_steps"],
        items=rows["items"],
        item_tokens=rows["item_tokens"],
        item_pairs=rows["item_pairs"],
        host_ps=rows["host"]["ps"],
        bubble_ps=rows["bubble_ps"],
        last_end_ps=rows["last_end_ps"],
        prefill_tokens=rows["prefill_tokens"],
        decode_tokens=rows["decode_tokens"],
        draft_tokens=rows["draft_tokens"],
        accepted_tokens=rows["accepted_tokens"],
        surplus_tokens=rows["surplus_tokens"],
        sampled_rows=rows["sampled_rows"],
        decode_kv_reads=rows["decode_kv_reads"],
        prefill_pairs=rows["prefill_pairs"],
        prefill_kv_reads=rows["prefill_kv_reads"],
        preemptions=rows["preempted"],
        prefix_hit_tokens=rows["hits"],
        evicted_units=rows["evicted_units"],
        peak_blocks=rows["peak_blocks"],
        used_block_s=0.5 * _integral_s(rows["used_block_time"]),
        running_s=_integral_s(rows["running_time"]),
        batch_histogram=np.stack([state.list_at(place, bins) for place in rows["histogram"]]),
    )


def result_from_state(state: StateArrays) -> EngineResult:
    """Read the result of a whole workload out of the engine's state."""
    log = taken(state.log) if state.header.log_capacity else None
    return replace(result_of(state, state.requests), log=log)


def result_of(state: StateArrays, requests: Rows) -> EngineResult:
    """Read the result of some requests, and the sums of all replicas, out of the engine's state."""
    measured = np.ones(len(requests), dtype=np.bool_)
    measured[: state.header.warmup] = False
    columns: dict[str, Any] = {name: np.empty(len(requests), dtype=np.int64) for name in _COLUMNS}
    for at in range(0, len(requests), CACHED_ROWS):
        part = requests[at : at + CACHED_ROWS]
        for name, source in _COLUMNS.items():
            columns[name][at : at + CACHED_ROWS] = part[source]
    return EngineResult(
        **columns,
        measured=measured,
        replicas=totals_from_state(state),
        num_gpu_blocks=int(state.header.num_blocks),
        chunks=Chunks(
            first=int(state.header.first_chunk),
            tokens=int(state.header.chunk_tokens),
            origin=int(state.header.chunk_origin),
        ),
    )
