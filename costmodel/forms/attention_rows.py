"""Attention rows as input of a fit: whole prompts and equal decodes over (sequences, length).

Chunks behind a prefix, mixed calls and unequal lengths have no place here: they are derived (`attention`) and corrected
(`fit_derived`).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from costmodel.build_knots import MeasuredRows
from costmodel.forms.columns import measured_rows, numbers, texts
from costmodel.label import Label, joined
from costmodel.shape_ops import row_sides

Array = NDArray[np.float64]

FEATURES = ("num_heads", "num_kv_heads", "head_dim", "v_head_dim", "window")


def rows_of(columns: Mapping[str, NDArray[np.generic]], cluster: ClusterSpec) -> MeasuredRows:
    """Turn attention rows into knots' input; ``usable`` says which rows have a place."""
    keep = usable(columns)
    columns = {name: column[keep] for name, column in columns.items()}
    phase, variant = texts(columns, "phase"), texts(columns, "variant")
    dtype, kv_dtype = texts(columns, "dtype"), texts(columns, "kv_dtype")
    is_prefill = phase == "prefill"
    x = np.where(is_prefill, numbers(columns, "num_prefill"), numbers(columns, "num_decode"))
    y = np.where(is_prefill, numbers(columns, "prefill_q"), numbers(columns, "decode_kv"))
    shape = np.column_stack([numbers(columns, name) for name in FEATURES])
    label = joined(phase, variant, dtype, kv_dtype)
    constants = cluster.device.analytic
    compute = constants.attention_efficiency.value
    memory = {
        "prefill": constants.memory_efficiency.value,
        "decode": constants.decode_attention_efficiency.value,
    }
    efficiency = {name: (compute, memory[Label.parse(name).parts[0]]) for name in np.unique(label).tolist()}
    return measured_rows(
        "attention",
        FEATURES,
        columns,
        label=label,
        shape=shape,
        x=x,
        y=y,
        sides=row_sides("attention", label, shape, x, y, cluster=cluster),
        efficiency=efficiency,
    )


def usable(columns: Mapping[str, NDArray[np.generic]]) -> NDArray[np.bool_]:
    """Whole prompts and one-token decodes of equal lengths; chunks, mixed calls and skew are derived from those."""
    phase = texts(columns, "phase")
    whole = (phase == "prefill") & (columns["prefill_q"] == columns["prefill_kv"])
    plain = (columns["decode_q"] == 1) & (columns["decode_kv"] == columns["decode_kv_max"])
    return np.asarray(whole | ((phase == "decode") & plain))
