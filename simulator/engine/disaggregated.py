"""Two pools: one computes prompts, the other decodes, and the KV goes over a link in between.

A request first runs for one token in the prefill pool. Its KV then leaves over the link of the replica that computed
it, one request after the other. When it is there, the request enters the decode pool, which computes the last prompt
token again and generates every token of the answer: that is how vLLM's KV connectors and their proxy do it, and why the
first token the client sees is the decode pool's. A request preempted there has lost its KV and computes it anew.

The prefill pool frees the blocks of a request when its prompt is computed, not when the transfer has ended.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from simulator.engine.arena import state_arena
from simulator.engine.bounds import CLOCK_END, NONE
from simulator.engine.checks import check_input
from simulator.engine.conservation import RunSums
from simulator.engine.cost_arrays import cost_arrays
from simulator.engine.policies import engine_for
from simulator.engine.records import I64
from simulator.engine.request import FINISHED
from simulator.engine.result import EngineResult, result_from_state
from simulator.engine.rules import ps, rules_of
from simulator.engine.run import run_engine, run_replicas
from simulator.engine_profiles.engine_limits import EngineLimits, RouterName
from simulator.errors import EngineLimitError
from simulator.steps.step_tables import StepTables
from simulator.workload.span import LONGEST_SPAN_S, shown_span
from simulator.workload.workload import OpenLoop, Workload

TransferTime = Callable[[I64], NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Replicas of one kind."""

    tables: StepTables
    limits: EngineLimits
    dp: int = 1
    router: RouterName = "round_robin"


@dataclass(frozen=True, slots=True, kw_only=True)
class DisaggregatedResult:
    """What each pool did, and what the client saw; all in the order of the workload."""

    prefill: EngineResult
    kv_ready_ps: I64  # when the KV is in the decode pool; -1 for requests the prefill pool rejected
    requests: EngineResult  # client's times; replicas, hits and sums are those of the decode pool


def run_disaggregated(
    prefill: Pool, decode: Pool, workload: Workload, *, transfer_s: TransferTime
) -> DisaggregatedResult:
    """Serve an open-loop ``workload``; ``transfer_s`` gives the seconds on the link for arrays of prompt tokens.

    Raises ``UserError`` for closed loops and sessions, whose arrivals would depend on the decode pool, for a recorded
    replica, and for decode pools with prefix caching or another policy than vllm-v1.
    """
    name = workload.name
    is_plain = isinstance(workload.client, OpenLoop) and workload.client_timeout_s is None
    if not is_plain or workload.after is not None or workload.replica is not None:
        raise UserError(
            f"workload {name!r}: closed loops, capped clients, client time-outs, sessions and recorded replicas are "
            "not modelled for two pools",
            hint="use an open-loop trace",
        )
    if decode.limits.enable_prefix_caching or decode.limits.policy != "vllm-v1":
        raise UserError("a decode pool is modelled for policy vllm-v1 without prefix caching")
    first = run_replicas(
        prefill.tables,
        prefill.limits,
        replace(workload, output_tokens=np.ones_like(workload.output_tokens)),
        dp=prefill.dp,
        router=prefill.router,
    )
    ready_ps = _kv_ready_ps(first, _transfers_ps(transfer_s(workload.prompt_tokens)), name)
    sent = np.flatnonzero(first.is_finished)
    order = sent[np.argsort(ready_ps[sent], kind="stable")]
    requests = replace(first, output_tokens=workload.output_tokens)
    if len(order):
        requests = _merge(requests, order, _decode(decode, workload, order, ready_ps[order]))
    return DisaggregatedResult(prefill=first, kv_ready_ps=ready_ps, requests=requests)


def _transfers_ps(transfer_s: NDArray[np.float64]) -> I64:
    outside = np.flatnonzero(~((transfer_s >= 0) & (transfer_s <= LONGEST_SPAN_S)))
    if len(outside):
        i = int(outside[0])
        raise UserError(
            f"the KV of request {i} is on the link for {float(transfer_s[i]):,.10g} s, "
            f"must be 0 to {shown_span(LONGEST_SPAN_S)}"
        )
    return ps(transfer_s)


def _kv_ready_ps(first: EngineResult, transfer_ps: I64, name: str) -> I64:
    """Time at which each request's KV has arrived: one transfer at a time per prefill replica, in order of finish."""
    ready = np.full(len(first), NONE, dtype=np.int64)
    free = dict.fromkeys(range(first.replicas.dp), 0)
    for i in np.argsort(first.finish_ps, kind="stable"):
        if first.status[i] == FINISHED:
            link = int(first.replica[i])
            free[link] = max(free[link], int(first.finish_ps[i])) + int(transfer_ps[i])
            if free[link] >= CLOCK_END:
                raise EngineLimitError(
                    f"workload {name!r}: the KV of request {i} arrives {shown_span(free[link] * 1e-12)} after the "
                    f"first request, the engine's clock holds {shown_span(CLOCK_END * 1e-12)}",
                    hint="the link is too slow for this load",
                )
            ready[i] = free[link]
    return ready


def _decode(pool: Pool, workload: Workload, order: I64, arrival_ps: I64) -> EngineResult:
    part = Workload(
        name=workload.name,
        arrival_s=np.zeros(len(order)),
        prompt_tokens=workload.prompt_tokens[order],
        output_tokens=workload.output_tokens[order],
    )
    limits = replace(pool.limits, frontend_s=0.0)
    check_input(pool.tables, limits, part, pool.dp)
    rules = rules_of(pool.tables, limits, part, router=pool.router, leap=True)
    state = state_arena(rules, part, dp=pool.dp, log_rows=0)
    state.requests["arrival_ps"] = arrival_ps
    state.requests["remote"] = part.prompt_tokens - 1
    run_engine(engine_for(pool.tables, limits), state, cost_arrays(pool.tables, limits), workload.name)
    result = result_from_state(state)
    ledger = RunSums()
    ledger.add(result)
    ledger.check(workload.name, len(part), result.replicas, remote_tokens=int((part.prompt_tokens - 1).sum()))
    return result


def _merge(first: EngineResult, order: I64, second: EngineResult) -> EngineResult:
    """Client's view: sent and scheduled by the first pool, answered by the second."""
    columns = {}
    for name in ("first_token_ps", "finish_ps", "status", "replica"):
        column = getattr(first, name).copy()
        column[order] = getattr(second, name)
        columns[name] = column
    preemptions = first.preemptions.copy()
    preemptions[order] += second.preemptions
    return replace(
        first,
        preemptions=preemptions,
        replicas=second.replicas,
        num_gpu_blocks=second.num_gpu_blocks,
        chunks=second.chunks,
        **columns,
    )
