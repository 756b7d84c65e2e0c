"""What a run of the engine leaves behind: integer times per request and sums per replica."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.engine import layout

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

STATUS_NAMES: Final = {
    layout.FINISHED: "finished",
    layout.REJECTED_CONTEXT: "rejected: longer than max_model_len",
    layout.REJECTED_KV: "rejected: longer than all KV memory",
    layout.REJECTED_BUDGET: "rejected: longer than max_num_batched_tokens",
    layout.TIMED_OUT: "timed out: the client gave up",
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
    host_ps: I64  # host time the device waited for
    bubble_ps: I64  # pipeline stages waiting although the replica had work, summed over stages
    last_end_ps: I64
    prefill_tokens: I64  # computed, repeats after preemption included
    decode_tokens: I64  # computed, drafts included
    draft_tokens: I64
    accepted_tokens: I64  # drafts that became output
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
class EngineResult:
    """Per-request times in ps since the first request of the workload was sent; -1 where it never happened.

    ``arrival_ps`` is when the client sent the request, so a time to first token contains the front end. ``measured``
    is False for warm-up requests. A request asked for zero output tokens finishes with its prefill, where
    ``first_token_ps == finish_ps``, and counts no output token.
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
    measured: NDArray[np.bool_]
    replicas: ReplicaTotals
    num_gpu_blocks: int
    index: I64 | None = None  # [n] place of each request in the whole workload where this is a part of it
    log: I64 | None = None  # [iterations, layout.LOG_COLUMNS], in order of decision

    def __len__(self) -> int:
        return len(self.arrival_ps)

    @property
    def is_finished(self) -> NDArray[np.bool_]:
        """Which requests were answered."""
        return np.equal(self.status, layout.FINISHED)

    def rejections(self, *, measured_only: bool = False) -> dict[str, int]:
        """Count the requests that could not run or were given up, by reason; empty if all were answered."""
        status = self.status[self.measured] if measured_only else self.status
        found = {name: int(np.count_nonzero(status == code)) for code, name in STATUS_NAMES.items()}
        del found["finished"]
        return {name: count for name, count in found.items() if count}


def is_under_way(rows: I64) -> NDArray[np.bool_]:
    """Which requests, given their rows, are neither answered nor rejected."""
    status = rows[:, layout.STATUS]
    return np.asarray((status < layout.FINISHED) | (status == layout.VERIFYING), dtype=np.bool_)


def over_replicas(column: I64) -> int:
    """Sum over replicas as a Python integer: times of several replicas together need not fit into int64."""
    return sum(column.tolist())


def _integral_s(whole: I64, rest: I64) -> F64:
    return np.asarray((whole * float(1 << layout.OCCUPANCY_BITS) + rest) * 1e-12, dtype=np.float64)


def totals_from_state(state: I64) -> ReplicaTotals:
    """Read the sums out of the engine's state."""
    dp = int(state[layout.NUM_REPLICAS])
    first = int(state[layout.REPLICAS])
    rows = state[first : first + dp * layout.REPLICA_COLUMNS].reshape(dp, layout.REPLICA_COLUMNS)
    column = rows.T.copy()
    bins = int(state[layout.MAX_SEQS]) + 1
    return ReplicaTotals(
        steps=column[layout.STEPS],
        decode_steps=column[layout.DECODE_STEPS],
        stages=int(state[layout.STAGES]),
        busy_ps=column[layout.BUSY],
        active_ps=column[layout.ACTIVE],
        token_ps=column[layout.TOKEN_TIME],
        attention_ps=column[layout.ATTENTION_TIME],
        sample_ps=column[layout.SAMPLE_TIME],
        send_ps=column[layout.SEND_TIME],
        draft_ps=column[layout.DRAFT_TIME],
        host_ps=column[layout.HOST_TIME],
        bubble_ps=column[layout.BUBBLE_TIME],
        last_end_ps=column[layout.LAST_END],
        prefill_tokens=column[layout.PREFILL_TOKENS],
        decode_tokens=column[layout.DECODE_TOKENS],
        draft_tokens=column[layout.DRAFT_TOKENS],
        accepted_tokens=column[layout.ACCEPTED_TOKENS],
        sampled_rows=column[layout.SAMPLED_ROWS],
        decode_kv_reads=column[layout.DECODE_KV_READS],
        prefill_pairs=column[layout.PREFILL_PAIRS],
        prefill_kv_reads=column[layout.PREFILL_KV_READS],
        preemptions=column[layout.PREEMPTED],
        prefix_hit_tokens=column[layout.HITS],
        evicted_units=column[layout.EVICTED_UNITS],
        peak_blocks=column[layout.PEAK_BLOCKS],
        used_block_s=0.5 * _integral_s(column[layout.USED_BLOCK_TIME], column[layout.USED_BLOCK_FRACTION]),
        running_s=_integral_s(column[layout.RUNNING_TIME], column[layout.RUNNING_FRACTION]),
        batch_histogram=np.stack([state[at : at + bins] for at in column[layout.HISTOGRAM]]),
    )


def result_from_state(state: I64) -> EngineResult:
    """Read the result of a whole workload out of the engine's state."""
    rows = state[state[layout.REQUESTS] :].reshape(-1, layout.REQUEST_COLUMNS)
    log = None
    if state[layout.LOG_CAPACITY]:
        at = int(state[layout.LOG])
        log = state[at : at + state[layout.LOG_SIZE] * layout.LOG_COLUMNS].reshape(-1, layout.LOG_COLUMNS).copy()
    return replace(result_from_rows(state, rows), log=log)


def result_from_rows(state: I64, rows: I64) -> EngineResult:
    """Read the result of the requests in ``rows``, and the sums of all replicas, out of the engine's state."""
    measured = np.ones(len(rows), dtype=np.bool_)
    measured[: state[layout.WARMUP]] = False
    return EngineResult(
        arrival_ps=rows[:, layout.ARRIVAL].copy(),
        scheduled_ps=rows[:, layout.SCHEDULED].copy(),
        first_token_ps=rows[:, layout.FIRST_TOKEN].copy(),
        finish_ps=rows[:, layout.FINISH].copy(),
        status=rows[:, layout.STATUS].copy(),
        preemptions=rows[:, layout.PREEMPTIONS].copy(),
        hit_tokens=rows[:, layout.HIT_TOKENS].copy(),
        replica=rows[:, layout.REPLICA].copy(),
        prompt_tokens=rows[:, layout.PROMPT].copy(),
        output_tokens=rows[:, layout.ASKED].copy(),
        measured=measured,
        replicas=totals_from_state(state),
        num_gpu_blocks=int(state[layout.NUM_BLOCKS]),
    )
