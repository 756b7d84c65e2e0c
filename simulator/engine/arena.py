"""Lay out the engine's two arrays: the state of a run, and the step tables it looks costs up in."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulator.engine import layout
from simulator.engine.layout import I64, NONE
from simulator.engine.table_checks import check_costs
from simulator.limits import EngineLimits
from simulator.step_tables import StepTables
from simulator.workload.workload import CappedLoop, ClosedLoop, PrefixBlocks, Workload

PS_PER_S: Final = 1e12
DRAWS: Final = 1 << 62  # a draw is a whole number below this

POLICIES: Final = {"vllm-v1": layout.VLLM_V1, "vllm-v0": layout.VLLM_V0, "sglang": layout.SGLANG, "orca": layout.ORCA}
ROUTERS: Final = {
    "round_robin": layout.ROUND_ROBIN_ROUTER,
    "vllm": layout.VLLM_ROUTER,
    "least_outstanding": layout.LEAST_OUTSTANDING_ROUTER,
    "prefix": layout.PREFIX_ROUTER,
}
_EMPTY_LISTS: Final = (
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
)


def ps(seconds: NDArray[np.float64]) -> I64:
    """Whole picoseconds; the caller has checked that int64 holds them."""
    return np.round(seconds * PS_PER_S).astype(np.int64)


def first_arrival_s(workload: Workload) -> float:
    """When the clock of a run starts: at the first request that is sent at a time of its own."""
    if isinstance(workload.client, ClosedLoop):
        return 0.0
    return float(workload.arrival_s[0 if workload.after is None else int(np.argmax(workload.after < 0))])


def cost_arena(tables: StepTables, limits: EngineLimits) -> I64:
    """Header and all step tables in one array; raises ``UserError`` for a negative cost."""
    batch = np.arange(limits.max_num_seqs + 1)
    knots = tables.decode_batch_knots
    lower = np.maximum(np.searchsorted(knots, batch, side="right") - 1, 0)
    header = np.zeros(layout.COST_COLUMNS, dtype=np.int64)
    parts = [header]
    size = layout.COST_COLUMNS
    for column, table in (
        (layout.TOKEN_MIXED, tables.token_mixed_ps),
        (layout.TOKEN_DECODE, tables.token_decode_ps),
        (layout.SAMPLE, tables.sample_ps),
        (layout.SEND, tables.send_ps),
        (layout.POOLED, tables.pooled_ps),
        (layout.BATCH_INDEX, lower),
        (layout.BATCH_KNOTS, knots),
        (layout.KV_KNOTS, tables.decode_kv_knots),
        (layout.DECODE, tables.decode_ps),
        (layout.WINDOWED, tables.windowed_ps),
        (layout.PAIR_KNOTS, tables.prefill_pair_knots),
        (layout.PAIRS, tables.prefill_pair_ps),
        (layout.READ_KNOTS, tables.prefill_kv_knots),
        (layout.READS, tables.prefill_kv_ps),
        (layout.CONTEXT_KNOTS, tables.context_knots),
        (layout.CONTEXT, tables.context_ps),
        (layout.ACCEPTANCE, _acceptance_bounds(limits)),
    ):
        header[column] = size
        parts.append(table.ravel())
        size += table.size
    header[layout.PADDED_MIXED] = tables.padded_mixed
    header[layout.PADDED_DECODE] = tables.padded_decode
    header[layout.TOKEN_STRIDE] = tables.token_mixed_ps.shape[1]
    header[layout.SAMPLE_STRIDE] = tables.sample_ps.shape[1]
    header[layout.NUM_BATCH_KNOTS] = len(knots)
    header[layout.NUM_KV_KNOTS] = len(tables.decode_kv_knots)
    header[layout.NUM_PAIR_KNOTS] = len(tables.prefill_pair_knots)
    header[layout.NUM_READ_KNOTS] = len(tables.prefill_kv_knots)
    header[layout.NUM_CONTEXT_KNOTS] = len(tables.context_knots)
    return check_costs(tables, np.concatenate(parts))


def _acceptance_bounds(limits: EngineLimits) -> I64:
    """Bounds [num_speculative_tokens] of a draw: the first i drafts are accepted with probability acceptance^i."""
    powers = [limits.speculative_acceptance ** (i + 1) for i in range(limits.num_speculative_tokens)]
    return np.array([int(power * DRAWS) for power in powers], dtype=np.int64)


def rules_header(tables: StepTables, limits: EngineLimits, workload: Workload, *, router: str, leap: bool) -> I64:
    """Header of the state: what stays fixed during the run."""
    is_orca = limits.policy == "orca"
    is_v0 = limits.policy == "vllm-v0"
    unit_tokens = limits.block_size
    if workload.prefix is not None:
        unit_tokens = max(workload.prefix.block_tokens, limits.block_size)
    header = np.zeros(layout.HEADER_COLUMNS, dtype=np.int64)
    header[layout.POLICY] = POLICIES[limits.policy]
    header[layout.MAX_SEQS] = limits.max_num_seqs
    header[layout.MAX_TOKENS] = limits.max_num_batched_tokens
    header[layout.MAX_MODEL_LEN] = limits.max_model_len
    header[layout.BLOCK_SIZE] = limits.block_size
    header[layout.NUM_BLOCKS] = limits.num_gpu_blocks
    header[layout.IS_CHUNKED] = limits.enable_chunked_prefill and not is_orca
    header[layout.IS_CACHING] = limits.enable_prefix_caching and workload.prefix is not None
    header[layout.IS_ASYNC] = limits.async_scheduling and limits.policy in {"vllm-v1", "sglang"}
    header[layout.GATES_FULL_SEQUENCE] = limits.reserve_full_isl
    header[layout.RESERVES_OUTPUT] = is_orca or limits.reserves_output
    header[layout.RESERVES_PROMPT] = is_v0
    header[layout.ADMITS_AFTER_PREEMPTION] = is_v0
    header[layout.SPARE_TOKENS] = 2 if limits.policy == "sglang" else 0
    if limits.num_speculative_tokens:
        # Slots of this step's drafts, of the next one's, and of those whose fate is not yet known.
        header[layout.SPARE_TOKENS] = limits.num_speculative_tokens * (3 if limits.async_scheduling else 2)
        header[layout.DRAFTS] = limits.num_speculative_tokens
        header[layout.DRAFT_STEP] = round(limits.draft_step_s * PS_PER_S)
        header[layout.DRAFT_SEED] = limits.speculative_seed
    header[layout.PUBLISHES_LATE] = limits.policy == "sglang"
    header[layout.WATERMARK] = limits.watermark_blocks
    if not is_v0 or limits.enable_chunked_prefill:
        header[layout.LONG_PREFILL] = limits.long_prefill_token_threshold
    header[layout.WINDOW] = min(tables.window_tokens, limits.max_model_len)  # no sequence fills a wider one
    header[layout.HOST_STEP] = tables.host_step_ps
    header[layout.HOST_SEQ] = tables.host_seq_ps
    header[layout.FRONTEND] = round(limits.frontend_s * PS_PER_S)
    header[layout.FRONTEND_GAP] = round(limits.frontend_gap_s * PS_PER_S)
    header[layout.FRONTEND_LAST] = -header[layout.FRONTEND_GAP]
    header[layout.IS_LEAPING] = leap
    header[layout.ROUTER] = layout.RECORDED_ROUTER if workload.replica is not None else ROUTERS[router]
    _state_client(header, workload)
    header[layout.UNIT_TOKENS] = unit_tokens
    header[layout.UNIT_BLOCKS] = unit_tokens // limits.block_size
    header[layout.HORIZON] = layout.CLOCK_END
    header[layout.STAGES] = tables.stages
    header[layout.IN_FLIGHT] = tables.stages + int(header[layout.IS_ASYNC])
    header[layout.LAST_TICK] = NONE
    header[layout.RANKS] = 1
    return header


def _state_client(header: I64, workload: Workload) -> None:
    if workload.client_timeout_s is not None:
        header[layout.TIMEOUT] = max(1, round(workload.client_timeout_s * PS_PER_S))
    if isinstance(workload.client, ClosedLoop):
        header[layout.IS_CLOSED] = 1
        header[layout.CONCURRENCY] = min(workload.client.concurrency, len(workload))
        header[layout.WARMUP] = workload.client.warmup
    elif isinstance(workload.client, CappedLoop):
        header[layout.IS_CLOSED] = header[layout.IS_CAPPED] = 1
        header[layout.CONCURRENCY] = min(workload.client.concurrency, len(workload))
        header[layout.FREE_SLOTS] = header[layout.CONCURRENCY]


class _Regions:
    """Hands out stretches of an array that does not exist yet."""

    def __init__(self) -> None:
        self.size = layout.HEADER_COLUMNS

    def take(self, length: int) -> int:
        """Offset of a new stretch of ``length`` entries."""
        offset = self.size
        self.size += length
        return offset


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lengths:
    """Entries of the lists each replica and each of its groups owns."""

    max_seqs: int
    stages: int
    cache: int
    heap: int  # entries of a heap, dead ones included
    window_heap: int
    block_size: int

    @property
    def group(self) -> int:
        """All lists of one decode group."""
        return 2 * self.heap + 2 * self.window_heap + self.block_size

    @property
    def replica(self) -> int:
        """All lists of one replica and its groups."""
        own = self.max_seqs + (self.max_seqs + 1) + self.stages + (self.stages + 1) + self.cache
        return own + self.stages * self.group


def state_arena(header: I64, workload: Workload, *, dp: int, log_rows: int) -> I64:
    """Lay out the state at the start of a run, whose clock starts at the first arrival.

    The request rows come last, so that others can take their place.
    """
    n = len(workload)
    units, num_units = _units(header, workload)
    heap = 2 * int(header[layout.MAX_SEQS]) + 16
    lengths = _Lengths(
        max_seqs=int(header[layout.MAX_SEQS]),
        stages=int(header[layout.STAGES]),
        cache=num_units * layout.CACHE_COLUMNS,
        heap=heap,
        window_heap=heap if header[layout.WINDOW] else 0,
        block_size=int(header[layout.BLOCK_SIZE]),
    )
    num_pending = int(header[layout.CONCURRENCY]) + 1 if workload.after is None else n + 1
    regions = _Regions()
    replicas = regions.take(dp * layout.REPLICA_COLUMNS)
    groups = regions.take(dp * lengths.stages * layout.GROUP_COLUMNS)
    lists = regions.take(dp * lengths.replica)
    pending = regions.take(2 * num_pending)
    log = regions.take(log_rows * layout.LOG_COLUMNS)
    unit_rows = regions.take(0 if units is None else len(units.ids) * layout.UNIT_COLUMNS)
    requests = regions.take(n * layout.REQUEST_COLUMNS)

    state = np.zeros(regions.size, dtype=np.int64)
    state[: layout.HEADER_COLUMNS] = header
    state[layout.REQUESTS] = requests
    state[layout.NUM_REQUESTS] = n
    state[layout.REPLICAS] = replicas
    state[layout.NUM_REPLICAS] = dp
    state[layout.PENDING] = pending
    state[layout.PENDING_CAPACITY] = num_pending
    state[layout.LOG] = log
    state[layout.LOG_CAPACITY] = log_rows
    _open_clients(state)
    rows = state[requests:].reshape(n, layout.REQUEST_COLUMNS)
    _fill_requests(rows, workload, requests, first_arrival_s(workload))
    if units is not None:
        columns = state[unit_rows:requests].reshape(-1, layout.UNIT_COLUMNS)
        columns[:, layout.UNIT] = units.ids
        rows[:, layout.FIRST_UNIT] = unit_rows + units.offsets[:-1] * layout.UNIT_COLUMNS
        whole = workload.prompt_tokens // int(header[layout.UNIT_TOKENS])
        rows[:, layout.NUM_UNITS] = np.minimum(np.diff(units.offsets), whole)
    for number in range(dp):
        rep = replicas + number * layout.REPLICA_COLUMNS
        state[rep + layout.NUMBER] = number
        state[rep + layout.GROUPS] = groups + number * lengths.stages * layout.GROUP_COLUMNS
        _place_lists(state, rep, lists + number * lengths.replica, lengths)
    return state


def _place_lists(state: I64, rep: int, at: int, lengths: _Lengths) -> None:
    """Give a replica and its groups their lists, from ``at`` on."""
    state[rep + np.array(_EMPTY_LISTS)] = NONE
    state[rep + layout.KEY] = layout.NEVER
    state[rep + layout.FREE] = state[layout.NUM_BLOCKS]
    for column, length in (
        (layout.PARTIAL_LIST, lengths.max_seqs),
        (layout.HISTOGRAM, lengths.max_seqs + 1),
        (layout.STAGE_FREE, lengths.stages),
        (layout.ENDS, lengths.stages + 1),
        (layout.CACHE, lengths.cache),
    ):
        state[rep + column] = at
        at += length
    state[at - lengths.cache : at].reshape(-1, layout.CACHE_COLUMNS)[:, layout.USERS] = NONE
    for slot in range(lengths.stages):
        grp = int(state[rep + layout.GROUPS]) + slot * layout.GROUP_COLUMNS
        state[grp + layout.LAST_LAUNCH] = -lengths.stages
        state[grp + layout.HEAP_CAPACITY] = lengths.heap
        state[grp + layout.HEAP] = at
        state[grp + layout.WINDOW_HEAP] = at + 2 * lengths.heap
        state[grp + layout.RESIDUE] = at + 2 * lengths.heap + 2 * lengths.window_heap
        at += lengths.group


def request_rows(header: I64, workload: Workload, origin_s: float) -> I64:
    """Rows [n, REQUEST_COLUMNS] of requests that follow no others and have no prefix, on a clock from ``origin_s``."""
    rows = np.zeros((len(workload), layout.REQUEST_COLUMNS), dtype=np.int64)
    _fill_requests(rows, workload, int(header[layout.REQUESTS]), origin_s)
    return rows


def _open_clients(state: I64) -> None:
    """Send the first requests of a closed loop: the whole concurrency at once, warm-up phase first.

    The slots of a capped loop wait for what is due.
    """
    if state[layout.IS_CLOSED] == 0:
        return
    if state[layout.IS_CAPPED] == 1:
        state[layout.SEND_LIMIT] = state[layout.NUM_REQUESTS]
        return
    warmup = state[layout.WARMUP]
    state[layout.PHASE_LEFT] = warmup
    state[layout.SEND_LIMIT] = warmup if warmup > 0 else state[layout.NUM_REQUESTS]
    burst = min(int(state[layout.CONCURRENCY]), int(state[layout.SEND_LIMIT]))
    state[layout.BURST_LEFT] = burst
    state[layout.PENDING_SIZE] = burst
    pending = int(state[layout.PENDING])
    state[pending : pending + burst] = state[layout.FRONTEND]
    capacity = int(state[layout.PENDING_CAPACITY])
    state[pending + capacity : pending + capacity + burst] = 0


def _fill_requests(rows: I64, workload: Workload, requests: int, origin_s: float) -> None:
    if isinstance(workload.client, ClosedLoop):
        rows[:, layout.ARRIVAL] = NONE
    elif workload.after is None:
        # The difference of two float64 of the same year is exact or nearly so; their picoseconds would not fit int64.
        rows[:, layout.ARRIVAL] = ps(workload.arrival_s - origin_s)
    else:
        sent_s = np.where(workload.after < 0, workload.arrival_s, origin_s)
        rows[:, layout.ARRIVAL] = np.where(workload.after < 0, ps(sent_s - origin_s), NONE)
    rows[:, layout.PROMPT] = workload.prompt_tokens
    # An engine always runs the sampler once: a request for no output ends with its prefill.
    rows[:, layout.OUTPUT] = np.maximum(workload.output_tokens, 1)
    rows[:, layout.ASKED] = workload.output_tokens
    rows[:, layout.SCHEDULED : layout.FINISH + 1] = NONE
    rows[:, layout.FIRST_CHILD : layout.THINK + 1] = NONE
    if workload.replica is not None:
        rows[:, layout.REPLICA] = workload.replica
    if workload.after is None:
        return
    followers = np.flatnonzero(workload.after >= 0)
    think_s = np.zeros(len(workload)) if workload.think_s is None else workload.think_s
    rows[followers, layout.THINK] = ps(think_s[followers])
    for i in followers[::-1]:
        parent = rows[workload.after[i]]
        rows[i, layout.NEXT_CHILD] = parent[layout.FIRST_CHILD]
        parent[layout.FIRST_CHILD] = requests + i * layout.REQUEST_COLUMNS


def _units(header: I64, workload: Workload) -> tuple[PrefixBlocks | None, int]:
    """Every request's prefix units with ids from 0 up, and how many there are."""
    if header[layout.IS_CACHING] == 0 or workload.prefix is None:
        return None, 0
    prefix = workload.prefix
    size = int(header[layout.UNIT_TOKENS])
    offsets = prefix.offsets.astype(np.int64)
    ids = prefix.ids
    per_unit = size // prefix.block_tokens
    if per_unit > 1:
        # An id names everything before it too, so the last id inside a KV block names the block.
        whole = np.diff(offsets) // per_unit
        starts = np.concatenate([[0], np.cumsum(whole)])
        place = np.arange(starts[-1]) - np.repeat(starts[:-1], whole)
        ids = ids[np.repeat(offsets[:-1], whole) + place * per_unit + per_unit - 1]
        offsets = starts
    if len(ids) == 0:
        return PrefixBlocks(block_tokens=size, offsets=offsets, ids=ids), 0
    if ids.min() < 0 or ids.max() >= 4 * len(ids):
        known, ids = np.unique(ids, return_inverse=True)
        return PrefixBlocks(block_tokens=size, offsets=offsets, ids=ids), len(known)
    return PrefixBlocks(block_tokens=size, offsets=offsets, ids=ids), int(ids.max()) + 1
