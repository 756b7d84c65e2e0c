"""Imports the profile tables of ``apex_plus`` (``profile/comp/<GPU>/*.csv`` and ``profile/comm/<GPU>/*.csv``).

Times are whole microseconds; collective sizes are KiB of the full array (nccl-tests' S), rounded down; its GEMM is
C[m, n] = W[m, k] X[k, n], so *its* n is the token count and its m our n. The number in a computation table's file name
is the locked clock in MHz, 0 for unlocked.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from profiles_db.importers.counting import Sieve, TableCount
from profiles_db.importers.csv_files import COUNT, NUMBER, TEXT, csv_files, read_csv
from profiles_db.importers.delivery import deliver, record_run
from profiles_db.importers.device_names import NETWORK, device_name, node_level
from profiles_db.importers.rows import family_rows
from profiles_db.outliers import slower_than_larger
from profiles_db.store import Store

US: Final = 1e-6
UJ: Final = 1e-6
KIB: Final = 1024

ORIGIN: Final = "imported:apex_plus"

_DTYPES: Final = {
    "half": "fp16",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float": "fp32",
    "float32": "fp32",
    "float8": "fp8",
    "int8": "int8",
}
_KINDS: Final = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
    "sendrecv": "send_recv",
}
_SIZES: Final[Mapping[str, Mapping[str, pa.DataType]]] = {
    "gemm": {"m": COUNT, "k": COUNT, "n": COUNT},
    "attention": {"num_heads": COUNT, "head_size": COUNT, "batch_size": COUNT, "seq_len": COUNT},
    "collective": {"num_nodes": COUNT, "num_gpus_per_node": COUNT, "size(kb)": NUMBER},
}
_SENSORS: Final = {"avg_power(W)": NUMBER, "avg_energy(uJ)": NUMBER, "graph_clk_freq": NUMBER}
_NOTE: Final = "timed to whole microseconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """One CSV file: the family it maps to and what its name says."""

    family: str | None
    kind: str
    clock_mhz: float | None
    reason: str = ""


def import_apex_plus(
    root: Path, store: Store, *, device: str | None = None, include_unfit: bool = False
) -> list[TableCount]:
    """Import one CSV file or every one under ``root``; ``device`` overrides the ``gpu`` column's name."""
    started = datetime.now(UTC)
    counts = []
    recorded: set[str] = set()
    for path in csv_files(root):
        foreign = read_csv(path, {"gpu": TEXT})
        named = foreign["gpu"].unique().to_pylist()
        if len(named) > 1 and device is None:
            raise UserError(f"{path}: column 'gpu' names {len(named)} devices", hint="split the file, or use --device")
        if not named:
            counts.append(TableCount(table=str(path), family=None, rows_in=0, kept=0, dropped={}))
            continue
        chosen = device or device_name(str(named[0]), path)
        run_id = f"apex_plus-{chosen}"
        if run_id not in recorded:
            recorded.add(run_id)
            run = {"run_id": run_id, "device": chosen, "origin": ORIGIN, "world_size": 1}
            record_run(store, {**run, "tool_version": "apex_plus profile tables"}, started)
        counts.append(_import_file(path, foreign, store, chosen, run_id, include_unfit=include_unfit))
    return counts


def _describe(path: Path, columns: list[str]) -> _Table:
    names = set(columns)
    clock = re.fullmatch(r"(\w+?)_(\d+)", path.stem)
    clock_mhz = float(clock.group(2)) or None if clock else None
    if {"size(kb)", "num_nodes", "num_gpus_per_node"} <= names:
        if path.stem not in _KINDS:
            raise UserError(f"{path}: the file name must be one of {', '.join(_KINDS)}")
        return _Table(family="collective", kind=_KINDS[path.stem], clock_mhz=None)
    if {"m", "k", "n"} <= names:
        return _Table(family="gemm", kind="gemm", clock_mhz=clock_mhz)
    if {"num_heads", "head_size", "batch_size", "seq_len"} <= names:
        if path.stem.startswith("bi"):
            reason = "attention without a causal mask has no columns in the schema"
            return _Table(family=None, kind="bimha", clock_mhz=clock_mhz, reason=reason)
        return _Table(family="attention", kind="mha", clock_mhz=clock_mhz)
    raise UserError(f"{path}: not a table of apex_plus", hint=f"columns found: {', '.join(columns)}")


def _import_file(
    path: Path, foreign: pa.Table, store: Store, device: str, run_id: str, *, include_unfit: bool
) -> TableCount:
    described = _describe(path, foreign.column_names)
    if described.family is None:
        dropped = {described.reason: foreign.num_rows}
        return TableCount(table=str(path), family=None, rows_in=foreign.num_rows, kept=0, dropped=dropped)
    sieve = Sieve(read_csv(path, {**_SIZES[described.family], "dtype": TEXT, "time(us)": NUMBER}, _SENSORS))
    sieve.drop_unfit_latency("time(us)")
    sieve.drop_unknown_formats("dtype", _DTYPES)
    sizes = [name for name, kind in _SIZES[described.family].items() if kind == COUNT]
    sieve.drop_unfit_sizes(*sizes)
    if described.family == "gemm":
        columns = _gemm(sieve)
    elif described.family == "attention":
        columns = _attention(sieve)
    else:
        columns = {"kind": described.kind, **_collective(sieve, device)}
    rows = family_rows(
        described.family,
        sieve.table.num_rows,
        {
            **columns,
            **_sensors(sieve),
            "dtype": pa.array([_DTYPES[str(value)] for value in sieve.column("dtype").to_pylist()], pa.string()),
            "latency_s": pc.multiply(sieve.column("time(us)"), US),
            "device": device,
            "backend": "nccl" if described.family == "collective" else "apex_plus",
            "clock_mhz": described.clock_mhz,
            "launch": "eager",
            "cache": "hot",
            "origin": ORIGIN,
            "run_id": run_id,
            "note": _NOTE,
        },
    )
    rows = _without_outliers(rows, described.family, sieve, include_unfit=include_unfit)
    return deliver(store, rows, sieve, label=str(path), family=described.family, run_id=run_id)


def _without_outliers(rows: pa.Table, family: str, sieve: Sieve, *, include_unfit: bool) -> pa.Table:
    """Drop, or label, points that take twice as long as a larger one of their curve."""
    outliers = slower_than_larger(rows, family)
    if not outliers.any():
        return rows
    if include_unfit:
        note = pc.if_else(pa.array(outliers), f"{_NOTE}; suspect: over twice a larger point's time", _NOTE)
        return rows.set_column(rows.schema.get_field_index("note"), rows.schema.field("note"), note)
    sieve.dropped["over twice the time of a larger point"] += int(outliers.sum())
    return rows.filter(pa.array(~outliers))


def _gemm(sieve: Sieve) -> dict[str, Any]:
    """Swap the names: tokens are n there, m here."""
    renamed = {"m": sieve.column("n"), "n": sieve.column("m"), "k": sieve.column("k")}
    return {**renamed, "scaling": "none", "quantise": False}


def _attention(sieve: Sieve) -> dict[str, Any]:
    """Map square causal self-attention: every query sees the tokens before it in its own sequence."""
    length, heads, head_dim = (sieve.column(name) for name in ("seq_len", "num_heads", "head_size"))
    dtype = [_DTYPES[str(value)] for value in sieve.column("dtype").to_pylist()]
    return {
        "phase": "prefill",
        "variant": "gqa",
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": head_dim,
        "v_head_dim": head_dim,
        "window": 0,
        "kv_dtype": pa.array(dtype, pa.string()),
        "num_prefill": sieve.column("batch_size"),
        "prefill_q": length,
        "prefill_kv": length,
        "num_decode": 0,
        "decode_q": 1,
        "decode_kv": 0,
        "decode_kv_max": 0,
    }


def _collective(sieve: Sieve, device: str) -> dict[str, Any]:
    """Map one collective's rows; sizes below 1 KiB were rounded to zero and say nothing."""
    sieve.drop(pc.equal(sieve.column("size(kb)"), 0), "message size rounded to 0 KiB")
    nodes = sieve.column("num_nodes").to_numpy()
    return {
        "ranks": nodes * sieve.column("num_gpus_per_node").to_numpy(),
        "nodes": nodes,
        "level": pa.array(np.where(nodes > 1, NETWORK, node_level(device)).tolist(), pa.string()),
        "message_bytes": pc.cast(pc.multiply(sieve.column("size(kb)"), KIB), pa.int64()),
    }


def _sensors(sieve: Sieve) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    if "avg_power(W)" in sieve.table.column_names:
        columns["power_w"] = sieve.column("avg_power(W)")
    if "avg_energy(uJ)" in sieve.table.column_names:
        columns["energy_j"] = pc.multiply(sieve.column("avg_energy(uJ)"), UJ)
    if "graph_clk_freq" in sieve.table.column_names:
        columns["sm_clock_mhz"] = sieve.column("graph_clk_freq")
    return columns
