"""Analytic constants of a device, calibrated from its measurements, each with its source and its error.

Efficiencies are medians of roofline over latency (launch floor taken off) where one side of the roofline dominates;
floors are what the smallest 2 % of calls take. A constant with too few rows behind it is left out, never guessed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from costmodel.analytic import sent_s
from costmodel.measurements import Measurements, read_measurements
from costmodel.ops import Collective
from costmodel.pricing import work_sides
from costmodel.row_ops import iter_row_ops
from profiles_db.store import Store

Array = NDArray[np.float64]

# An efficiency is learnt from calls this many floors long, bound by one side by this factor, at least so many.
_LARGE_CALL = 10.0
_DOMINANCE = 2.0
_FEWEST = 12
_FLOOR_QUANTILE = 0.02
# Share of the stated memory bandwidth that measured quantise kernels reach.
_QUANTISE_EFFICIENCY = 0.85
_COMPUTE: Final = 0
_MEMORY: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """One constant under ``[analytic]``; ``key`` is its place there."""

    key: str
    value: float
    source: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calls:
    latency_s: Array
    flop_s: Array
    bytes_s: Array
    source: str


def calibrate(store: Store, cluster: ClusterSpec, *, framework: str | None = None) -> list[Calibrated]:
    """Derive the constants; raises ``UserError`` when the measurements hold none of them."""
    found: list[Calibrated] = []
    device = cluster.device.name
    read = {name: read_measurements(store, name, device, framework) for name in ("gemm", "attention", "collective")}
    gemm_by_dtype = {
        str(dtype): _calls(read["gemm"], "gemm", read["gemm"].columns["dtype"].astype(np.str_) == dtype, cluster)
        for dtype in np.unique(read["gemm"].columns["dtype"].astype(np.str_))
    }
    if gemm_by_dtype:
        plain = next((gemm_by_dtype[name] for name in ("bf16", "fp16", "fp32") if name in gemm_by_dtype), None)
        if plain is not None:
            found += _floor("kernel_floor_s", plain, "GEMM")
            found += _efficiency("memory_efficiency", plain, _MEMORY, "weight-bound GEMM")
    known = {str(name) for name in cluster.device.peak_flop_per_s}
    for dtype, calls in gemm_by_dtype.items():
        if dtype in known:
            found += _efficiency(f"gemm_efficiency.{dtype}", calls, _COMPUTE, f"{dtype} GEMM")
    attention = read["attention"]
    plain_kv = attention.columns["kv_dtype"].astype(np.str_) != "fp8"
    phase = attention.columns["phase"].astype(np.str_)
    unwindowed = attention.columns["window"].astype(np.int64) == 0
    prefill = _calls(attention, "attention", (phase == "prefill") & plain_kv & unwindowed, cluster)
    decode = _calls(attention, "attention", (phase == "decode") & plain_kv & unwindowed, cluster)
    found += _efficiency("attention_efficiency", prefill, _COMPUTE, "prefill attention")
    found += _efficiency("decode_attention_efficiency", decode, _MEMORY, "decode attention")
    reduce = read["collective"].columns["kind"].astype(np.str_) == "all_reduce"
    innermost = read["collective"].columns["level"].astype(np.str_) == cluster.levels[0].name
    calls = _calls(read["collective"], "collective", reduce & innermost, cluster)
    found += _floor("collective_floor_s", calls, "all-reduce")
    found += _efficiency("link_efficiency", calls, _MEMORY, "all-reduce")
    if not found:
        raise UserError(
            f"{store.root}: no constant of device {device} can be calibrated from its rows",
            hint="import or measure GEMM, attention or collective rows of it",
        )
    return found


def _calls(found: Measurements, family: str, keep: NDArray[np.bool_], cluster: ClusterSpec) -> _Calls:
    columns = {name: column[keep] for name, column in found.columns.items()}
    count = int(np.count_nonzero(keep))
    flop_s, bytes_s = np.zeros(count), np.zeros(count)
    for op, rows in iter_row_ops(family, columns, cluster):
        flop_s[rows], bytes_s[rows] = (
            (0.0, sent_s(op, cluster)) if isinstance(op, Collective) else work_sides(op, cluster)
        )
    latency_s = columns["latency_s"].astype(np.float64)
    note = ""
    if family == "gemm" and columns["quantise"].any():
        # Two bytes read and one written per activation: an op of its own in a serving step.
        m, k = columns["m"].astype(np.float64), columns["k"].astype(np.float64)
        moved = 3.0 * m * k * columns["quantise"].astype(np.float64)
        latency_s = latency_s - moved / (_QUANTISE_EFFICIENCY * cluster.device.memory_bytes_per_s)
        note = ", less quantising the activations"
    origins = sorted(set(columns["origin"].astype(np.str_).tolist()))
    frameworks = sorted(set(columns["framework"].astype(np.str_).tolist()) - {""})
    return _Calls(
        latency_s=latency_s,
        flop_s=flop_s,
        bytes_s=bytes_s,
        source=", ".join([*origins, *frameworks]) + note,
    )


def _floor(key: str, calls: _Calls, what: str) -> list[Calibrated]:
    if len(calls.latency_s) < _FEWEST:
        return []
    low, middle, high = np.quantile(calls.latency_s, [_FLOOR_QUANTILE / 2, _FLOOR_QUANTILE, 2 * _FLOOR_QUANTILE])
    return [
        Calibrated(
            key=key,
            value=float(middle),
            source=f"fastest 2 % of {len(calls.latency_s)} {what} rows, {calls.source}",
            error=f"1 % to 4 % quantiles {low:.3g} to {high:.3g}",
        )
    ]


def _efficiency(key: str, calls: _Calls, side: int, what: str) -> list[Calibrated]:
    if len(calls.latency_s) < _FEWEST:
        return []
    sides = (calls.flop_s, calls.bytes_s)
    floor_s = np.quantile(calls.latency_s, _FLOOR_QUANTILE)
    bound = (calls.latency_s > _LARGE_CALL * floor_s) & (sides[side] > _DOMINANCE * sides[1 - side])
    if np.count_nonzero(bound) < _FEWEST:
        return []
    shares = sides[side][bound] / (calls.latency_s[bound] - floor_s)
    low, middle, high = np.quantile(shares, [0.1, 0.5, 0.9])
    return [
        Calibrated(
            key=key,
            value=float(min(middle, 1.0)),
            source=f"median of {np.count_nonzero(bound)} large {what} rows, {calls.source}",
            error=f"80 % of rows lie in {low:.2f} to {high:.2f}",
        )
    ]


def constants_toml(constants: Iterable[Calibrated]) -> str:
    """Lines for a device's TOML, sub-tables last."""
    plain: list[str] = []
    nested: list[str] = []
    for constant in constants:
        name = constant.key.rpartition(".")[2]
        line = f'{name} = {{ value = {constant.value:.3g}, source = "{constant.source}", error = "{constant.error}" }}'
        (nested if "." in constant.key else plain).append(line)
    tables = ["[analytic]", *plain]
    if nested:
        tables += ["", "[analytic.gemm_efficiency]", *nested]
    return "\n".join(tables) + "\n"
