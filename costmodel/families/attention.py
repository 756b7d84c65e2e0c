"""Attention: whole prompts and equal decodes are measured over (sequences, length), all other calls derived from them.

Chunks behind a prefix, mixed calls and unequal lengths have no place among the knots: `attention_prices` derives them,
and where they were measured, each kind is corrected by the median ratio of measured to derived time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from costmodel.families.attention_prices import AttentionPrices
from costmodel.families.family import Columns, Cut, KnotRows, OpFamily, op_from
from costmodel.families.lending import nearest
from costmodel.families.rows import iter_row_ops, numbers, taken, texts, timed_calls
from costmodel.fitted.calibration import COMPUTE, MEMORY, Calibrated, efficiency
from costmodel.fitted.held_out import conformal_half_width
from costmodel.fitted.knots import Derived, FamilyKnots
from costmodel.ops.arrays import Array
from costmodel.ops.label import Label, joined
from costmodel.ops.op_types import Attention
from costmodel.power_model import PowerModel
from costmodel.pricing.domain import OutOfDomain
from costmodel.pricing.price_points import Pricing

if TYPE_CHECKING:
    from cluster_specs.cluster import ClusterSpec


_FEATURES = ("num_heads", "num_kv_heads", "head_dim", "v_head_dim", "window")
FEWEST_DERIVED_ROWS = 6
# Mixed calls may hold chunks and unequal lengths: their correction comes on top of those.
KINDS = ("prefix", "unequal", "several", "mixed")


def _usable(columns: Columns, cluster: ClusterSpec) -> NDArray[np.bool_]:  # noqa: ARG001 - one signature for all families
    """Whole prompts and one-token decodes of equal lengths."""
    phase = texts(columns, "phase")
    whole = (phase == "prefill") & (columns["prefill_q"] == columns["prefill_kv"])
    plain = (columns["decode_q"] == 1) & (columns["decode_kv"] == columns["decode_kv_max"])
    return np.asarray(whole | ((phase == "decode") & plain))


def _knot_rows(columns: Columns, cluster: ClusterSpec) -> KnotRows:  # noqa: ARG001
    phase = texts(columns, "phase")
    is_prefill = phase == "prefill"
    return KnotRows(
        columns=columns,
        label=joined(phase, texts(columns, "variant"), texts(columns, "dtype"), texts(columns, "kv_dtype")),
        shape=np.column_stack([numbers(columns, name) for name in _FEATURES]),
        x=np.where(is_prefill, numbers(columns, "num_prefill"), numbers(columns, "num_decode")),
        y=np.where(is_prefill, numbers(columns, "prefill_q"), numbers(columns, "decode_kv")),
    )


def _running(label: Label, x: Array, y: Array) -> dict[str, Any]:
    """Whole prompts or one-token decodes: ``x`` sequences of length ``y``."""
    if label.parts[0] == "prefill":
        return {"num_prefill": x, "prefill_q": y, "prefill_kv": y}
    return {"num_decode": x, "decode_kv": y, "decode_kv_max": y}


def _efficiency(label: Label, cluster: ClusterSpec) -> tuple[float, float]:
    constants = cluster.device.analytic
    is_decode = label.parts[0] == "decode"
    memory = constants.decode_attention_efficiency if is_decode else constants.memory_efficiency
    return constants.attention_efficiency.value, memory.value


def _lend(measured: Array, shape: Array) -> tuple[NDArray[np.int64], Array]:
    """Heads matter by their number and by how many share a KV head; a window matters by whether it is there."""
    heads, kv_heads, head_dim, window = (np.log2(np.maximum(measured[:, i], 1.0)) for i in (0, 1, 2, 4))
    wanted = np.log2(np.maximum(shape, 1.0))
    distance = np.abs(heads - wanted[0]) + 0.5 * np.abs((heads - kv_heads) - (wanted[0] - wanted[1]))
    distance += 2.0 * np.abs(head_dim - wanted[2])
    has_window = measured[:, 4] > 0
    distance += np.where(has_window == (shape[4] > 0), np.where(has_window, np.abs(window - wanted[4]), 0.0), 8.0)
    return nearest(distance)


def _blocks(shape: Array, sequences: Array) -> Array:
    """(sequence, head) pairs, (sequence, KV head) pairs, and heads to a KV head."""
    heads, kv_heads = shape[:, 0], np.maximum(shape[:, 1], 1.0)
    return np.column_stack([sequences * heads, sequences * kv_heads, heads / kv_heads])


def kind_of_rows(columns: Columns) -> NDArray[np.str_]:
    """Name the derived kind of each attention row; the first that applies, mixed calls before all."""
    prefill, decode = columns["num_prefill"].astype(np.int64) > 0, columns["num_decode"].astype(np.int64) > 0
    conditions = [
        prefill & decode,
        decode & (columns["decode_q"].astype(np.int64) > 1),
        decode & (columns["decode_kv_max"].astype(np.int64) > columns["decode_kv"].astype(np.int64)),
    ]
    return np.select(conditions, ["mixed", "several", "unequal"], "prefix").astype(np.str_)


def with_derived(family: OpFamily, knots: FamilyKnots, columns: Columns, cluster: ClusterSpec) -> FamilyKnots:
    """Correct each kind by its unlocked rows; kinds with too few rows stay as derived."""
    unlocked = np.isnan(columns["clock_mhz"].astype(np.float64))
    kinds = kind_of_rows(columns)
    for kind in KINDS:
        own = unlocked & (kinds == kind)
        if np.count_nonzero(own) < FEWEST_DERIVED_ROWS:
            continue
        part = taken(columns, own)
        error = _log_ratios(family, knots, part, cluster)
        error = error[~np.isnan(error)]
        if len(error) < FEWEST_DERIVED_ROWS:
            continue
        middle = float(np.median(error))
        found = Derived(
            factor=float(np.exp(middle)), log_half_width=conformal_half_width(error - middle), points=len(error)
        )
        knots = replace(knots, derived=knots.derived | {kind: found})
    return knots


def _log_ratios(family: OpFamily, knots: FamilyKnots, columns: Columns, cluster: ClusterSpec) -> NDArray[np.float64]:
    """ln(measured / derived) of each row; NaN where the knots have no price."""
    pricing = Pricing(
        cluster=cluster,
        clock_mhz=None,
        measured_mhz=cluster.device.clock.max_mhz,
        policy=OutOfDomain.ROOFLINE,
        power=PowerModel.from_device(cluster.device),
    )
    prices = family.prices(family, knots, pricing)
    latency_s = columns["latency_s"].astype(np.float64)
    ratio = np.full(len(latency_s), np.nan)
    for op, rows in iter_row_ops(family, columns, cluster):
        found = prices.predict(op)
        if found is not None:
            ratio[rows] = np.log(latency_s[rows] / found.latency_s)
    return ratio


def _calibrate(family: OpFamily, columns: Columns, cluster: ClusterSpec) -> Iterator[Calibrated]:
    phase = texts(columns, "phase")
    plain = (texts(columns, "kv_dtype") != "fp8") & (columns["window"].astype(np.int64) == 0)
    for name, key, side in (
        ("prefill", "attention_efficiency", COMPUTE),
        ("decode", "decode_attention_efficiency", MEMORY),
    ):
        calls = timed_calls(family, taken(columns, (phase == name) & plain), cluster)
        yield from efficiency(key, calls, side, f"{name} attention")


def _cut(label: Label) -> Cut:
    """Prefill is drawn along the length, decode along the number of sequences."""
    is_prefill = label.parts[0] == "prefill"
    return Cut(is_along_y=is_prefill, held_unit="sequence(s)" if is_prefill else "tokens of context")


ATTENTION: Final = OpFamily(
    name="attention",
    op=Attention,
    alternatives=("phase", "variant", "dtype", "kv_dtype"),
    kernel_choice=("variant", "dtype", "kv_dtype"),
    fixed=("variant", "dtype", "kv_dtype", "window", "head_dim", "v_head_dim", "num_heads", "num_kv_heads"),
    op_of=lambda sizes, _cluster: op_from(Attention, sizes),
    usable=_usable,
    not_usable="chunks, mixed calls and unequal lengths correct what is derived for them",
    label_parts=("phase", "variant", "dtype", "kv_dtype"),
    features=_FEATURES,
    knot_rows=_knot_rows,
    running=_running,
    efficiency=_efficiency,
    lend=_lend,
    apart=(0, 1),
    blocks=_blocks,
    with_derived=with_derived,
    calibrate=_calibrate,
    prices=AttentionPrices,
    size_name=lambda label: "prompt length [tokens]" if label.parts[0] == "prefill" else "sequences",
    cut=_cut,
)
