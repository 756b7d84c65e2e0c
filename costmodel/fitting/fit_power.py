"""The power equation's constants from measured joules: non-negative least squares on watts.

P - P_idle = (P_awake - P_idle) a(clock) + v(clock) (sum over formats of e_flop flop/s + e_byte B/s)
           + (1 - v(clock)) e_dram B/s + e_link B/s

over calls that stay below the power limit; idle power is the spec's, e_dram a constant. Runs in ``apex fit`` only.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from costmodel.families.all import OP_FAMILIES
from costmodel.families.rows import iter_row_ops
from costmodel.fitting.measurements import Measurements
from costmodel.ops.arrays import Array
from costmodel.ops.op_types import Collective
from costmodel.ops.roofline import compute_dtype, roofline
from costmodel.pricing.power_model import PowerModel

FEWEST_ENERGY_ROWS = 12
# Above this share of TDP the limit, not the work, decides.
_BELOW_LIMIT = 0.97
_FOLDS = 5


def fit_power(measured: Mapping[str, Measurements], cluster: ClusterSpec) -> tuple[PowerModel | None, str]:
    """Fit the constants where joules were measured; the sentence says on how many rows, or why not."""
    prior = PowerModel.from_device(cluster.device)
    rates, watts, clocks, ops, formats = _rates(measured, cluster)
    usable = watts < _BELOW_LIMIT * prior.tdp_w
    if np.count_nonzero(usable) < FEWEST_ENERGY_ROWS:
        have = int(np.count_nonzero(usable))
        return None, f"{have} rows with joules below the power limit, {FEWEST_ENERGY_ROWS} needed: energy is derived"
    locked = [None if np.isnan(clock) else float(clock) for clock in clocks]
    voltage = np.array([prior.voltage_factor(clock) for clock in locked])
    awake = np.array([prior.awake_factor(clock) for clock in locked])
    # Columns: awake, one per format, memory bytes, link bytes; the link is not scaled by the core's voltage.
    scale = np.column_stack([awake, *[voltage] * (rates.shape[1] - 2), np.ones_like(voltage)])
    design = (rates * scale)[usable]
    known_w = (prior.idle_w + (1.0 - voltage) * prior.dram_j_per_byte * rates[:, -2])[usable]
    constants = non_negative_least_squares(design, watts[usable] - known_w)
    error = _held_out(design, watts[usable], known_w, ops[usable])
    per_flop = {
        name: float(value) for name, value in zip(formats, constants[1 : 1 + len(formats)], strict=True) if value > 0
    }
    told = "of one op: no error" if error is None else f"held-out median error of power {error:.1%}"
    source = f"measured: {len(design)} rows with joules, {told}"
    fitted = replace(
        prior,
        awake_w=prior.idle_w + float(constants[0]),
        j_per_flop=prior.j_per_flop | per_flop,
        j_per_byte=float(constants[-2]) or prior.j_per_byte,
        j_per_link_byte=float(constants[-1]) or prior.j_per_link_byte,
        source=source,
    )
    return fitted, source


def _rates(
    measured: Mapping[str, Measurements], cluster: ClusterSpec
) -> tuple[Array, Array, Array, NDArray[np.int64], tuple[str, ...]]:
    """Work per second of every row with joules: [rows, awake | formats | memory | link], its watts, clock and op."""
    parts: list[tuple[str, Array, Array, Array, Array, Array]] = []
    # Power follows from work and time: whose kernel it is does not matter.
    sources = [(name, rows) for name, found in measured.items() for rows in (found.columns, found.aside) if rows]
    for family, every in sources:
        known = ~np.isnan(every["energy_j"].astype(np.float64))
        columns = {name: column[known] for name, column in every.items()}
        for op, rows in iter_row_ops(OP_FAMILIES[family], columns, cluster):
            work = roofline(op, cluster)
            latency_s = columns["latency_s"].astype(np.float64)[rows]
            is_link = isinstance(op, Collective)
            moved = work.bytes / latency_s
            parts.append(
                (
                    compute_dtype(op),
                    np.broadcast_to(work.flop, latency_s.shape) / latency_s,
                    np.zeros_like(latency_s) if is_link else moved,
                    moved if is_link else np.zeros_like(latency_s),
                    columns["energy_j"].astype(np.float64)[rows] / latency_s,
                    columns["clock_mhz"].astype(np.float64)[rows],
                )
            )
    formats = tuple(sorted({part[0] for part in parts}))
    if not parts:
        return np.zeros((0, 3)), np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64), ()
    flop = [
        np.concatenate([part[1] if part[0] == name else np.zeros_like(part[1]) for part in parts]) for name in formats
    ]
    memory, link, watts, clock = (np.concatenate([part[index] for part in parts]) for index in (2, 3, 4, 5))
    ops = np.repeat(np.arange(len(parts)), [len(part[1]) for part in parts])
    return np.column_stack([np.ones_like(watts), *flop, memory, link]), watts, clock, ops, formats


def non_negative_least_squares(design: Array, target: Array) -> Array:
    """Least squares over ``design`` [rows, constants] with constants that cannot be negative.

    The optimum (Lawson and Hanson's active set), on columns scaled to 1: they differ by 20 orders of magnitude.
    """
    from scipy.optimize import nnls

    size = np.abs(design).max(axis=0)
    size[size == 0] = 1.0
    return np.asarray(nnls(design / size, target)[0] / size, dtype=np.float64)


def _held_out(design: Array, watts: Array, known_w: Array, ops: NDArray[np.int64]) -> float | None:
    """Median relative error of power over folds that leave whole ops out; None where there is but one.

    Rows of one op differ in size or clock alone: one of them left out would be told by the others.
    """
    from sklearn.model_selection import GroupKFold

    folds = min(_FOLDS, len(np.unique(ops)))
    if folds < 2:
        return None
    errors = []
    for kept, asked in GroupKFold(folds).split(design, groups=ops):
        constants = non_negative_least_squares(design[kept], watts[kept] - known_w[kept])
        errors.append(np.abs((known_w[asked] + design[asked] @ constants) / watts[asked] - 1.0))
    return float(np.median(np.concatenate(errors)))
