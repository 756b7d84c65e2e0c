"""Serve a workload that does not fit into memory: part after part, on one continuing engine state.

The engine runs each part up to the first arrival of the next, its *horizon*; where the router looks at snapshots, up to
the last one before that arrival. Requests still under way then move into the next part's rows; links between rows are
offsets, so they are rewritten. What a part has finished is handed out and forgotten. Times are those of one
uninterrupted run, bit for bit.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Final

import numpy as np

from cluster_specs.errors import UserError
from simulator.engine import layout
from simulator.engine.arena import cost_arena, first_arrival_s, ps, request_rows, rules_header, state_arena
from simulator.engine.checks import check_input
from simulator.engine.conservation import Ledger
from simulator.engine.layout import I64, NONE
from simulator.engine.policies import engine_for
from simulator.engine.result import EngineResult, is_under_way, result_from_rows
from simulator.engine.router import TICK_PS
from simulator.engine.run import run_engine
from simulator.limits import EngineLimits, RouterName
from simulator.step_tables import StepTables
from simulator.workload.workload import OpenLoop, Workload

_REQUEST_LINKS: Final = [layout.PREVIOUS, layout.NEXT, layout.NEXT_FINISHED, layout.NEXT_RELEASING]
_REPLICA_LINKS: Final = [
    layout.RUN_HEAD,
    layout.RUN_TAIL,
    layout.WAIT_HEAD,
    layout.WAIT_TAIL,
    layout.RELEASING_HEAD,
    layout.RELEASING_TAIL,
    layout.FINISHED_HEAD,
    layout.FINISHED_TAIL,
]


def run_stream(
    tables: StepTables,
    limits: EngineLimits,
    parts: Iterable[Workload],
    *,
    dp: int = 1,
    router: RouterName = "round_robin",
) -> Iterator[EngineResult]:
    """Serve ``parts`` in turn as one workload; yields what each has finished, with the sums of all replicas so far.

    ``index`` of a result tells which requests of the whole workload it holds. Times count from the first arrival of
    the first part. Parts are open-loop and in order of arrival; prefixes and sessions need the whole workload at once
    and are refused with ``UserError``. Memory is that of two parts and the requests under way.
    """
    waiting = iter(parts)
    part = next(waiting, None)
    if part is None:
        raise UserError("the stream has no requests")
    origin_s = first_arrival_s(part)
    _check_part(tables, limits, part, dp, origin_s)
    costs = cost_arena(tables, limits)
    engine = engine_for(tables, limits)
    state = state_arena(rules_header(tables, limits, part, router=router, leap=True), part, dp=dp, log_rows=0)
    requests, ledger = 0, Ledger()
    index = np.arange(len(part))
    for following in chain(waiting, [None]):
        state[layout.HORIZON] = layout.CLOCK_END
        requests += len(part)
        if following is not None:
            _check_part(tables, limits, following, dp, origin_s)
            if following.arrival_s[0] < part.arrival_s[-1]:
                raise UserError(
                    f"workload {following.name!r}: a part starts at {following.arrival_s[0]} s, "
                    f"before the end of the part before it at {part.arrival_s[-1]} s"
                )
            state[layout.HORIZON] = ps(following.arrival_s[:1] - origin_s)[0] + state[layout.FRONTEND]
            if state[layout.ROUTER] == layout.VLLM_ROUTER:
                state[layout.HORIZON] -= state[layout.HORIZON] % TICK_PS  # the snapshot the next arrival is judged by
        run_engine(engine, state, costs, part.name)
        rows = state[state[layout.REQUESTS] :].reshape(-1, layout.REQUEST_COLUMNS)
        stays = _stays(state, rows)
        result = replace(result_from_rows(state, rows[~stays]), index=index[~stays])
        ledger.add(result)
        if following is None:
            ledger.check(part.name, requests, result.replicas)
            yield result
        else:
            yield result
            index = np.concatenate([index[stays], np.arange(requests, requests + len(following))])
            state = _move_on(state, rows, stays, request_rows(state, following, origin_s))
            part = following


def _check_part(tables: StepTables, limits: EngineLimits, part: Workload, dp: int, origin_s: float) -> None:
    if not isinstance(part.client, OpenLoop) or part.after is not None or part.client_timeout_s is not None:
        raise UserError(f"workload {part.name!r}: only open loops without sessions and time-out can be streamed")
    if limits.num_speculative_tokens:
        raise UserError(
            f"workload {part.name!r}: speculative decoding is not modelled for streamed workloads",
            hint="simulate it in one piece, or set num_speculative_tokens to 0",
        )
    if part.prefix is not None and limits.enable_prefix_caching:
        raise UserError(
            f"workload {part.name!r}: prefix caching is not modelled for streamed workloads",
            hint="simulate it in one piece, or set enable_prefix_caching to False",
        )
    check_input(tables, limits, part, dp, origin_s=origin_s)


def _stays(state: I64, rows: I64) -> layout.Flags:
    """Rows that are needed after the horizon: requests under way, and finishes that a router may not have seen yet."""
    return np.asarray(is_under_way(rows) | (rows[:, layout.FINISH] > state[layout.HORIZON]), dtype=np.bool_)


def _move_on(state: I64, rows: I64, stays: layout.Flags, new_rows: I64) -> I64:
    """State with the finished rows dropped and ``new_rows`` behind those that stay."""
    first = int(state[layout.REQUESTS])
    moved = np.full(len(rows), NONE, dtype=np.int64)
    moved[stays] = first + np.arange(np.count_nonzero(stays)) * layout.REQUEST_COLUMNS
    kept = rows[stays]
    _forget_finished(state, rows)
    kept[:, _REQUEST_LINKS] = _rewrite(kept[:, _REQUEST_LINKS], first, moved)
    for number in range(int(state[layout.NUM_REPLICAS])):
        rep = int(state[layout.REPLICAS]) + number * layout.REPLICA_COLUMNS
        links = rep + np.array(_REPLICA_LINKS)
        state[links] = _rewrite(state[links], first, moved)
        at = int(state[rep + layout.PARTIAL_LIST])
        end = at + int(state[rep + layout.PARTIALS])
        state[at:end] = _rewrite(state[at:end], first, moved)
        for slot in range(int(state[layout.STAGES])):
            grp = int(state[rep + layout.GROUPS]) + slot * layout.GROUP_COLUMNS
            _rewrite_heap(state, grp, layout.HEAP, layout.HEAP_SIZE, first, moved)
            _rewrite_heap(state, grp, layout.WINDOW_HEAP, layout.WINDOW_HEAP_SIZE, first, moved)
    state[layout.NUM_REQUESTS] = len(kept) + len(new_rows)
    state[layout.NEXT_REQUEST] = 0
    return np.concatenate([state[:first], kept.ravel(), new_rows.ravel()])


def _rewrite(links: I64, first: int, moved: I64) -> I64:
    """Translate offsets of rows; a link to a dropped row, which nobody follows any more, becomes NONE."""
    is_row = links >= first
    index = np.where(is_row, (links - first) // layout.REQUEST_COLUMNS, 0)
    return np.where(is_row, moved[index], NONE)


def _rewrite_heap(state: I64, grp: int, heap: int, size: int, first: int, moved: I64) -> None:
    """Keep the entries of rows that stay, in order: a sorted list is a heap."""
    at, count = int(state[grp + heap]), int(state[grp + size])
    capacity = int(state[grp + layout.HEAP_CAPACITY])
    keys = state[at : at + count].copy()
    links = _rewrite(state[at + capacity : at + capacity + count], first, moved)
    order = np.argsort(keys, kind="stable")
    order = order[links[order] != NONE]
    state[at : at + len(order)] = keys[order]
    state[at + capacity : at + capacity + len(order)] = links[order]
    state[grp + size] = len(order)


def _forget_finished(state: I64, rows: I64) -> None:
    """Count the finishes that every later arrival will have seen, and take them off the routers' chains."""
    first = int(state[layout.REQUESTS])
    for number in range(int(state[layout.NUM_REPLICAS])):
        rep = int(state[layout.REPLICAS]) + number * layout.REPLICA_COLUMNS
        link = int(state[rep + layout.FINISHED_HEAD])
        while link != NONE and rows[(link - first) // layout.REQUEST_COLUMNS, layout.FINISH] <= state[layout.HORIZON]:
            state[rep + layout.OUTSTANDING] -= 1
            link = int(rows[(link - first) // layout.REQUEST_COLUMNS, layout.NEXT_FINISHED])
        state[rep + layout.FINISHED_HEAD] = link
        if link == NONE:
            state[rep + layout.FINISHED_TAIL] = NONE
