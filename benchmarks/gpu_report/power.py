"""Measured watts against the power model: as it is without joules, and as these rows would make it."""

import numpy as np

from benchmarks.gpu_report.markdown import table
from cluster_specs.cluster import ClusterSpec
from costmodel.families.all import OP_FAMILIES
from costmodel.families.rows import iter_row_ops
from costmodel.fitting.fit_power import fit_power
from costmodel.fitting.measurements import Measurements, read_measurements
from costmodel.ops.roofline import roofline
from costmodel.power_model import PowerModel
from profiles_db.store import Store


def watts(own: Store, cluster: ClusterSpec, before: PowerModel) -> str:
    """Say what each kind of kernel drew, what the model says, and which constants would change."""
    title = "## Measured watts against the power model\n\n"
    device = cluster.device.name
    measured = {
        name: read_measurements(own, family, device, None)
        for name, family in OP_FAMILIES.items()
        if own.read(name, device=device).num_rows
    }
    after, source = fit_power(measured, cluster)
    lines = [line for name, found in measured.items() for line in _lines(name, found, cluster, before, after)]
    if not lines:
        return title + "No row has joules: nothing is said of the model, and energy stays derived.\n\n"
    errors = np.array([line[-1] for line in lines])
    text = (
        f"**{len(lines)} rows with joules: the model in use is off by {np.median(np.abs(errors)):.1%} in the median,\n"
        f"by {np.max(np.abs(errors)):.1%} at most.** A fit to them: {source}. Model in use: {before.source}.\n\n"
    )
    head = ("op", "format", "kernel", "#us", "#measured, W", "#model in use, W", "#fitted to these, W", "#error")
    shown = table(head, [(*line[:-1], f"{line[-1]:+.1%}") for line in lines])
    return title + text + shown + (_constants(before, after) if after is not None else "")


def _lines(
    name: str, found: Measurements, cluster: ClusterSpec, before: PowerModel, after: PowerModel | None
) -> list[tuple[str | float, ...]]:
    lines: list[tuple[str | float, ...]] = []
    for columns in (found.columns, found.aside):
        if not columns:
            continue
        known = ~np.isnan(columns["power_w"].astype(np.float64))
        rows_of = {key: column[known] for key, column in columns.items()}
        for op, rows in iter_row_ops(OP_FAMILIES[name], rows_of, cluster):
            work = roofline(op, cluster)
            latency_s = rows_of["latency_s"].astype(np.float64)[rows]
            drawn = rows_of["power_w"].astype(np.float64)[rows]
            said = [
                None if model is None else model.op_energy_j(op, work, latency_s) / latency_s
                for model in (before, after)
            ]
            for index, row in enumerate(rows.tolist()):
                modelled = said[0]
                assert modelled is not None
                lines.append(
                    (
                        name,
                        str(rows_of["dtype"][row]),
                        str(rows_of["backend"][row]),
                        f"{latency_s[index] * 1e6:,.1f}",
                        f"{drawn[index]:.0f}",
                        f"{modelled[index]:.0f}",
                        "-" if said[1] is None else f"{said[1][index]:.0f}",
                        float(modelled[index] / drawn[index] - 1.0),
                    )
                )
    return lines


def _constants(before: PowerModel, after: PowerModel) -> str:
    """Table of the constants that a fit to these rows changes."""
    pairs = [
        ("awake power, W", before.awake_w, after.awake_w),
        *((f"J per FLOP, {name}", before.j_per_flop[name], after.j_per_flop[name]) for name in before.j_per_flop),
        ("J per byte of memory", before.j_per_byte, after.j_per_byte),
    ]
    lines = [(name, f"{old:.3g}", f"{new:.3g}", f"{new / old - 1:+.0%}") for name, old, new in pairs if new != old]
    return "Constants of the power model that would change:\n\n" + table(
        ("constant", "#now", "#then", "#change"), lines
    )
