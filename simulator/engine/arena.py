"""Lay out the state at the start of a run: the tables and lists behind the header, and what the requests bring."""

from typing import Any

import numpy as np

from cluster_specs.lazy_dataclass import dataclass
from simulator.engine.bounds import NEVER, NONE
from simulator.engine.log_row import LogRow
from simulator.engine.records import I64, Record, Rows, places, rows_at
from simulator.engine.replica import Group, Item, Node, Replica, Segment
from simulator.engine.request import Request
from simulator.engine.rules import first_arrival_s, ps
from simulator.engine.state import ALONE, DECODE_POOL, State
from simulator.engine.state_arrays import CACHED_ROWS, LINE_PLACES, StateArrays, aligned_zeros
from simulator.workload.generators.arrivals import random_stream
from simulator.workload.workload import ClosedLoop, Workload


class _Places:
    """Hands out stretches of an array that does not exist yet, in int64."""

    def __init__(self) -> None:
        self.size = places(State)

    def take(self, length: int) -> int:
        """Place of a new stretch of ``length`` entries."""
        place = self.size
        self.size += length
        return place

    def table(self, record: type[Record], rows: int) -> int:
        """Place of a new table of ``rows`` records, at a line of cache."""
        self.take(-self.size % LINE_PLACES)
        return self.take(rows * places(record))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lengths:
    """Entries of the lists each replica and each of its groups owns."""

    max_seqs: int
    stages: int
    heap: int  # entries of a heap, dead ones included
    window_heap: int
    first_heap: int
    block_size: int
    results: int

    @property
    def group(self) -> int:
        """All lists of one decode group."""
        return 2 * (self.heap + self.first_heap + self.window_heap) + self.block_size

    @property
    def replica(self) -> int:
        """All lists of one replica and its groups."""
        own = self.max_seqs + (self.max_seqs + 1) + self.stages + (self.stages + 1)
        own += 2 * self.results
        return own + self.stages * self.group


def state_arena(rules: State, workload: Workload, *, dp: int, log_rows: int, links: int = 0) -> StateArrays:
    """Lay out the state at the start of a run under ``rules``, whose clock starts at the first arrival.

    The table of requests comes last, so that others can take its place. Of two pools either hears of the other, and
    the decode pool has ``links`` of ranks on both sides.
    """
    n = len(workload)
    ids = _ids(rules, workload)
    segments = rules.num_blocks if rules.is_caching else 0
    rules.most_nodes = _most_nodes(rules, workload) if rules.has_tree else 0
    heap = 2 * rules.max_seqs + 16
    lengths = _Lengths(
        max_seqs=rules.max_seqs,
        stages=rules.stages,
        heap=heap,
        window_heap=heap if rules.window else 0,
        first_heap=heap if rules.first_chunk > 1 else 0,
        block_size=rules.block_size,
        results=results_capacity(rules),
    )
    num_items = 0 if workload.items is None else len(workload.items)
    num_pending = n + 1 if workload.after is not None or rules.pool == DECODE_POOL else rules.concurrency + 1
    at = _Places()
    fields: dict[str, Any] = {
        "replicas": at.table(Replica, dp),
        "groups": at.table(Group, dp * lengths.stages),
        "segments": at.table(Segment, 1 + dp * segments),
        "nodes": at.table(Node, 1 + dp * rules.most_nodes),
        "items": at.table(Item, num_items),
        "log": at.table(LogRow, log_rows),
        "num_requests": n,
        "num_replicas": dp,
        "log_capacity": log_rows,
    }
    lists = at.take(dp * lengths.replica)
    rings = at.take(dp * ids.units)
    fields["unit_ids"] = at.take(len(ids.numbers))
    fields["item_ranges"] = at.take(n + 1 if num_items else 0)
    pending = at.take(2 * num_pending)
    if rules.pool != ALONE:
        fields["transfers"] = (at.take(4 * n + 2), 2 * n + 1, 0)
        fields["transfer_ps"] = at.take(n)
        fields["links"] = at.take(links)
    starts = _slot_starts(rules, workload)
    fields["slot_starts"] = at.take(len(starts))
    fields["requests"] = at.table(Request, n)
    opening = _opening(rules, n)
    burst = opening.get("burst_left", 0)
    fields["pending"] = (pending, num_pending, burst)
    fields |= vars(rules) | opening
    if rules.pool == DECODE_POOL:
        fields["next_request"] = n  # all of them come from the other pool

    state = StateArrays(aligned_zeros(at.size))
    rows_at(state.cells, 0, 1, State)[0] = tuple(fields.get(name, 0) for name in State.dtype.names or ())
    state.list_at(fields["slot_starts"], len(starts))[:] = starts
    # What the slots send first: when it passes the frontend, and when it was sent.
    state.list_at(pending, burst)[:] = rules.frontend_ps + starts[:burst]
    state.list_at(pending + num_pending, burst)[:] = starts[:burst]
    _fill_requests(state.requests, workload, first_arrival_s(workload))
    if ids.units:
        state.list_at(fields["unit_ids"], len(ids.numbers))[:] = ids.numbers
        state.requests["first_unit"] = ids.first
        state.requests["named_blocks"] = ids.named_blocks
    if workload.items is not None and num_items:
        state.list_at(fields["item_ranges"], n + 1)[:] = workload.items.offsets
        rows = state.items(num_items)
        for name in Item.dtype.names or ():
            rows[name] = getattr(workload.items, name)
        if rules.encodes_by_request:
            rows["start"] = workload.items.first_starts()
    _fill_replicas(state, lists, lengths)
    state.replicas["rings"] = rings + state.replicas["number"] * ids.units
    state.replicas["next_segment"] = 1 + state.replicas["number"] * segments
    state.replicas["next_node"] = 1 + state.replicas["number"] * rules.most_nodes
    state.replicas["end_node"] = state.replicas["next_node"] + rules.most_nodes
    return state


def _fill_replicas(state: StateArrays, lists: int, lengths: _Lengths) -> None:
    """Give replicas and groups their numbers, empty queues, and their lists from ``lists`` on."""
    replicas, groups = state.replicas, state.groups
    replicas["number"] = np.arange(len(replicas))
    replicas["first_group"] = replicas["number"] * lengths.stages
    replicas["key_ps"] = NEVER
    replicas["free"] = state.header.num_blocks
    replicas["starved_head"] = NONE
    for queue in ("running", "waiting", "offered", "unseen", "releasing", "finished"):
        replicas[queue]["head"] = NONE
        replicas[queue]["tail"] = NONE
    at = lists + replicas["number"] * lengths.replica
    for field, length in (
        ("partials", lengths.max_seqs),
        ("histogram", lengths.max_seqs + 1),
        ("stage_free", lengths.stages),
        ("ends", lengths.stages + 1),
        ("results", 2 * lengths.results),
    ):
        replicas[field] = at
        at = at + length
    groups["number"] = np.arange(len(groups))
    at = np.repeat(at, lengths.stages) + np.tile(np.arange(lengths.stages), len(replicas)) * lengths.group
    for heap, length in (
        ("finishes", lengths.heap),
        ("firsts", lengths.first_heap),
        ("windows", lengths.window_heap),
    ):
        groups[heap]["place"] = at
        groups[heap]["capacity"] = lengths.heap
        at = at + 2 * length
    groups["residue"] = at


def request_rows(workload: Workload, origin_s: float) -> Rows:
    """Rows of requests that follow no others and have no prefix, on a clock from ``origin_s``."""
    rows = np.zeros(len(workload), dtype=Request.dtype)
    _fill_requests(rows, workload, origin_s)
    return rows


def results_capacity(rules: State) -> int:
    """Entries of the ring of computed prompts whose first token SGLang's scheduler has not seen: two steps of them."""
    return 2 * rules.max_seqs + 2 if rules.has_tree else 0


def _most_nodes(rules: State, workload: Workload) -> int:
    """Nodes a radix cache has room for: a few times what chunks and answers put there, or one for every block.

    A retracted prompt is cut anew and others cut it where they part from it, so there may be more, and then leaves go
    early; rows that are never used cost no memory.
    """
    chunks = int(((workload.prompt_tokens + workload.output_tokens) // rules.max_tokens + 3).sum())
    return min(rules.num_blocks, max(4 * chunks, min(16 * chunks + 1024, 1 << 16))) + 64


def _opening(rules: State, n: int) -> dict[str, int]:
    """Counters of a closed loop of ``n`` requests at its start: it sends its whole concurrency at once, warm-up first.

    The slots of a capped loop wait for what is due.
    """
    if not rules.is_closed:
        return {}
    if rules.is_capped:
        return {"send_limit": n}
    limit = rules.warmup or n
    return {"phase_left": rules.warmup, "send_limit": limit, "burst_left": min(rules.concurrency, limit)}


def _slot_starts(rules: State, workload: Workload) -> I64:
    """When each slot of a closed loop sends its first request of a phase, in order."""
    client = workload.client
    if not isinstance(client, ClosedLoop):
        return np.zeros(0, dtype=np.int64)
    if client.spread_s == 0:
        return np.zeros(rules.concurrency, dtype=np.int64)
    starts_s = np.sort(random_stream(client.seed, "slot starts").uniform(0.0, client.spread_s, rules.concurrency))
    return ps(starts_s - starts_s[:1])


def _fill_requests(rows: Rows, workload: Workload, origin_s: float) -> None:
    columns: dict[str, int | I64] = {
        "number": np.arange(len(rows)),
        "arrival_ps": NONE,
        "prompt": workload.prompt_tokens,
        # An engine always runs the sampler once: a request for no output ends with its prefill.
        "output": np.maximum(workload.output_tokens, 1),
        "asked": workload.output_tokens,
        **dict.fromkeys(("scheduled_ps", "first_token_ps", "finish_ps", "first_child", "next_child", "think_ps"), NONE),
    }
    if workload.after is not None:
        columns |= _follow(workload, workload.after, origin_s)
    elif not isinstance(workload.client, ClosedLoop):
        # The difference of two float64 of the same year is exact or nearly so; their picoseconds would not fit int64.
        columns["arrival_ps"] = ps(workload.arrival_s - origin_s)
    if workload.replica is not None:
        columns["replica"] = workload.replica
    same = np.zeros(1, dtype=Request.dtype)
    for field, values in columns.items():
        if isinstance(values, int):
            same[field] = values
    as_int64 = rows.view(np.int64).reshape(len(rows), -1)
    for at in range(0, len(rows), CACHED_ROWS):
        part = slice(at, at + CACHED_ROWS)
        as_int64[part] = same.view(np.int64)
        for field, values in columns.items():
            if not isinstance(values, int):
                rows[field][part] = values[part]


def _follow(workload: Workload, after: I64, origin_s: float) -> dict[str, I64]:
    """Arrivals of requests some of which follow others, and the links from those to them."""
    n = len(workload)
    sent_s = np.where(after < 0, workload.arrival_s, origin_s)
    think_s = np.zeros(n) if workload.think_s is None else workload.think_s
    think_ps = np.full(n, NONE)
    followers = np.flatnonzero(after >= 0)
    think_ps[followers] = ps(think_s[followers])
    first_child, next_child = np.full(n, NONE), np.full(n, NONE)
    for i in followers[::-1]:
        next_child[i] = first_child[after[i]]
        first_child[after[i]] = i
    return {
        "arrival_ps": np.where(after < 0, ps(sent_s - origin_s), NONE),
        "think_ps": think_ps,
        "first_child": first_child,
        "next_child": next_child,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ids:
    """What the ids of all requests name."""

    numbers: I64  # the ids, numbered from 0 up, those of one request in a row
    first: I64  # [n] place of the first id of each request
    named_blocks: I64  # [n] whole KV blocks that they name, of its prompt and of an answer that a next turn contains
    units: int  # different ids


def _ids(rules: State, workload: Workload) -> _Ids:
    nobody = np.zeros(len(workload), dtype=np.int64)
    prefix = workload.prefix
    if not (rules.is_caching or rules.has_tree) or prefix is None or len(prefix.ids) == 0:
        return _Ids(numbers=nobody[:0], first=nobody, named_blocks=nobody, units=0)
    offsets: I64 = prefix.offsets.astype(np.int64)
    ids = prefix.ids
    per_block = rules.block_size // prefix.block_tokens
    if per_block > 1:
        # An id names everything before it too, so the last id inside a KV block names the block.
        whole = np.diff(offsets) // per_block
        starts = np.concatenate([[0], np.cumsum(whole)])
        place = np.arange(starts[-1]) - np.repeat(starts[:-1], whole)
        ids = ids[np.repeat(offsets[:-1], whole) + place * per_block + per_block - 1]
        offsets = starts
    named = np.minimum(np.diff(offsets) * rules.unit_blocks, workload.prompt_tokens // rules.block_size)
    first = offsets[:-1].copy()
    if workload.after is not None:
        _name_answers(rules, workload, workload.after, ids, first, named)
    units = int(ids.max(initial=-1)) + 1
    if ids.min(initial=0) < 0 or units > 4 * len(ids):
        known, ids = np.unique(ids, return_inverse=True)
        units = len(known)
    return _Ids(numbers=ids, first=first, named_blocks=named, units=units)


def _name_answers(rules: State, workload: Workload, after: I64, ids: I64, first: I64, named: I64) -> None:
    """Let requests whose next turn contains prompt and answer take that turn's ids: they name the same blocks and more.

    A turn does if its ids go on from those of the request it follows and its prompt is as long as both.
    """
    tokens = workload.prompt_tokens + np.maximum(workload.output_tokens, 1)
    for turn in np.flatnonzero(after >= 0)[::-1].tolist():
        before = int(after[turn])
        whole = int(workload.prompt_tokens[before]) // (rules.block_size * rules.unit_blocks)  # its last one is its own
        goes_on = whole == 0 or ids[first[before] + whole - 1] == ids[first[turn] + whole - 1]
        if workload.prompt_tokens[turn] >= tokens[before] and named[before] <= named[turn] and goes_on:
            first[before] = first[turn]
            named[before] = min(int(named[turn]), int(tokens[before]) // rules.block_size)
