"""Simulate the replicas of a plan serving a workload, step by step, on integer time.

``run_replicas`` checks the input, lays out the state and calls the compiled event loop (``loop``). What the engine does
not model is refused here, by name.
"""

from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np

from simulator.engine import layout
from simulator.engine.arena import POLICIES, PS_PER_S, cost_arena, rules_header, state_arena
from simulator.engine.jit import cached_entry, source_fingerprint
from simulator.engine.layout import I64, Cells
from simulator.engine.leap import finish_pass
from simulator.engine.loop import DONE, run_to_next_pass
from simulator.engine.pipeline import finish_pipeline_pass, launch_stages, next_group
from simulator.engine.prefix_cache import used_blocks
from simulator.engine.result import EngineResult, result_from_state
from simulator.engine.scheduler_v0 import schedule_v0
from simulator.engine.scheduler_v1 import schedule_v1
from simulator.engine.step import launch
from simulator.errors import InputError
from simulator.limits import EngineLimits, RouterName
from simulator.step_tables import StepTables
from simulator.workload.workload import ClosedLoop, Workload

_MAX_STEP_PS: Final = 10**15  # 2^-12 ps of one step must stay far from 2^63
_LOG_ROWS: Final = 4096
STUCK: Final = -2

Engine = Callable[[I64, I64], int]


@cache
def _engine(*, is_prefill_first: bool, is_pipeline: bool) -> Engine:
    """Compile the engine of a policy or load it; a change to any engine source recompiles it."""
    fingerprint = source_fingerprint()

    @cached_entry
    def run_v1(state: Cells, costs: Cells) -> int:
        rep = len(fingerprint)
        while True:
            rep = run_to_next_pass(state, costs)
            if rep == DONE:
                return DONE
            grp = state[rep + layout.GROUPS]
            used = used_blocks(state, rep)
            tokens, prefills, pairs, reads = schedule_v1(state, rep, grp)
            has_work = state[grp + layout.DECODERS] + prefills > 0
            if has_work:
                launch(state, costs, rep, grp, tokens, prefills, pairs, reads, True, used)
            if not finish_pass(state, costs, rep, has_work):
                return STUCK

    @cached_entry
    def run_v0(state: Cells, costs: Cells) -> int:
        rep = len(fingerprint)
        while True:
            rep = run_to_next_pass(state, costs)
            if rep == DONE:
                return DONE
            grp = state[rep + layout.GROUPS]
            used = used_blocks(state, rep)
            tokens, prefills, pairs, reads = schedule_v0(state, rep, grp)
            has_work = state[grp + layout.DECODERS] + prefills > 0
            if has_work:
                launch(state, costs, rep, grp, tokens, prefills, pairs, reads, prefills == 0, used)
            if not finish_pass(state, costs, rep, has_work):
                return STUCK

    @cached_entry
    def run_v1_pipeline(state: Cells, costs: Cells) -> int:
        rep = len(fingerprint)
        while True:
            rep = run_to_next_pass(state, costs)
            if rep == DONE:
                return DONE
            grp = next_group(state, rep)
            used = used_blocks(state, rep)
            tokens, prefills, pairs, reads = schedule_v1(state, rep, grp)
            has_work = state[grp + layout.DECODERS] + prefills > 0
            if has_work:
                launch_stages(state, costs, rep, grp, tokens, prefills, pairs, reads, used)
            if not finish_pipeline_pass(state, rep, has_work):
                return STUCK

    if is_pipeline:
        return run_v1_pipeline
    return run_v0 if is_prefill_first else run_v1


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
    check_input(tables, limits, workload, dp)
    header = rules_header(tables, limits, workload, router=router, leap=leap)
    costs = cost_arena(tables, limits)
    engine = engine_for(tables, limits)
    rows = _LOG_ROWS if log else 0
    while True:
        state = state_arena(header, workload, dp=dp, log_rows=rows)
        run_engine(engine, state, costs, workload.name)
        needed = int(state[layout.LOG_SIZE])
        if needed <= rows or not log:
            return result_from_state(state)
        rows = needed


def engine_for(tables: StepTables, limits: EngineLimits) -> Engine:
    """Pick the compiled engine of a policy."""
    is_prefill_first = limits.policy == "vllm-v0" and not limits.enable_chunked_prefill
    return _engine(is_prefill_first=is_prefill_first, is_pipeline=tables.stages > 1)


def run_engine(engine: Engine, state: I64, costs: I64, name: str) -> None:
    """Run the workload ``name`` up to the horizon of ``state``."""
    if engine(state, costs) == STUCK:
        raise RuntimeError(f"engine defect: workload {name!r} leaves a request that can never be admitted")


def check_input(tables: StepTables, limits: EngineLimits, workload: Workload, dp: int) -> None:
    """Refuse what the engine cannot model, by name."""
    if limits.policy not in POLICIES:
        raise InputError(
            f"policy {limits.policy!r} is not modelled by the engine", hint=f"one of {', '.join(POLICIES)}"
        )
    if limits.policy != "vllm-v1" and tables.stages > 1:
        raise InputError(
            f"policy {limits.policy!r} with {tables.stages} pipeline stages is not modelled by the engine",
            hint="use policy vllm-v1, or a plan without pp",
        )
    if limits.policy != "vllm-v1" and limits.enable_prefix_caching:
        raise InputError(f"policy {limits.policy!r} with prefix caching is not modelled by the engine")
    if limits.num_speculative_tokens:
        raise InputError("speculative decoding is not modelled by the engine", hint="set num_speculative_tokens to 0")
    for name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "block_size", "num_gpu_blocks"):
        value = getattr(limits, name)
        if value < 1:
            raise InputError(f"engine limits: {name} is {value}, must be >= 1")
    if dp < 1:
        raise InputError(f"dp is {dp}, must be >= 1")
    _check_tables(tables, limits)
    _check_workload(limits, workload, dp)


def _check_tables(tables: StepTables, limits: EngineLimits) -> None:
    for name, wanted in (
        ("token_mixed_ps", limits.max_num_batched_tokens + 1),
        ("token_decode_ps", limits.max_num_batched_tokens + 1),
        ("sample_ps", limits.max_num_seqs + 1),
    ):
        length = getattr(tables, name).shape[1]
        if length < wanted:
            raise InputError(f"step tables: {name} has {length} entries, the engine limits need {wanted}")
    if tables.decode_batch_knots[-1] < limits.max_num_seqs:
        raise InputError(
            f"step tables: decode_batch_knots end at {tables.decode_batch_knots[-1]} sequences, "
            f"max_num_seqs is {limits.max_num_seqs}"
        )
    largest = max(int(tables.token_mixed_ps.max()), int(tables.decode_ps.max()), int(tables.windowed_ps.max()))
    if largest > _MAX_STEP_PS:
        raise InputError(f"step tables: one step takes {largest / PS_PER_S:.0f} s, the engine counts up to 1000 s")


def _check_workload(limits: EngineLimits, workload: Workload, dp: int) -> None:
    name = workload.name
    if len(workload) == 0:
        raise InputError(f"workload {name!r} has no requests")
    if workload.prefix is not None and limits.enable_prefix_caching:
        size = workload.prefix.block_tokens
        if size % limits.block_size and limits.block_size % size:
            raise InputError(
                f"workload {name!r}: prefix blocks of {size} tokens do not align with KV blocks of {limits.block_size}",
                hint="choose a block_size that divides the trace's block, or a multiple of it",
            )
    if isinstance(workload.client, ClosedLoop):
        if workload.after is not None:
            raise InputError(f"workload {name!r}: a closed loop cannot also follow sessions (`after`)")
        if workload.client.concurrency < 1:
            raise InputError(f"workload {name!r}: concurrency is {workload.client.concurrency}, must be >= 1")
        if not 0 <= workload.client.warmup < len(workload):
            raise InputError(f"workload {name!r}: warmup is {workload.client.warmup} of {len(workload)} requests")
    if workload.replica is not None:
        outside = np.flatnonzero((workload.replica < 0) | (workload.replica >= dp))
        if len(outside):
            i = int(outside[0])
            raise InputError(
                f"workload {name!r}: request {i} ran on replica {workload.replica[i]}, the plan has dp {dp}"
            )
