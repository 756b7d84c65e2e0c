"""Refuse images and audio the engine cannot run: bound to no model, without costs, or longer than its clock takes."""

import numpy as np

from cluster_specs.errors import UserError
from simulator.engine.bounds import LONGEST_STEP
from simulator.engine.records import I64
from simulator.engine.rules import PS_PER_S
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.errors import EngineLimitError
from simulator.steps.step_tables import EncoderTables, StepTables
from simulator.workload.items import EncoderItems
from simulator.workload.workload import Workload


def check_items(tables: StepTables, limits: EngineLimits, workload: Workload) -> None:
    """Refuse encoder items of ``workload`` that cannot run under ``limits``."""
    name, items = workload.name, workload.items
    if workload.media is not None:
        raise UserError(
            f"workload {name!r}: images and audio are bound to no model",
            hint="simulator.model.bind_workload says what they become for one",
        )
    if items is None or len(items) == 0:
        return
    if tables.encoder is None:
        raise UserError(f"workload {name!r}: has images or audio, the step tables hold no encoder")
    _check_rows(name, items, workload.prompt_tokens)
    largest = int(items.embeds.max())
    if 0 < limits.encoder_budget < largest:
        raise UserError(
            f"workload {name!r}: an item becomes {largest} tokens, the encoder budget is {limits.encoder_budget}"
        )
    longest_ps = _longest_ps(tables.encoder, limits, items)
    if longest_ps > LONGEST_STEP:
        raise EngineLimitError(
            f"workload {name!r}: the encoder may take {longest_ps / PS_PER_S:,.4g} s in one step, the engine counts up "
            f"to {LONGEST_STEP / PS_PER_S:,.4g} s",
            hint="lower max_num_batched_tokens or max_num_seqs",
        )


def _check_rows(name: str, items: EncoderItems, prompt_tokens: I64) -> None:
    """Refuse items that lie outside of their prompt, overlap, or have no tokens."""
    counts = np.diff(items.offsets)
    if len(counts) != len(prompt_tokens) or items.offsets[0] != 0 or items.offsets[-1] != len(items):
        raise UserError(f"workload {name!r}: offsets of items do not fit {len(prompt_tokens)} requests")
    owner = np.repeat(np.arange(len(counts)), counts)
    before = np.where(np.diff(owner, prepend=-1) == 0, np.concatenate([[0], items.end[:-1]]), 0)
    is_wrong = (items.start < before) | (items.end <= items.start) | (items.end > prompt_tokens[owner])
    is_wrong |= np.minimum(np.minimum(items.embeds, items.tokens), items.pairs) < 1
    if is_wrong.any():
        i = int(np.argmax(is_wrong))
        raise UserError(
            f"workload {name!r}: request {owner[i]} has an item of tokens {items.start[i]} to {items.end[i]} in a "
            f"prompt of {prompt_tokens[owner[i]]}"
        )


def _longest_ps(encoder: EncoderTables, limits: EngineLimits, items: EncoderItems) -> float:
    """Bound of the encoder's time in a step, whose budget, or whose chunks and one that reaches beyond, items fill."""
    return (
        _at(encoder.token_knots, encoder.token_ps, _most_in_a_step(limits, items, items.tokens))
        + _at(encoder.pair_knots, encoder.pair_ps, _most_in_a_step(limits, items, items.pairs))
        + encoder.launch_ps
    )


def _most_in_a_step(limits: EngineLimits, items: EncoderItems, column: I64) -> float:
    if limits.encoder_budget:
        return limits.encoder_budget * float((column / items.embeds).max())
    within = limits.max_num_batched_tokens * float((column / (items.end - items.start)).max())
    return within + float(column.max())


def _at(knots: I64, values: I64, point: float) -> float:
    slope = float(values[-1] - values[-2]) / float(knots[-1] - knots[-2])
    return max(float(values.max()), float(values[-1]) + slope * (point - float(knots[-1])))
