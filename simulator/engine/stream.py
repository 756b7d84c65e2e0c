"""Serve a workload that does not fit into memory: part after part, on one continuing engine state.

The engine runs each part up to the first arrival of the next, its *horizon*; where the router looks at snapshots, up to
the last one before that arrival. Requests still under way then move into the next part's rows; links between rows are
indices, so they are rewritten. What a part has finished is handed out and forgotten. Times are those of one
uninterrupted run, bit for bit.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Final

import numpy as np

from cluster_specs.errors import UserError
from simulator.engine.arena import request_rows, results_capacity, state_arena
from simulator.engine.bounds import CLOCK_END, NONE
from simulator.engine.checks import check_input
from simulator.engine.conservation import RunSums
from simulator.engine.cost_arrays import cost_arrays
from simulator.engine.policies import engine_for
from simulator.engine.records import I64, PLACE_BYTES, Flags, Rows, taken
from simulator.engine.result import EngineResult, is_under_way, result_of
from simulator.engine.rules import first_arrival_s, ps, rules_of
from simulator.engine.run import run_engine
from simulator.engine.state import TICK_PS, VLLM_ROUTER
from simulator.engine.state_arrays import StateArrays, aligned_zeros
from simulator.engine_profiles.engine_limits import EngineLimits, RouterName
from simulator.steps.step_tables import StepTables
from simulator.workload.workload import OpenLoop, Workload

_LINKS: Final = ("previous", "next", "next_finished", "next_releasing")
_LISTS: Final = ("running", "waiting", "unseen", "releasing", "finished")


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
    costs = cost_arrays(tables, limits)
    engine = engine_for(tables, limits)
    state = state_arena(rules_of(tables, limits, part, router=router, leap=True), part, dp=dp, log_rows=0)
    requests, ledger = 0, RunSums()
    index = np.arange(len(part))
    for following in chain(waiting, [None]):
        state.header.horizon_ps = CLOCK_END
        requests += len(part)
        if following is not None:
            _check_part(tables, limits, following, dp, origin_s)
            if following.arrival_s[0] < part.arrival_s[-1]:
                raise UserError(
                    f"workload {following.name!r}: a part starts at {following.arrival_s[0]} s, "
                    f"before the end of the part before it at {part.arrival_s[-1]} s"
                )
            state.header.horizon_ps = int(ps(following.arrival_s[:1] - origin_s)[0]) + state.header.frontend_ps
            if state.header.router == VLLM_ROUTER:
                # The snapshot by which the next arrival is judged.
                state.header.horizon_ps -= state.header.horizon_ps % TICK_PS
        run_engine(engine, state, costs, part.name)
        stays = _stays(state)
        result = replace(result_of(state, taken(state.requests, ~stays)), index=index[~stays])
        ledger.add(result)
        if following is None:
            ledger.check(part.name, requests, result.replicas)
            yield result
        else:
            yield result
            index = np.concatenate([index[stays], np.arange(requests, requests + len(following))])
            state = _move_on(state, stays, request_rows(following, origin_s))
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
    if part.items is not None or part.media is not None:
        raise UserError(
            f"workload {part.name!r}: images and audio are not modelled for streamed workloads",
            hint="simulate it in one piece",
        )
    check_input(tables, limits, part, dp, origin_s=origin_s)


def _stays(state: StateArrays) -> Flags:
    """Rows that are needed after the horizon: requests under way, and finishes that a router may not have seen yet."""
    requests = state.requests
    return np.asarray(is_under_way(requests) | (requests["finish_ps"] > state.header.horizon_ps), dtype=np.bool_)


def _move_on(state: StateArrays, stays: Flags, new: Rows) -> StateArrays:
    """State with the requests that are over dropped and ``new`` ones behind those that stay."""
    _forget_finished(state)
    kept = taken(state.requests, stays)
    moved = np.full(len(stays), NONE, dtype=np.int64)
    moved[stays] = np.arange(len(kept))
    for link in _LINKS:
        kept[link] = _rewrite(kept[link], moved)
    replicas = state.replicas
    for name in _LISTS:
        replicas[name]["head"] = _rewrite(replicas[name]["head"], moved)
        replicas[name]["tail"] = _rewrite(replicas[name]["tail"], moved)
    for rep in replicas:
        partials = state.list_at(rep["partials"], rep["num_partials"])
        partials[:] = _rewrite(partials, moved)
        results = state.list_at(rep["results"], 2 * results_capacity(state.header))[::2]
        results[:] = _rewrite(np.where(results < len(moved), results, NONE), moved)
        nodes = state.nodes(rep["end_node"] - state.header.most_nodes, rep["next_node"])
        nodes["owner"] = _rewrite(nodes["owner"], moved)
    for grp in state.groups:
        for heap in ("finishes", "firsts", "windows"):
            _rewrite_heap(state, grp[heap], moved)
    return _with_requests(state, kept, new)


def _with_requests(state: StateArrays, *parts: Rows) -> StateArrays:
    """State with its table of requests, the last one, replaced."""
    before = state.header.requests
    cells = aligned_zeros(before + sum(rows.nbytes for rows in parts) // PLACE_BYTES)
    np.concatenate([state.cells[:before], *(rows.view(np.int64) for rows in parts)], out=cells)
    following = StateArrays(cells)
    following.header.num_requests = sum(map(len, parts))
    following.header.next_request = 0
    following.requests["number"] = np.arange(following.header.num_requests)
    return following


def _rewrite(links: I64, moved: I64) -> I64:
    """Translate indices of requests; a link to a dropped one, which nobody follows any more, becomes NONE."""
    return np.where(links == NONE, NONE, moved[links])


def _rewrite_heap(state: StateArrays, heap: np.void, moved: I64) -> None:
    """Keep the entries of requests that stay, in order: a sorted list is a heap."""
    keys = state.list_at(heap["place"], heap["size"])
    payloads = state.list_at(heap["place"] + heap["capacity"], heap["size"])
    links = _rewrite(payloads, moved)
    order = np.argsort(keys, kind="stable")
    order = order[links[order] != NONE]
    keys[: len(order)] = keys[order]
    payloads[: len(order)] = links[order]
    heap["size"] = len(order)


def _forget_finished(state: StateArrays) -> None:
    """Count the finishes that every later arrival will have seen, and take them off the routers' chains."""
    # Plain lists: the walk over every request of a part is Python, and takes a fifth of the time so.
    finish_ps, next_finished = (state.requests[name].tolist() for name in ("finish_ps", "next_finished"))
    horizon_ps = state.header.horizon_ps
    for rep in state.replicas:
        at, seen = int(rep["finished"]["head"]), 0
        while at != NONE and finish_ps[at] <= horizon_ps:
            seen += 1
            at = next_finished[at]
        rep["outstanding"] -= seen
        rep["finished"]["head"] = at
        if at == NONE:
            rep["finished"]["tail"] = NONE
