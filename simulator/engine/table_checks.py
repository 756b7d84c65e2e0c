"""Refuse step tables the engine cannot count with: too short, not ascending, or with steps longer than its clock takes.

The engine's sums are int64: of 2^-12 ps within a step or a stretch of steps, of ps else. They hold if no step takes
longer than ``layout.LONGEST_STEP`` through all its stages, whatever runs in it, so the longest step there can be is
computed here in float64.
"""

from typing import Final

import numpy as np

from cluster_specs.errors import UserError
from simulator.engine.bounds import LONGEST_STEP
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.errors import EngineLimitError
from simulator.steps.step_tables import I64, StepTables

_PS_PER_S: Final = 1e12
_MOST_STAGES: Final = 256  # as many steps of the longest kind fit between the clock's end and the end of int64
_COSTS: Final = (
    "token_mixed_ps",
    "token_decode_ps",
    "pooled_ps",
    "sample_ps",
    "send_ps",
    "decode_ps",
    "windowed_ps",
    "prefill_pair_ps",
    "prefill_kv_ps",
    "context_ps",
)


def check_tables(tables: StepTables, limits: EngineLimits, longest_tokens: int) -> None:
    """Refuse tables that do not cover ``limits``, or not sequences of up to ``longest_tokens`` within the clock."""
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
        if len(knots) < 2 or not (knots[1:] > knots[:-1]).all():
            raise UserError(f"step tables: {name} are {knots.tolist()}, must be two or more, ascending")
    if tables.decode_batch_knots[-1] < limits.max_num_seqs:
        raise UserError(
            f"step tables: decode_batch_knots end at {tables.decode_batch_knots[-1]} sequences, "
            f"max_num_seqs is {limits.max_num_seqs}"
        )
    if min(tables.host_step_ps, tables.host_seq_ps, tables.window_tokens) < 0:
        raise UserError("step tables: host_step_ps, host_seq_ps and window_tokens must be >= 0")
    if tables.stages > _MOST_STAGES:
        raise UserError(f"step tables: {tables.stages} pipeline stages, modelled are up to {_MOST_STAGES}")
    longest_ps = _longest_step_ps(tables, limits, longest_tokens)
    if longest_ps > LONGEST_STEP:
        raise EngineLimitError(
            f"step tables: one step may take {longest_ps / _PS_PER_S:,.4g} s, "
            f"the engine counts up to {LONGEST_STEP / _PS_PER_S:,.4g} s",
            hint="lower max_num_batched_tokens or max_num_seqs, if a step can take that long",
        )
    gap = int(np.diff(tables.decode_batch_knots).max())
    if float(tables.decode_ps.max()) * gap >= 2.0**62:
        raise UserError(
            f"step tables: decode_batch_knots lie up to {gap} sequences apart, too far for steps of "
            f"{float(tables.decode_ps.max()) / _PS_PER_S:,.4g} s"
        )


def check_costs(tables: StepTables, arena: I64) -> I64:
    """Return ``arena``, which holds all of ``tables``; refuse a negative cost, which would set clocks back."""
    if arena.min() < 0:
        for name in _COSTS:
            least = getattr(tables, name).min()
            if least < 0:
                raise UserError(f"step tables: {name} has an entry of {least} ps, must be >= 0")
    return arena


def _longest_step_ps(tables: StepTables, limits: EngineLimits, longest_tokens: int) -> float:
    """Bound for any step through all stages: every table at its largest, read as far out as the limits allow."""
    budget, seqs = limits.max_num_batched_tokens, limits.max_num_seqs
    queries = seqs * (1 + limits.num_speculative_tokens)
    kv_tokens = float(limits.num_gpu_blocks) * limits.block_size + queries
    # A chunk at the end of the longest prompt has the most causal pairs per token.
    pairs = budget * float(longest_tokens) - 0.5 * budget * min(budget, longest_tokens)
    reads = float(min(budget, seqs)) * longest_tokens
    stage = float(max(tables.token_mixed_ps.max(), tables.token_decode_ps.max()))
    stage += float(tables.sample_ps.max()) + float(tables.send_ps.max())
    stage += _most(tables.decode_ps, tables.decode_kv_knots, kv_tokens)
    if tables.window_tokens:
        stage += _most(tables.windowed_ps, tables.decode_kv_knots, kv_tokens)
    stage += max(
        _most(tables.prefill_pair_ps, tables.prefill_pair_knots, pairs),
        _most(tables.prefill_kv_ps, tables.prefill_kv_knots, reads),
    )
    stage += _most(tables.context_ps, tables.context_knots, reads)
    host = tables.host_step_ps + float(tables.host_seq_ps) * queries
    return tables.stages * stage + host + limits.draft_step_s * _PS_PER_S


def _most(values: I64, knots: I64, reach: float) -> float:
    """Largest value over knots along the last axis, the last segment reaching on to ``reach``."""
    most = float(values.max())
    beyond = reach - float(knots[-1])
    if beyond <= 0:
        return most
    ends = values[..., -2:].astype(np.float64)
    slope = (ends[..., 1] - ends[..., 0]) / float(knots[-1] - knots[-2])
    return max(most, float((ends[..., 1] + slope * beyond).max()))
