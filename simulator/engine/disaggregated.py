"""Two pools: one computes prompts, the other decodes, and the KV goes over a link in between.

Images and audio run in the prefill pool's encoder; what the decode pool computes anew after a preemption is text.

Both run on one clock and tell each other what they do (``pool_messages``), so the client may be any: an open loop,
slots that wait for answers, sessions. A request runs for one token in the prefill pool, which holds its blocks until
its KV has left. How the pools agree is the engine's (``HandOver``): whether the decode pool takes its blocks before the
prompt is computed or after, and whether the first token comes along or the last prompt token is computed again.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from simulator.engine.arena import state_arena
from simulator.engine.bounds import CLOCK_END, NONE, PAUSED
from simulator.engine.checks import check_input
from simulator.engine.conservation import RunSums
from simulator.engine.cost_arrays import cost_cells
from simulator.engine.costs import Costs
from simulator.engine.interrupt import check_stop
from simulator.engine.native.abi import ENTRIES
from simulator.engine.policies import Engine, address, compiled, entry_for
from simulator.engine.records import I64, PLACE_BYTES, Record, rows_at
from simulator.engine.request import FINISHED, UNSENT
from simulator.engine.result import EngineResult, is_under_way, result_from_state, result_of
from simulator.engine.rules import PS_PER_S, ps, rules_of
from simulator.engine.run import SLICE_TURNS, raise_for
from simulator.engine.state import DECODE_POOL, PREFILL_POOL, State
from simulator.engine.state_arrays import StateArrays
from simulator.engine_profiles.engine_limits import EngineLimits, RouterName
from simulator.errors import EngineDefectError, EngineLimitError
from simulator.steps.step_tables import StepTables
from simulator.workload.generators.arrivals import random_stream
from simulator.workload.span import LONGEST_SPAN_S, shown_span
from simulator.workload.workload import Workload

TransferTime = Callable[[I64], NDArray[np.float64]]

_POLICIES: Final = ("vllm-v1", "sglang")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Replicas of one kind; with ``attention_dp`` above 1 each is that many schedulers that step together."""

    tables: StepTables
    limits: EngineLimits
    dp: int = 1
    attention_dp: int = 1
    router: RouterName = "round_robin"
    costs: I64 | None = None  # what ``cost_cells`` makes of tables and limits, where it is known from another run

    @property
    def cost_cells(self) -> I64:
        """Step tables as compiled code looks costs up."""
        return cost_cells(self.tables, self.limits) if self.costs is None else self.costs

    @property
    def schedulers(self) -> int:
        """Schedulers of all replicas, each with requests and KV of its own, and a link."""
        return self.dp * self.attention_dp


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOver:
    """How an engine's pools agree on a request."""

    offers_first: bool = False  # the decode pool takes the blocks of a prompt before it is computed
    passes_first_token: bool = False  # it comes with the KV; else the last prompt token is computed again
    delay_s: float = 0.0  # of a request from the pool that has it first to the other one
    draws_ranks: bool = False  # a prompt goes to any attention-data rank of its prefill replica, drawn evenly
    reserved_tokens: int = 0  # kept free for each request of the decode pool where another one is offered


@dataclass(frozen=True, slots=True, kw_only=True)
class DisaggregatedResult:
    """What each pool did, and what the client saw; all in the order of the workload."""

    prefill: EngineResult
    kv_ready_ps: I64  # when the KV is in the decode pool; -1 for requests whose KV never came there
    requests: EngineResult  # client's times; replicas, hits and sums are those of the decode pool


def run_disaggregated(
    prefill: Pool,
    decode: Pool,
    workload: Workload,
    *,
    transfer_s: TransferTime,
    hand_over: HandOver | None = None,
    leap: bool = True,
    engine: Engine | None = None,
) -> DisaggregatedResult:
    """Serve ``workload``; ``transfer_s`` gives the seconds on the link for arrays of prompt tokens.

    ``engine`` runs both pools in place of the compiled one. Raises ``UserError`` for client time-outs and recorded
    replicas, for a decode pool with prefix caching, and for other policies than vllm-v1 and sglang.
    """
    agreed = hand_over or HandOver()
    _check(prefill, decode, workload, agreed)
    transfer_ps = _transfers_ps(transfer_s(workload.prompt_tokens))
    first, second = _states(prefill, decode, workload, transfer_ps, agreed, leap=leap)
    cells = prefill.cost_cells, decode.cost_cells
    costs, costs_of_decode = (cast(Costs, rows_at(part, 0, 1, Costs)) for part in cells)
    first.header.peer = _apart(first.compiled, second.compiled)
    second.header.peer = -first.header.peer
    first.header.peer_costs = _apart(first.compiled, costs_of_decode)
    _run(engine or compiled("run_two_pools"), (first, second), costs, workload.name)
    assert all(map(len, cells))  # the compiled engine has their addresses alone
    return _result(first, second, workload, agreed)


def _check(prefill: Pool, decode: Pool, workload: Workload, agreed: HandOver) -> None:
    if workload.client_timeout_s is not None or workload.replica is not None:
        raise UserError(
            f"workload {workload.name!r}: client time-outs and recorded replicas are not modelled for two pools",
            hint="leave them out, or simulate one pool",
        )
    for name, pool in (("prefill", prefill), ("decode", decode)):
        if pool.limits.policy not in _POLICIES:
            raise UserError(f"a {name} pool is not modelled for policy {pool.limits.policy!r}")
        if pool.limits.policy == "sglang" and pool.tables.stages > 1:
            raise UserError(f"a {name} pool under policy sglang is modelled without pipeline stages")
    if decode.limits.enable_prefix_caching:
        raise UserError("a decode pool is modelled without prefix caching")
    if decode.limits.policy == "sglang" and not agreed.passes_first_token:
        raise UserError("a decode pool under policy sglang is modelled with first tokens that come with the KV")
    if agreed.passes_first_token and (decode.limits.num_speculative_tokens or decode.tables.stages > 1):
        raise UserError(
            "a decode pool that gets first tokens is modelled without speculative decoding and pipeline stages"
        )


def _transfers_ps(transfer_s: NDArray[np.float64]) -> I64:
    outside = np.flatnonzero(~((transfer_s >= 0) & (transfer_s <= LONGEST_SPAN_S)))
    if len(outside):
        i = int(outside[0])
        raise UserError(
            f"the KV of request {i} is on the link for {float(transfer_s[i]):,.10g} s, "
            f"must be 0 to {shown_span(LONGEST_SPAN_S)}"
        )
    return ps(transfer_s)


def _states(
    prefill: Pool, decode: Pool, workload: Workload, transfer_ps: I64, agreed: HandOver, *, leap: bool
) -> tuple[StateArrays, StateArrays]:
    """Return the states of both pools."""
    ranks = _drawn_ranks(prefill, len(workload)) if agreed.draws_ranks and prefill.attention_dp > 1 else None
    prompts = replace(workload, output_tokens=np.ones_like(workload.output_tokens), replica=ranks)
    answers = Workload(
        name=workload.name,
        arrival_s=np.zeros(len(workload)),
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
    )
    states = []
    for pool, kind, sent in ((prefill, PREFILL_POOL, prompts), (decode, DECODE_POOL, answers)):
        limits = replace(pool.limits, frontend_s=0.0) if kind == DECODE_POOL else pool.limits
        check_input(pool.tables, limits, sent, pool.dp, pool.attention_dp)
        rules = rules_of(pool.tables, limits, sent, router=pool.router, leap=leap, ranks=pool.attention_dp)
        _state_agreement(rules, kind, agreed)
        rules.entry = ENTRIES.index(entry_for(pool.tables, limits, pool.attention_dp))
        links = prefill.schedulers + decode.schedulers if kind == DECODE_POOL else 0
        states.append(state_arena(rules, sent, dp=pool.schedulers, log_rows=0, links=links))
    first, second = states
    second.list_at(second.header.transfer_ps, len(workload))[:] = transfer_ps
    return first, second


def _drawn_ranks(prefill: Pool, requests: int) -> I64:
    """Rank of each request in the prefill pool: replicas in turn, and any rank of one."""
    ranks = random_stream(0, "ranks of prompts").integers(0, prefill.attention_dp, requests)
    return np.arange(requests) % prefill.dp * prefill.attention_dp + ranks


def _state_agreement(rules: State, kind: int, agreed: HandOver) -> None:
    rules.pool = kind
    rules.offers_first = agreed.offers_first
    rules.passes_first_token = agreed.passes_first_token and kind == DECODE_POOL
    rules.handover_ps = round(agreed.delay_s * PS_PER_S)
    rules.reserved_tokens = agreed.reserved_tokens


def _apart(one: Record, other: Record) -> int:
    """How far the header of another array lies behind the header of one, in int64."""
    return (address(other) - address(one)) // PLACE_BYTES


def _run(engine: Engine, states: tuple[StateArrays, StateArrays], costs: Costs, name: str) -> None:
    """Run both pools to the end, in slices between which they can be interrupted."""
    code = PAUSED
    while code == PAUSED:
        check_stop()
        for state in states:
            state.header.budget = SLICE_TURNS
        code = engine(states[0].compiled, costs)
    for state in states:
        raise_for(code, state, name)
    first, second = states
    is_there = second.requests["status"] != UNSENT
    left = is_under_way(second.requests) & is_there | is_under_way(first.requests) & ~is_there
    if left.any():
        if min(first.header.next_time_ps, second.header.next_time_ps) < CLOCK_END:
            raise EngineDefectError(f"workload {name!r}: two pools stopped before they were done")
        raise EngineLimitError(
            f"workload {name!r}: {int(np.count_nonzero(left))} of {len(left)} requests are not answered after "
            f"{shown_span(CLOCK_END * 1e-12)}, as far as the engine's clock counts",
            hint="the link is too slow for this load, or cut the trace into parts",
        )


def _result(first: StateArrays, second: StateArrays, workload: Workload, agreed: HandOver) -> DisaggregatedResult:
    prefill = result_from_state(first)
    rows = second.requests
    came = np.flatnonzero(rows["status"] != UNSENT)
    decode = result_of(second, rows[came])
    _check_sums(prefill, decode, workload, agreed)
    ready_ps = np.full(len(workload), NONE, dtype=np.int64)
    ready_ps[came] = rows["think_ps"][came]
    columns = {}
    for column in ("first_token_ps", "finish_ps", "status", "replica"):
        values = getattr(prefill, column).copy()
        values[came] = getattr(decode, column)
        columns[column] = values
    preemptions = prefill.preemptions.copy()
    preemptions[came] += decode.preemptions
    requests = replace(
        prefill,
        output_tokens=workload.output_tokens,
        preemptions=preemptions,
        replicas=decode.replicas,
        num_gpu_blocks=decode.num_gpu_blocks,
        chunks=decode.chunks,
        **columns,
    )
    return DisaggregatedResult(prefill=prefill, kv_ready_ps=ready_ps, requests=requests)


def _check_sums(prefill: EngineResult, decode: EngineResult, workload: Workload, agreed: HandOver) -> None:
    name = workload.name
    items = 0 if workload.items is None else workload.items.of_answered(prefill.is_finished)
    ledger = RunSums()
    ledger.add(prefill)
    ledger.check(name, len(workload), prefill.replicas, items=items)
    ledger = RunSums()
    ledger.add(decode)
    remote = decode.prompt_tokens[decode.is_finished] - (0 if agreed.passes_first_token else 1)
    ledger.check(name, len(decode), decode.replicas, remote_tokens=int(remote.sum()))
    if np.count_nonzero(prefill.status == FINISHED) < np.count_nonzero(decode.is_finished):
        raise EngineDefectError(f"workload {name!r}: more answers than prompts that were computed")
