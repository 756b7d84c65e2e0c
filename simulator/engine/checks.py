"""Refuse what the engine cannot model, by name, before a run."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from simulator.engine.bounds import LONGEST_SEQUENCE, LONGEST_STEP, MOST_BLOCKS
from simulator.engine.item_checks import check_items
from simulator.engine.rules import POLICIES, PS_PER_S, first_arrival_s
from simulator.engine.table_checks import check_tables
from simulator.engine_profiles.acceptance import acceptance_fault
from simulator.engine_profiles.answer_chunks import LONGEST_INTERVAL
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.steps.step_tables import StepTables
from simulator.workload.span import HINT, LONGEST_SPAN_S, shown_span
from simulator.workload.workload import CappedLoop, ClosedLoop, OpenLoop, Workload

# Counts the engine's int64 sums are laid out for.
_MOST: Final = {
    "max_num_seqs": 1 << 24,
    "max_num_batched_tokens": LONGEST_SEQUENCE,
    "max_model_len": LONGEST_SEQUENCE,
    "scheduler_recv_interval": 1 << 20,
    "max_prefill_tokens": LONGEST_SEQUENCE,
    "block_size": 1 << 20,
    "num_gpu_blocks": MOST_BLOCKS,
    "stream_interval": LONGEST_INTERVAL,
}


def check_input(
    tables: StepTables,
    limits: EngineLimits,
    workload: Workload,
    dp: int,
    attention_dp: int = 1,
    *,
    origin_s: float | None = None,
) -> None:
    """Refuse what the engine cannot model, by name; its clock starts at ``origin_s``, else at the first arrival."""
    if limits.policy not in POLICIES:
        raise UserError(f"policy {limits.policy!r} is not modelled by the engine", hint=f"one of {', '.join(POLICIES)}")
    if tables.stages > 1:
        _check_stages(tables, limits, attention_dp)
    if limits.policy in {"vllm-v0", "orca"} and limits.enable_prefix_caching:
        raise UserError(
            f"policy {limits.policy!r} with prefix caching is not modelled by the engine",
            hint="pass --no-prefix-caching, or use policy vllm-v1",
        )
    if limits.policy not in {"vllm-v1", "orca"} and limits.reserves_output:
        raise UserError(
            f"policy {limits.policy!r} with reserves_output is not modelled by the engine", hint="use policy vllm-v1"
        )
    if limits.policy == "sglang" and not limits.enable_chunked_prefill:
        raise UserError(
            "policy 'sglang' without chunked prefill is not modelled by the engine", hint="use --chunked-prefill"
        )
    if limits.scheduler_recv_interval > 1 and (limits.policy != "sglang" or attention_dp > 1):
        raise UserError(
            f"policy {limits.policy!r} with scheduler_recv_interval {limits.scheduler_recv_interval} and attention_dp "
            f"{attention_dp} is not modelled by the engine",
            hint="it is modelled for sglang without attention data parallelism; 1 looks for requests before every step",
        )
    for name, most in _MOST.items():
        value = getattr(limits, name)
        if not 1 <= value <= most:
            must = ">= 1" if value < 1 else f"<= {most}"
            raise UserError(f"engine limits: {name} is {value}, must be {must}")
    for name in ("frontend_s", "frontend_gap_s"):
        value = getattr(limits, name)
        if not 0 <= value <= LONGEST_STEP / PS_PER_S:
            raise UserError(f"engine limits: {name} is {value}, must be 0 to {LONGEST_STEP / PS_PER_S:g} s")
    if dp < 1 or attention_dp < 1:
        raise UserError(f"dp is {dp} and attention_dp {attention_dp}, both must be >= 1")
    _check_ranks(tables, limits, attention_dp)
    _check_batch(limits)
    _check_waiting(tables, limits, attention_dp)
    _check_drafts(tables, limits)
    _check_workload(limits, workload, dp * attention_dp)
    _check_timeout(tables, limits, workload, attention_dp)
    _check_times(workload, first_arrival_s(workload) if origin_s is None else origin_s)
    check_items(tables, limits, workload)
    longest = int((workload.prompt_tokens + workload.output_tokens).max())
    check_tables(tables, limits, min(longest, limits.max_model_len))


def _check_stages(tables: StepTables, limits: EngineLimits, attention_dp: int) -> None:
    if limits.policy not in {"vllm-v1", "sglang"}:
        raise UserError(
            f"policy {limits.policy!r} with {tables.stages} pipeline stages is not modelled by the engine",
            hint="use policy vllm-v1 or sglang, or a plan without pp",
        )
    if limits.policy != "sglang":
        return
    if attention_dp > 1 or limits.scheduler_recv_interval > 1 or limits.async_scheduling:
        raise UserError(
            f"policy 'sglang' with {tables.stages} pipeline stages, attention_dp {attention_dp}, "
            f"scheduler_recv_interval {limits.scheduler_recv_interval} and async_scheduling "
            f"{limits.async_scheduling} is not modelled by the engine",
            hint="stages are modelled without the other three; SGLang turns its overlap scheduler off itself",
        )
    if limits.max_num_seqs == 1:
        raise UserError(
            f"engine limits: max_num_seqs is 1, must be at least 2 for {tables.stages} pipeline stages: a prompt "
            "longer than a chunk would take SGLang's only seat and wait for one",
            hint="raise max_num_seqs",
        )


def _check_ranks(tables: StepTables, limits: EngineLimits, attention_dp: int) -> None:
    if attention_dp == 1:
        return
    if limits.policy not in {"vllm-v1", "sglang"}:
        raise UserError(
            f"policy {limits.policy!r} with attention_dp {attention_dp} is not modelled",
            hint="attention data parallelism is modelled for vllm-v1 and sglang",
        )
    if tables.stages > 1 and limits.pipeline_ranks == "all" and not limits.reserves_output:
        raise UserError(
            "ranks of pipeline stages that need one another are modelled where answers are reserved at admission",
            hint="TensorRT-LLM's GUARANTEED_NO_EVICT, its default, reserves them",
        )


def _check_batch(limits: EngineLimits) -> None:
    """Refuse more sequences than tokens where all decode in each step, and SGLang's chunks that are no whole blocks."""
    cuts_decodes = limits.policy in {"vllm-v1", "orca"} or (
        limits.policy == "vllm-v0" and limits.enable_chunked_prefill
    )
    if not cuts_decodes and limits.max_num_seqs > limits.max_num_batched_tokens:
        raise UserError(
            f"engine limits: max_num_seqs is {limits.max_num_seqs}, must be at most max_num_batched_tokens = "
            f"{limits.max_num_batched_tokens}: policy {limits.policy!r} decodes every sequence in each step",
            hint="raise max_num_batched_tokens, or lower max_num_seqs",
        )
    if limits.policy == "sglang" and limits.max_num_batched_tokens % limits.block_size:
        raise UserError(
            f"engine limits: max_num_batched_tokens is {limits.max_num_batched_tokens}, must be a multiple of "
            f"block_size = {limits.block_size}: SGLang cuts prompts at whole blocks, and does not start otherwise",
            hint="change --max-num-batched-tokens or --block-size; SGLang's own block is 1 token",
        )


def _check_waiting(tables: StepTables, limits: EngineLimits, attention_dp: int) -> None:
    for name in ("batch_wait_iters", "batch_wait_tokens", "ranks_wait_iters", "ranks_batching_iters"):
        value = getattr(limits, name)
        if not 0 <= value <= LONGEST_SEQUENCE:
            raise UserError(f"engine limits: {name} is {value}, must be 0 to {LONGEST_SEQUENCE}")
    waits = limits.batch_wait_iters > 0
    if (waits or limits.ranks_wait_iters) and (limits.policy != "vllm-v1" or limits.enable_chunked_prefill):
        raise UserError(
            f"policy {limits.policy!r} with prompts that wait for one another is not modelled",
            hint="it is modelled for policy vllm-v1 without chunked prefill",
        )
    if limits.ranks_wait_iters and (tables.stages > 1 or limits.num_speculative_tokens):
        raise UserError(
            "ranks that wait for one another's prompts are modelled without pipeline stages and speculative decoding"
        )
    if waits and (tables.stages > 1 or attention_dp > 1 or limits.num_speculative_tokens):
        raise UserError(
            "prompts that wait for company are modelled without pipeline stages, attention data parallelism and "
            "speculative decoding"
        )


def _check_drafts(tables: StepTables, limits: EngineLimits) -> None:
    drafts = limits.num_speculative_tokens
    if not 0 <= drafts < limits.max_num_batched_tokens:
        raise UserError(
            f"engine limits: num_speculative_tokens is {drafts}, must be >= 0 and leave room for one sequence in "
            f"max_num_batched_tokens = {limits.max_num_batched_tokens}"
        )
    fault = acceptance_fault(limits.speculative_acceptance, drafts)
    if fault is not None:
        raise UserError(f"engine limits: speculative_acceptance {fault}")
    if not 0 <= limits.draft_step_s < LONGEST_STEP / PS_PER_S:
        raise UserError(f"engine limits: draft_step_s is {limits.draft_step_s}, must be >= 0 and below 1000 s")
    if drafts and (limits.policy != "vllm-v1" or tables.stages > 1):
        raise UserError(
            f"policy {limits.policy!r} on {tables.stages} stages with num_speculative_tokens {drafts} is not modelled",
            hint="speculative decoding is modelled for policy vllm-v1 without pipeline stages",
        )


def _check_workload(limits: EngineLimits, workload: Workload, dp: int) -> None:
    name = workload.name
    if len(workload) == 0:
        raise UserError(f"workload {name!r} has no requests")
    _check_requests(workload)
    if workload.prefix is not None and limits.enable_prefix_caching:
        size = workload.prefix.block_tokens
        if size % limits.block_size and limits.block_size % size:
            raise UserError(
                f"workload {name!r}: prefix blocks of {size} tokens do not align with KV blocks of {limits.block_size}",
                hint="choose a block_size that divides the trace's block, or a multiple of it",
            )
    if isinstance(workload.client, ClosedLoop | CappedLoop):
        if workload.after is not None:
            raise UserError(
                f"workload {name!r}: a closed loop or a capped client cannot also follow sessions (`after`)"
            )
        if workload.client.concurrency < 1:
            raise UserError(f"workload {name!r}: concurrency is {workload.client.concurrency}, must be >= 1")
    if isinstance(workload.client, ClosedLoop) and not 0 <= workload.client.warmup < len(workload):
        raise UserError(f"workload {name!r}: warmup is {workload.client.warmup} of {len(workload)} requests")
    if workload.replica is not None:
        outside = np.flatnonzero((workload.replica < 0) | (workload.replica >= dp))
        if len(outside):
            i = int(outside[0])
            raise UserError(f"workload {name!r}: request {i} ran on replica {workload.replica[i]}, the plan has {dp}")


def _check_requests(workload: Workload) -> None:
    name = workload.name
    for field in ("arrival_s", "output_tokens", "after", "think_s", "replica"):
        column = getattr(workload, field)
        if column is not None and len(column) != len(workload.prompt_tokens):
            raise UserError(
                f"workload {name!r}: {field} has {len(column)} entries, prompt_tokens {len(workload.prompt_tokens)}"
            )
    for field, lowest in (("prompt_tokens", 1), ("output_tokens", 0)):
        lengths = getattr(workload, field)
        if not (lowest <= lengths.min() and lengths.max() <= LONGEST_SEQUENCE):
            i = int(np.argmax((lengths < lowest) | (lengths > LONGEST_SEQUENCE)))
            must = f">= {lowest}" if lengths[i] < lowest else f"<= {LONGEST_SEQUENCE}"
            raise UserError(f"workload {name!r}: request {i} has {field} {lengths[i]}, must be {must}")
    if workload.after is not None:
        outside = np.flatnonzero((workload.after < -1) | (workload.after >= np.arange(len(workload))))
        if len(outside):
            i = int(outside[0])
            raise UserError(
                f"workload {name!r}: request {i} follows request {workload.after[i]}, must follow an earlier one, or -1"
            )


def _check_timeout(tables: StepTables, limits: EngineLimits, workload: Workload, attention_dp: int) -> None:
    timeout_s = workload.client_timeout_s
    if timeout_s is None:
        return
    if not 0 < timeout_s <= LONGEST_SPAN_S:
        raise UserError(
            f"workload {workload.name!r}: client time-out is {timeout_s:g} s, must be above 0 and at most "
            f"{shown_span(LONGEST_SPAN_S)}"
        )
    if workload.after is not None:
        raise UserError(f"workload {workload.name!r}: a client time-out is not modelled for sessions (`after`)")
    if tables.stages > 1 or attention_dp > 1 or limits.num_speculative_tokens:
        raise UserError(
            f"workload {workload.name!r}: a client time-out is modelled without pipeline stages, attention data "
            "parallelism and speculative decoding"
        )


def _check_times(workload: Workload, origin_s: float) -> None:
    """Refuse times that the clock cannot count: not finite, not ascending, or later than it goes."""
    name = workload.name
    is_root = np.ones(len(workload), dtype=np.bool_) if workload.after is None else workload.after < 0
    due_s = np.zeros(len(workload))
    if isinstance(workload.client, OpenLoop | CappedLoop):
        arrival_s = workload.arrival_s
        if workload.after is None:
            due_s = arrival_s - origin_s
        else:
            arrival_s = arrival_s[is_root]
            due_s[is_root] = arrival_s - origin_s
        if not (np.isfinite(arrival_s[-1]) and (arrival_s[:-1] <= arrival_s[1:]).all()):
            _refuse_order(workload, np.flatnonzero(is_root))
    if workload.after is not None and workload.think_s is not None:
        _check_think_times(name, workload.think_s, ~is_root)
        for follower in np.flatnonzero(~is_root):
            due_s[follower] = due_s[workload.after[follower]] + workload.think_s[follower]
    if due_s.max() > LONGEST_SPAN_S:
        i = int(np.argmax(due_s > LONGEST_SPAN_S))
        with_pauses = "" if is_root[i] else ", think times alone,"
        raise UserError(
            f"workload {name!r}: request {i} is sent {shown_span(float(due_s[i]))}{with_pauses} after the first one, "
            f"the engine's clock holds {shown_span(LONGEST_SPAN_S)}",
            hint=HINT,
        )


def _refuse_order(workload: Workload, sent: NDArray[np.int64]) -> None:
    """Name the first arrival that is not finite or earlier than the one before it."""
    arrival_s = workload.arrival_s[sent]
    if not np.isfinite(arrival_s).all():
        i = int(np.argmin(np.isfinite(arrival_s)))
        raise UserError(f"workload {workload.name!r}: request {sent[i]} arrives at {arrival_s[i]} s, must be finite")
    i = int(np.diff(arrival_s).argmin())
    raise UserError(
        f"workload {workload.name!r}: a request arrives at {arrival_s[i + 1]} s, after one at {arrival_s[i]} s",
        hint="sort the requests by arrival",
    )


def _check_think_times(name: str, think_s: NDArray[np.float64], is_follower: NDArray[np.bool_]) -> None:
    outside = np.flatnonzero(is_follower & ~((think_s >= 0) & (think_s <= LONGEST_SPAN_S)))
    if len(outside):
        i = int(outside[0])
        raise UserError(
            f"workload {name!r}: request {i} has think_s {float(think_s[i]):,.10g}, must be 0 to "
            f"{shown_span(LONGEST_SPAN_S)}, what the engine's clock holds"
        )
