"""Simulate the replicas of a plan serving a workload, step by step, on integer time.

``run_replicas`` checks the input, lays out the state and calls the compiled event loop (``loop``). What the engine does
not model is refused here, by name.
"""

from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np

from simulator.engine import layout
from simulator.engine.jit import cached_entry, source_fingerprint
from simulator.engine.layout import Costs, Rules, State
from simulator.engine.loop import STUCK, run_events, start_clients
from simulator.engine.result import PS_PER_S, EngineResult, result_from_state
from simulator.errors import InputError
from simulator.limits import EngineLimits, RouterName
from simulator.step_tables import StepTables
from simulator.workload.workload import ClosedLoop, Workload

_POLICIES: Final = {"vllm-v1": layout.VLLM_V1, "orca": layout.ORCA}
_ROUTERS: Final = {
    "round_robin": layout.ROUND_ROBIN_ROUTER,
    "vllm": layout.VLLM_ROUTER,
    "least_outstanding": layout.LEAST_OUTSTANDING_ROUTER,
    "prefix": layout.PREFIX_ROUTER,
}
_MAX_STEP_PS: Final = 10**15  # 2^-12 ps of one step must stay far from 2^63
_LOG_ROWS: Final = 4096


@cache
def _entry() -> Callable[[State, Rules, Costs, bool], int]:
    """The compiled loop; a change to any engine source recompiles it."""
    fingerprint = source_fingerprint()

    @cached_entry
    def entry(state: State, rules: Rules, costs: Costs, is_start: bool) -> int:
        if is_start and len(fingerprint) > 0:
            start_clients(state, rules)
        return run_events(state, rules, costs)

    return entry


def run_replicas(
    tables: StepTables,
    limits: EngineLimits,
    workload: Workload,
    *,
    dp: int = 1,
    router: RouterName = "round_robin",
    leap: bool = True,
    log: bool = False,
) -> EngineResult:
    """Serve ``workload`` on ``dp`` replicas, each with the costs ``tables`` and the limits ``limits``.

    ``leap`` runs stretches of decode-only steps at once; the result is the same, bit for bit. ``log`` keeps one row per
    iteration. A recorded ``workload.replica`` overrides ``router``. Raises ``InputError`` for input the engine cannot
    model; a request that can never run is reported by its status, not by an error.
    """
    rules = _rules(tables, limits, workload, dp=dp, router=router, leap=leap)
    costs = _costs(tables, limits)
    rows = _LOG_ROWS if log else 0
    while True:
        state = _state(rules, workload, dp=dp, log_rows=rows)
        if _entry()(state, rules, costs, True) == STUCK:
            raise RuntimeError(f"engine defect: workload {workload.name!r} leaves a request that can never be admitted")
        rows = int(state.globe[layout.LOG_ROWS])
        if rows <= len(state.log):
            return result_from_state(state, rules, workload.output_tokens)


def _check(tables: StepTables, limits: EngineLimits, workload: Workload, dp: int) -> None:
    if limits.policy not in _POLICIES:
        raise InputError(
            f"policy {limits.policy!r} is not modelled by the engine", hint=f"one of {', '.join(_POLICIES)}"
        )
    if tables.stages != 1:
        raise InputError(f"a plan with {tables.stages} pipeline stages is not modelled by the engine")
    if limits.num_speculative_tokens:
        raise InputError("speculative decoding is not modelled by the engine", hint="set num_speculative_tokens to 0")
    for name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "block_size", "num_gpu_blocks"):
        value = getattr(limits, name)
        if value < 1:
            raise InputError(f"engine limits: {name} is {value}, must be >= 1")
    if dp < 1:
        raise InputError(f"dp is {dp}, must be >= 1")
    needs = {
        "token_mixed_ps": (tables.token_mixed_ps.shape[1], limits.max_num_batched_tokens + 1),
        "token_decode_ps": (tables.token_decode_ps.shape[1], limits.max_num_batched_tokens + 1),
        "sample_ps": (tables.sample_ps.shape[1], limits.max_num_seqs + 1),
    }
    for name, (length, wanted) in needs.items():
        if length < wanted:
            raise InputError(f"step tables: {name} has {length} entries, the engine limits need {wanted}")
    largest = max(int(tables.token_mixed_ps.max()), int(tables.decode_ps.max()), int(tables.windowed_ps.max()))
    if largest > _MAX_STEP_PS:
        raise InputError(f"step tables: one step takes {largest / PS_PER_S:.0f} s, the engine counts up to 1000 s")
    if len(workload) == 0:
        raise InputError(f"workload {workload.name!r} has no requests")
    if workload.prefix is not None and limits.enable_prefix_caching:
        size = workload.prefix.block_tokens
        if size % limits.block_size and limits.block_size % size:
            raise InputError(
                f"workload {workload.name!r}: prefix blocks of {size} tokens do not align with KV blocks of "
                f"{limits.block_size}",
                hint="choose a block_size that divides the trace's block, or a multiple of it",
            )
    if isinstance(workload.client, ClosedLoop):
        if workload.after is not None:
            raise InputError(f"workload {workload.name!r}: a closed loop cannot also follow sessions (`after`)")
        if workload.client.concurrency < 1:
            raise InputError(f"workload {workload.name!r}: concurrency is {workload.client.concurrency}, must be >= 1")
        if not 0 <= workload.client.warmup < len(workload):
            raise InputError(
                f"workload {workload.name!r}: warmup is {workload.client.warmup} of {len(workload)} requests"
            )
    if workload.replica is not None and int(workload.replica.max()) >= dp:
        raise InputError(
            f"workload {workload.name!r}: recorded replica {int(workload.replica.max())}, but the plan has dp {dp}"
        )


def _rules(
    tables: StepTables, limits: EngineLimits, workload: Workload, *, dp: int, router: RouterName, leap: bool
) -> Rules:
    _check(tables, limits, workload, dp)
    is_closed = isinstance(workload.client, ClosedLoop)
    is_caching = limits.enable_prefix_caching and workload.prefix is not None
    unit_tokens = limits.block_size
    if workload.prefix is not None:
        unit_tokens = max(workload.prefix.block_tokens, limits.block_size)
    is_orca = limits.policy == "orca"
    return Rules(
        policy=_POLICIES[limits.policy],
        max_seqs=limits.max_num_seqs,
        max_tokens=limits.max_num_batched_tokens,
        max_model_len=limits.max_model_len,
        block_size=limits.block_size,
        num_blocks=limits.num_gpu_blocks,
        is_chunked=int(limits.enable_chunked_prefill and not is_orca),
        is_caching=int(is_caching and not is_orca),
        is_async=int(limits.async_scheduling and not is_orca),
        gates_full_sequence=int(limits.reserve_full_isl),
        reserves_output=int(is_orca),
        watermark=limits.watermark_blocks,
        long_prefill=limits.long_prefill_token_threshold,
        window=tables.window_tokens,
        host_step_ps=tables.host_step_ps,
        host_seq_ps=tables.host_seq_ps,
        frontend_ps=round(limits.frontend_s * PS_PER_S),
        is_leaping=int(leap),
        router=layout.RECORDED_ROUTER if workload.replica is not None else _ROUTERS[router],
        is_closed=int(is_closed),
        concurrency=workload.client.concurrency if isinstance(workload.client, ClosedLoop) else 0,
        warmup=workload.client.warmup if isinstance(workload.client, ClosedLoop) else 0,
        unit_tokens=unit_tokens,
        unit_blocks=unit_tokens // limits.block_size,
        horizon_ps=layout.NEVER,
    )


def _costs(tables: StepTables, limits: EngineLimits) -> Costs:
    knots = tables.decode_batch_knots
    batch = np.arange(limits.max_num_seqs + 1)
    lower = np.minimum(np.searchsorted(knots, batch, side="right") - 1, len(knots) - 1).clip(0)
    return Costs(
        token_mixed=tables.token_mixed_ps,
        token_decode=tables.token_decode_ps,
        sample=tables.sample_ps,
        send=tables.send_ps,
        batch_index=lower,
        batch_knots=knots,
        kv_knots=tables.decode_kv_knots,
        decode=tables.decode_ps,
        windowed=tables.windowed_ps,
        pair_knots=tables.prefill_pair_knots,
        pairs=tables.prefill_pair_ps,
        read_knots=tables.prefill_kv_knots,
        reads=tables.prefill_kv_ps,
    )


def _units(workload: Workload, rules: Rules) -> tuple[layout.I64, layout.I32, int]:
    """Offsets and dense ids of each request's whole prefix units, and how many there are."""
    if rules.is_caching == 0 or workload.prefix is None:
        return np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int32), 0
    prefix = workload.prefix
    counts = np.diff(prefix.offsets)
    ids = prefix.ids
    offsets = prefix.offsets
    group = rules.unit_tokens // prefix.block_tokens
    if group > 1:
        # An id names everything before it too, so the last id of a KV block names the block.
        whole = counts // group
        offsets = np.concatenate([[0], np.cumsum(whole)])
        place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], whole)
        ids = ids[np.repeat(prefix.offsets[:-1], whole) + place * group + group - 1]
    if len(ids) == 0:
        return np.asarray(offsets, dtype=np.int64), np.zeros(0, dtype=np.int32), 0
    if int(ids.min()) >= 0 and int(ids.max()) < 4 * len(ids):
        return np.asarray(offsets, dtype=np.int64), ids.astype(np.int32), int(ids.max()) + 1
    known, dense = np.unique(ids, return_inverse=True)
    return np.asarray(offsets, dtype=np.int64), dense.astype(np.int32), len(known)


def _requests(rules: Rules, workload: Workload) -> layout.I64:
    request = np.zeros((len(workload), layout.REQUEST_COLUMNS), dtype=np.int64)
    if rules.is_closed == 0:
        request[:, layout.ARRIVAL] = np.round(workload.arrival_s * PS_PER_S)
    request[:, layout.PROMPT] = workload.prompt_tokens
    request[:, layout.OUTPUT] = np.maximum(workload.output_tokens, 1)
    request[:, layout.SCHEDULED : layout.FINISH + 1] = layout.NONE
    if workload.replica is not None:
        request[:, layout.REPLICA] = workload.replica
    if workload.after is not None:
        request[workload.after >= 0, layout.ARRIVAL] = layout.NONE
    return request


def _children(workload: Workload) -> tuple[layout.I64, layout.I64, layout.I64]:
    """For each request the first one sent after it, the next one sent after the same, and the pause in ps."""
    if workload.after is None:
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty, empty
    n = len(workload)
    first = np.full(n, layout.NONE, dtype=np.int64)
    sibling = np.full(n, layout.NONE, dtype=np.int64)
    think = np.zeros(n, dtype=np.int64)
    if workload.think_s is not None:
        think[:] = np.round(workload.think_s * PS_PER_S)
    for i in range(n - 1, -1, -1):
        parent = int(workload.after[i])
        if parent >= 0:
            sibling[i] = first[parent]
            first[parent] = i
    return first, sibling, think


def _state(rules: Rules, workload: Workload, *, dp: int, log_rows: int) -> State:
    replica = np.zeros((dp, layout.REPLICA_COLUMNS), dtype=np.int64)
    for column in (
        layout.RUN_HEAD,
        layout.RUN_TAIL,
        layout.WAIT_HEAD,
        layout.WAIT_TAIL,
        layout.RELEASING_HEAD,
        layout.RELEASING_TAIL,
        layout.STARVED_HEAD,
        layout.LRU_HEAD,
        layout.LRU_TAIL,
        layout.FINISHED_HEAD,
        layout.FINISHED_TAIL,
    ):
        replica[:, column] = layout.NONE
    replica[:, layout.KEY] = layout.NEVER
    replica[:, layout.FREE] = rules.num_blocks
    capacity = 2 * rules.max_seqs + 16
    window_capacity = capacity if rules.window else 1
    pending = rules.concurrency + 1
    if workload.after is not None:
        pending = len(workload) + 1
    offsets, unit, units = _units(workload, rules)
    first_child, next_child, think = _children(workload)
    return State(
        request=_requests(rules, workload),
        replica=replica,
        total=np.zeros((dp, layout.TOTAL_COLUMNS), dtype=np.int64),
        integral=np.zeros((dp, 2)),
        histogram=np.zeros((dp, rules.max_seqs + 1), dtype=np.int64),
        heap_key=np.zeros((dp, capacity), dtype=np.int64),
        heap_request=np.zeros((dp, capacity), dtype=np.int64),
        window_key=np.zeros((dp, window_capacity), dtype=np.int64),
        window_request=np.zeros((dp, window_capacity), dtype=np.int64),
        residue=np.zeros((dp, rules.block_size), dtype=np.int64),
        partial=np.zeros((dp, rules.max_seqs), dtype=np.int64),
        pending_time=np.zeros(pending, dtype=np.int64),
        pending_request=np.zeros(pending, dtype=np.int64),
        first_child=first_child,
        next_child=next_child,
        think=think,
        unit_offset=offsets,
        unit=unit,
        unit_held=np.zeros(len(unit), dtype=np.uint8),
        unit_users=np.full((dp, units), -1, dtype=np.int32),
        unit_previous=np.zeros((dp, units), dtype=np.int32),
        unit_next=np.zeros((dp, units), dtype=np.int32),
        globe=np.zeros(layout.GLOBE_COLUMNS, dtype=np.int64),
        log=np.zeros((log_rows, layout.LOG_COLUMNS), dtype=np.int64),
    )
