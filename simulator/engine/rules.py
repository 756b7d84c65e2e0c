"""The rules of a run as the header of its state holds them: what limits, workload and client ask for."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.engine.bounds import CLOCK_END, NONE
from simulator.engine.records import I64
from simulator.engine.state import (
    ALONE,
    LEAST_OUTSTANDING_ROUTER,
    ORCA,
    PREFIX_ROUTER,
    RECORDED_ROUTER,
    ROUND_ROBIN_ROUTER,
    SGLANG,
    VLLM_ROUTER,
    VLLM_V0,
    VLLM_V1,
    State,
)
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.steps.step_tables import StepTables
from simulator.workload.workload import CappedLoop, ClosedLoop, Workload

PS_PER_S: Final = 1e12

POLICIES: Final = {"vllm-v1": VLLM_V1, "vllm-v0": VLLM_V0, "sglang": SGLANG, "orca": ORCA}
ROUTERS: Final = {
    "round_robin": ROUND_ROBIN_ROUTER,
    "vllm": VLLM_ROUTER,
    "least_outstanding": LEAST_OUTSTANDING_ROUTER,
    "prefix": PREFIX_ROUTER,
}


def ps(seconds: NDArray[np.float64]) -> I64:
    """Whole picoseconds; the caller has checked that int64 holds them."""
    return np.round(seconds * PS_PER_S).astype(np.int64)


def first_arrival_s(workload: Workload) -> float:
    """When the clock of a run starts: at the first request that is sent at a time of its own."""
    if isinstance(workload.client, ClosedLoop):
        return 0.0
    return float(workload.arrival_s[0 if workload.after is None else int(np.argmax(workload.after < 0))])


def rules_of(
    tables: StepTables, limits: EngineLimits, workload: Workload, *, router: str, leap: bool, ranks: int = 1
) -> State:
    """Fields of the header that stay fixed during the run or start it; those not set are 0.

    ``ranks`` schedulers step together.
    """
    rules = State()
    _state_scheduler(rules, limits)
    is_sglang = limits.policy == "sglang"
    rules.is_caching = limits.enable_prefix_caching and workload.prefix is not None and not is_sglang
    rules.has_tree = limits.enable_prefix_caching and is_sglang
    rules.unit_blocks = 1 if workload.prefix is None else max(1, workload.prefix.block_tokens // limits.block_size)
    rules.window = min(tables.window_tokens, limits.max_model_len)  # no sequence fills a wider one
    rules.host_step_ps = tables.host_step_ps
    rules.host_seq_ps = tables.host_seq_ps
    rules.is_leaping = leap
    rules.router = RECORDED_ROUTER if workload.replica is not None else ROUTERS[router]
    _state_client(rules, limits, workload)
    rules.has_items = workload.items is not None and len(workload.items) > 0
    rules.encoder_budget = limits.encoder_budget if rules.has_items else 0
    rules.keeps_items_whole = limits.keeps_items_whole
    rules.encodes_by_request = limits.encodes_by_request
    rules.horizon_ps = CLOCK_END
    rules.stages = tables.stages
    rules.in_flight = tables.stages + int(rules.is_async and limits.async_pipeline == "staggered")
    rules.decodes_always = rules.is_async and tables.stages > 1 and limits.async_pipeline == "unbroken"
    rules.needs_all_ranks = tables.stages > 1 and ranks > 1 and limits.pipeline_ranks == "all"
    rules.last_tick_ps = NONE
    rules.ranks = ranks
    rules.pool = ALONE
    return rules


def _state_scheduler(rules: State, limits: EngineLimits) -> None:
    is_orca = limits.policy == "orca"
    is_v0 = limits.policy == "vllm-v0"
    rules.policy = POLICIES[limits.policy]
    rules.max_seqs = limits.max_num_seqs
    rules.max_tokens = limits.max_num_batched_tokens
    rules.max_model_len = limits.max_model_len
    rules.block_size = size = limits.block_size
    rules.block_bits = NONE if size & (size - 1) else size.bit_length() - 1
    rules.num_blocks = limits.num_gpu_blocks
    rules.is_chunked = limits.enable_chunked_prefill and not is_orca
    rules.is_async = limits.async_scheduling and limits.policy in {"vllm-v1", "sglang"}
    rules.gates_full_sequence = limits.reserve_full_isl
    rules.reserves_output = is_orca or limits.reserves_output
    rules.reserves_prompt = is_v0
    rules.admits_after_preemption = is_v0
    rules.spare_tokens = 2 if limits.policy == "sglang" else 0
    if limits.num_speculative_tokens:
        # Slots of this step's drafts, of the next one's, and of those whose fate is not yet known.
        rules.spare_tokens = limits.num_speculative_tokens * (3 if limits.async_scheduling else 2)
        rules.drafts = limits.num_speculative_tokens
        rules.draft_step_ps = round(limits.draft_step_s * PS_PER_S)
        rules.draft_seed = limits.speculative_seed
        rules.skips_drafts = limits.skips_unused_drafts
    rules.wait_iters = limits.batch_wait_iters
    rules.wait_tokens = limits.batch_wait_tokens
    rules.ranks_wait_iters = limits.ranks_wait_iters
    rules.ranks_batching_iters = limits.ranks_batching_iters
    rules.is_sglang = limits.policy == "sglang"
    rules.max_prefill_tokens = max(limits.max_prefill_tokens, limits.max_num_batched_tokens)
    rules.recv_interval = limits.scheduler_recv_interval
    rules.chunk_tokens = limits.stream_interval
    rules.first_chunk = limits.stream_interval if limits.first_chunk == "full" else 1
    counts_first = limits.first_chunk == "counted" and limits.stream_interval > 1
    rules.chunk_origin = 0 if counts_first else rules.first_chunk
    rules.watermark = limits.watermark_blocks
    if not is_v0 or limits.enable_chunked_prefill:
        rules.long_prefill = limits.long_prefill_token_threshold


def _state_client(rules: State, limits: EngineLimits, workload: Workload) -> None:
    rules.is_closed = rules.is_capped = False
    rules.concurrency = rules.warmup = rules.client_gap_ps = 0
    rules.frontend_ps = round(limits.frontend_s * PS_PER_S)
    rules.frontend_gap_ps = round(limits.frontend_gap_s * PS_PER_S)
    rules.frontend_last_ps = -rules.frontend_gap_ps
    if workload.client_timeout_s is not None:
        rules.timeout_ps = max(1, round(workload.client_timeout_s * PS_PER_S))
    if isinstance(workload.client, ClosedLoop):
        rules.is_closed = True
        rules.concurrency = min(workload.client.concurrency, len(workload))
        rules.warmup = workload.client.warmup
        rules.client_gap_ps = round(workload.client.request_s * PS_PER_S)
        rules.client_last_ps = -rules.client_gap_ps
    elif isinstance(workload.client, CappedLoop):
        rules.is_closed = rules.is_capped = True
        rules.concurrency = min(workload.client.concurrency, len(workload))
        rules.free_slots = rules.concurrency
