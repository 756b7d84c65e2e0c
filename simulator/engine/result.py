"""What a run of the engine leaves behind: integer times per request and sums per replica."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.engine import layout

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

PS_PER_S: Final = 1e12

STATUS_NAMES: Final = {
    layout.FINISHED: "finished",
    layout.REJECTED_CONTEXT: "rejected: longer than max_model_len",
    layout.REJECTED_KV: "rejected: longer than all KV memory",
    layout.REJECTED_BUDGET: "rejected: longer than max_num_batched_tokens",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaTotals:
    """Sums over the steps of each replica, one entry per replica; times in ps, the rest are counts."""

    steps: I64
    decode_steps: I64  # steps without prefill
    busy_ps: I64
    token_ps: I64  # everything that depends on the number of tokens alone: GEMMs, norms, collectives
    attention_ps: I64
    sample_ps: I64
    send_ps: I64
    host_ps: I64  # host time the device waited for
    bubble_ps: I64  # pipeline stages waiting although the replica had work, summed over stages
    last_end_ps: I64
    prefill_tokens: I64  # computed, repeats after preemption included
    decode_tokens: I64
    sampled_rows: I64
    decode_kv_reads: I64  # sum over decode steps of the KV tokens read
    prefill_pairs: I64  # causal (query, key) pairs
    prefill_kv_reads: I64
    preemptions: I64
    prefix_hit_tokens: I64
    evicted_units: I64
    peak_blocks: I64
    used_block_ps: F64  # integral of used KV blocks over busy time; blocks taken linear within a leap
    running_ps: F64  # integral of running sequences over busy time
    batch_histogram: I64  # [dp, max_num_seqs + 1]: steps by sequences in the step

    @property
    def dp(self) -> int:
        """Number of replicas."""
        return len(self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineResult:
    """Per-request times in ps since the start of the workload; -1 where it never happened.

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
    log: I64 | None = None  # [iterations, layout.LOG_COLUMNS], in order of decision

    def __len__(self) -> int:
        return len(self.arrival_ps)

    @property
    def is_finished(self) -> NDArray[np.bool_]:
        """Which requests were answered."""
        return self.status == layout.FINISHED

    def rejections(self) -> dict[str, int]:
        """Requests that could not run, by reason; empty if all were answered."""
        found = {name: int(np.count_nonzero(self.status == code)) for code, name in STATUS_NAMES.items()}
        del found["finished"]
        return {name: count for name, count in found.items() if count}


def totals_from_state(state: layout.State) -> ReplicaTotals:
    """Read the totals out of the engine's arrays."""
    column = state.total.T.copy()
    return ReplicaTotals(
        steps=column[layout.STEPS],
        decode_steps=column[layout.DECODE_STEPS],
        busy_ps=column[layout.BUSY],
        token_ps=column[layout.TOKEN_TIME],
        attention_ps=column[layout.ATTENTION_TIME],
        sample_ps=column[layout.SAMPLE_TIME],
        send_ps=column[layout.SEND_TIME],
        host_ps=column[layout.HOST_TIME],
        bubble_ps=column[layout.BUBBLE_TIME],
        last_end_ps=column[layout.LAST_END],
        prefill_tokens=column[layout.PREFILL_TOKENS],
        decode_tokens=column[layout.DECODE_TOKENS],
        sampled_rows=column[layout.SAMPLED_ROWS],
        decode_kv_reads=column[layout.DECODE_KV_READS],
        prefill_pairs=column[layout.PREFILL_PAIRS],
        prefill_kv_reads=column[layout.PREFILL_KV_READS],
        preemptions=column[layout.PREEMPTED],
        prefix_hit_tokens=column[layout.HITS],
        evicted_units=column[layout.EVICTED_UNITS],
        peak_blocks=column[layout.PEAK_BLOCKS],
        used_block_ps=state.integral[:, 0].copy(),
        running_ps=state.integral[:, 1].copy(),
        batch_histogram=state.histogram,
    )


def result_from_state(state: layout.State, rules: layout.Rules, output_tokens: I64) -> EngineResult:
    """Read the result out of the engine's arrays; ``output_tokens`` are those the workload asked for."""
    request = state.request
    measured = np.ones(len(request), dtype=np.bool_)
    measured[: rules.warmup] = False
    log = None
    if len(state.log):
        log = state.log[: state.globe[layout.LOG_ROWS]].copy()
    return EngineResult(
        arrival_ps=request[:, layout.ARRIVAL].copy(),
        scheduled_ps=request[:, layout.SCHEDULED].copy(),
        first_token_ps=request[:, layout.FIRST_TOKEN].copy(),
        finish_ps=request[:, layout.FINISH].copy(),
        status=request[:, layout.STATUS].copy(),
        preemptions=request[:, layout.PREEMPTIONS].copy(),
        hit_tokens=request[:, layout.HIT_TOKENS].copy(),
        replica=request[:, layout.REPLICA].copy(),
        prompt_tokens=request[:, layout.PROMPT].copy(),
        output_tokens=output_tokens,
        measured=measured,
        replicas=totals_from_state(state),
        num_gpu_blocks=rules.num_blocks,
        log=log,
    )
