"""Lay out the step tables in one array, as compiled code looks costs up."""

from collections.abc import Sequence
from typing import Final, cast

import numpy as np

from simulator.engine.costs import Costs
from simulator.engine.records import I64, places, rows_at
from simulator.engine.table_checks import check_costs
from simulator.engine_profiles.acceptance import accepted_shares
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.steps.step_tables import EncoderTables, StepTables

DRAWS: Final = 1 << 62  # a draw is a whole number below this

_OF_ATTENTION: Final = (
    "decode_ps",
    "windowed_ps",
    "prefill_pair_ps",
    "prefill_kv_ps",
    "context_ps",
    "attention_start_ps",
)
_NO_ENCODER: Final = EncoderTables(
    token_knots=np.array([0, 1]),
    token_ps=np.zeros(2, dtype=np.int64),
    pair_knots=np.array([0, 1]),
    pair_ps=np.zeros(2, dtype=np.int64),
)


def cost_arrays(tables: StepTables, limits: EngineLimits) -> Costs:
    """Header with all step tables behind it in one array; raises ``UserError`` for a negative cost."""
    return cast(Costs, rows_at(cost_cells(tables, limits), 0, 1, Costs))


def cost_cells(tables: StepTables, limits: EngineLimits) -> I64:
    """Return that array; raises ``UserError`` for a negative cost."""
    batch = np.arange(limits.max_num_seqs + 1)
    knots = tables.decode_batch_knots
    lower = np.maximum(np.searchsorted(knots, batch, side="right") - 1, 0)
    header = np.zeros(places(Costs), dtype=np.int64)
    fields = rows_at(header, 0, 1, Costs)[0]
    encoder = tables.encoder or _NO_ENCODER
    parts = [header]
    size = len(header)
    for field, table in (
        ("token_mixed", tables.token_mixed_ps),
        ("token_decode", tables.token_decode_ps),
        ("sample", tables.sample_ps),
        ("send", tables.send_ps),
        ("pooled", tables.pooled_ps),
        ("batch_index", lower),
        ("batch_knots", knots),
        ("kv_knots", tables.decode_kv_knots),
        ("decode", tables.decode_ps),
        ("windowed", tables.windowed_ps),
        ("pair_knots", tables.prefill_pair_knots),
        ("pairs", tables.prefill_pair_ps),
        ("read_knots", tables.prefill_kv_knots),
        ("reads", tables.prefill_kv_ps),
        ("context_knots", tables.context_knots),
        ("context", tables.context_ps),
        ("attention_start", tables.attention_start_ps),
        ("attention_repeats", _repeats(tables, _OF_ATTENTION)),
        ("stages_alike", _runs(_repeats(tables, (*_OF_ATTENTION, "sample_ps")))),
        ("acceptance", _acceptance_bounds(limits)),
        ("encoder_token_knots", encoder.token_knots),
        ("encoder_tokens", encoder.token_ps),
        ("encoder_pair_knots", encoder.pair_knots),
        ("encoder_pairs", encoder.pair_ps),
    ):
        fields[field] = size
        parts.append(table.ravel())
        size += table.size
    fields["padded_mixed"] = tables.padded_mixed
    fields["padded_decode"] = tables.padded_decode
    fields["token_stride"] = tables.token_mixed_ps.shape[1]
    fields["sample_stride"] = tables.sample_ps.shape[1]
    fields["num_batch_knots"] = len(knots)
    fields["num_kv_knots"] = len(tables.decode_kv_knots)
    fields["num_pair_knots"] = len(tables.prefill_pair_knots)
    fields["num_read_knots"] = len(tables.prefill_kv_knots)
    fields["num_context_knots"] = len(tables.context_knots)
    fields["num_encoder_token_knots"] = len(encoder.token_knots)
    fields["num_encoder_pair_knots"] = len(encoder.pair_knots)
    fields["encoder_launch_ps"] = encoder.launch_ps
    fields["encoder_ranks"] = encoder.ranks
    fields["encoder_by_request"] = limits.encodes_by_request
    return check_costs(tables, np.concatenate(parts))


def _repeats(tables: StepTables, names: Sequence[str]) -> I64:
    """Return 1 for each stage that costs in all tables of these names what the stage before does."""
    repeats = np.zeros(tables.stages, dtype=np.int64)
    by_stage = [np.reshape(getattr(tables, name), (tables.stages, -1)) for name in names]
    for stage in range(1, tables.stages):
        repeats[stage] = all(np.array_equal(table[stage], table[stage - 1]) for table in by_stage)
    return repeats


def _runs(repeats: I64) -> I64:
    """Return for each stage that repeats none how many do so from it on, itself included; 0 for the others."""
    first = np.flatnonzero(repeats == 0)
    runs = np.zeros(len(repeats), dtype=np.int64)
    runs[first] = np.diff(first, append=len(repeats))
    return runs


def _acceptance_bounds(limits: EngineLimits) -> I64:
    """Bounds [num_speculative_tokens] of a draw: below the i-th one the first i drafts are accepted."""
    shares = accepted_shares(limits.speculative_acceptance, limits.num_speculative_tokens)
    return np.array([int(share * DRAWS) for share in shares], dtype=np.int64)
