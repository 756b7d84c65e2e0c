"""Refuse what the engine cannot model, by name, before a run."""

from typing import Final

import numpy as np

from cluster_specs.errors import UserError
from simulator.engine.arena import POLICIES, PS_PER_S
from simulator.limits import EngineLimits
from simulator.step_tables import StepTables
from simulator.workload.workload import ClosedLoop, OpenLoop, Workload

_MAX_STEP_PS: Final = 10**15  # 2^-12 ps of one step must stay far from 2^63


def check_input(tables: StepTables, limits: EngineLimits, workload: Workload, dp: int, attention_dp: int = 1) -> None:
    """Refuse what the engine cannot model, by name."""
    if limits.policy not in POLICIES:
        raise UserError(f"policy {limits.policy!r} is not modelled by the engine", hint=f"one of {', '.join(POLICIES)}")
    if limits.policy != "vllm-v1" and tables.stages > 1:
        raise UserError(
            f"policy {limits.policy!r} with {tables.stages} pipeline stages is not modelled by the engine",
            hint="use policy vllm-v1, or a plan without pp",
        )
    if limits.policy in {"vllm-v0", "orca"} and limits.enable_prefix_caching:
        raise UserError(
            f"policy {limits.policy!r} with prefix caching is not modelled by the engine",
            hint="pass --no-prefix-caching, or use policy vllm-v1",
        )
    if limits.policy == "sglang" and not limits.enable_chunked_prefill:
        raise UserError(
            "policy 'sglang' without chunked prefill is not modelled by the engine", hint="use --chunked-prefill"
        )
    for name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "block_size", "num_gpu_blocks"):
        value = getattr(limits, name)
        if value < 1:
            raise UserError(f"engine limits: {name} is {value}, must be >= 1")
    if dp < 1 or attention_dp < 1:
        raise UserError(f"dp is {dp} and attention_dp {attention_dp}, both must be >= 1")
    if attention_dp > 1 and (limits.policy not in {"vllm-v1", "sglang"} or tables.stages > 1):
        raise UserError(
            f"policy {limits.policy!r} on {tables.stages} stages with attention_dp {attention_dp} is not modelled",
            hint="attention data parallelism is modelled for vllm-v1 and sglang without pipeline stages",
        )
    _check_drafts(tables, limits, attention_dp)
    _check_tables(tables, limits)
    _check_workload(limits, workload, dp * attention_dp)


def _check_drafts(tables: StepTables, limits: EngineLimits, attention_dp: int) -> None:
    drafts = limits.num_speculative_tokens
    if not 0 <= drafts < limits.max_num_batched_tokens:
        raise UserError(
            f"engine limits: num_speculative_tokens is {drafts}, must be >= 0 and leave room for one sequence in "
            f"max_num_batched_tokens = {limits.max_num_batched_tokens}"
        )
    if not 0 <= limits.speculative_acceptance <= 1:
        raise UserError(f"engine limits: speculative_acceptance is {limits.speculative_acceptance}, must be 0 to 1")
    if not 0 <= limits.draft_step_s < _MAX_STEP_PS / PS_PER_S:
        raise UserError(f"engine limits: draft_step_s is {limits.draft_step_s}, must be >= 0 and below 1000 s")
    if drafts and (limits.policy != "vllm-v1" or tables.stages > 1 or attention_dp > 1):
        raise UserError(
            f"policy {limits.policy!r} on {tables.stages} stages with attention_dp {attention_dp} and "
            f"num_speculative_tokens {drafts} is not modelled",
            hint="speculative decoding is modelled for policy vllm-v1 without pipeline stages and attention data "
            "parallelism",
        )


def _check_tables(tables: StepTables, limits: EngineLimits) -> None:
    for name, wanted in (
        ("token_mixed_ps", limits.max_num_batched_tokens + 1),
        ("token_decode_ps", limits.max_num_batched_tokens + 1),
        ("sample_ps", limits.max_num_seqs * (1 + limits.num_speculative_tokens) + 1),
    ):
        length = getattr(tables, name).shape[1]
        if length < wanted:
            raise UserError(f"step tables: {name} has {length} entries, the engine limits need {wanted}")
    for name in ("decode_batch_knots", "decode_kv_knots", "prefill_pair_knots", "prefill_kv_knots", "context_knots"):
        knots = getattr(tables, name)
        if len(knots) < 2 or (np.diff(knots) <= 0).any():
            raise UserError(f"step tables: {name} are {knots.tolist()}, must be two or more, ascending")
    if tables.decode_batch_knots[-1] < limits.max_num_seqs:
        raise UserError(
            f"step tables: decode_batch_knots end at {tables.decode_batch_knots[-1]} sequences, "
            f"max_num_seqs is {limits.max_num_seqs}"
        )
    largest = max(int(tables.token_mixed_ps.max()), int(tables.decode_ps.max()), int(tables.windowed_ps.max()))
    if largest > _MAX_STEP_PS:
        raise UserError(f"step tables: one step takes {largest / PS_PER_S:.0f} s, the engine counts up to 1000 s")


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
    if isinstance(workload.client, ClosedLoop):
        if workload.after is not None:
            raise UserError(f"workload {name!r}: a closed loop cannot also follow sessions (`after`)")
        if workload.client.concurrency < 1:
            raise UserError(f"workload {name!r}: concurrency is {workload.client.concurrency}, must be >= 1")
        if not 0 <= workload.client.warmup < len(workload):
            raise UserError(f"workload {name!r}: warmup is {workload.client.warmup} of {len(workload)} requests")
    if workload.replica is not None:
        outside = np.flatnonzero((workload.replica < 0) | (workload.replica >= dp))
        if len(outside):
            i = int(outside[0])
            raise UserError(f"workload {name!r}: request {i} ran on replica {workload.replica[i]}, the plan has {dp}")


def _check_requests(workload: Workload) -> None:
    name = workload.name
    for field, lowest in (("prompt_tokens", 1), ("output_tokens", 0)):
        lengths = getattr(workload, field)
        i = int(lengths.argmin())
        if lengths[i] < lowest:
            raise UserError(f"workload {name!r}: request {i} has {field} {lengths[i]}, must be >= {lowest}")
    if isinstance(workload.client, OpenLoop):
        sent = workload.arrival_s if workload.after is None else workload.arrival_s[workload.after < 0]
        gaps = np.diff(sent)
        if len(gaps) and gaps.min() < 0:
            i = int(gaps.argmin())
            raise UserError(
                f"workload {name!r}: a request arrives at {sent[i + 1]} s, after one at {sent[i]} s",
                hint="sort the requests by arrival",
            )
