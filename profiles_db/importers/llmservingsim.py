"""Imports LLMServingSim's profile tables: those of vLLM layers (``profiler/perf``) and its older ones (``v0``).

Newer tables hold microseconds of CUDA kernels, summed per module of a whole forward pass of one layer in vLLM;
``kv_decode`` and ``kv_prefill`` are tokens of history. Older ones hold nanoseconds of modules of transformers in fp16,
and milliseconds of flash-attn calls whose ``kv_cache_size`` is the sum over a batch.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from profiles_db.importers.counting import Sieve, TableCount
from profiles_db.importers.csv_files import COUNT, NUMBER, TEXT, csv_files, read_csv
from profiles_db.importers.delivery import deliver, record_run
from profiles_db.importers.llmservingsim_bundle import Bundle, bundle_of
from profiles_db.importers.llmservingsim_shapes import op_of
from profiles_db.importers.rows import family_rows
from profiles_db.outliers import slower_than_larger
from profiles_db.store import Store

US: Final = 1e-6
NS: Final = 1e-9
MS: Final = 1e-3

ORIGIN: Final = "imported:llmservingsim"

Ints = NDArray[np.int64]
Columns = dict[str, Any]

_UNREAD: Final = {"skew": "decodes of unequal length, of which the table keeps a summary"}
_TABLES: Final = ("dense", "per_sequence", "attention", "moe", "layers")


def import_llmservingsim(
    root: Path, store: Store, *, device: str | None = None, config: Path | None = None
) -> list[TableCount]:
    """Import one table or every one under ``root``; ``device`` and ``config`` stand in for what the folders say."""
    started = datetime.now(UTC)
    counts: list[TableCount] = []
    recorded: set[str] = set()
    tables = [path for path in csv_files(root) if re.fullmatch(r"tp\d{1,4}", path.resolve().parent.name)]
    if not tables:
        raise UserError(
            f"{root}: no table in a folder tp<N>", hint="give LLMServingSim's profiler folder, or a part of it"
        )
    for path in tables:
        if path.stem not in _TABLES:
            counts.append(_skipped(path, _UNREAD.get(path.stem, "derived from other tables, not measured")))
            continue
        reason, bundle = bundle_of(path, device, config)
        if bundle is None:
            counts.append(_skipped(path, reason))
            continue
        if bundle.run_id not in recorded:
            recorded.add(bundle.run_id)
            run = {"run_id": bundle.run_id, "device": bundle.device, "origin": ORIGIN, "world_size": 1}
            version = bundle.framework.partition("-")[2] if bundle.framework else None
            record_run(store, {**run, "vllm_version": version, "tool_version": "LLMServingSim profile tables"}, started)
        counts += _import_table(path, bundle, store)
    return counts


def _skipped(path: Path, reason: str) -> TableCount:
    rows = read_csv(path, {}).num_rows
    return TableCount(table=str(path), family=None, rows_in=rows, kept=0, dropped={reason: rows} if rows else {})


def _import_table(path: Path, bundle: Bundle, store: Store) -> list[TableCount]:
    match path.stem:
        case "dense":
            return _import_layers(path, bundle, store, {"layer": TEXT, "tokens": COUNT, "time_us": NUMBER}, US)
        case "per_sequence":
            return _import_layers(path, bundle, store, {"layer": TEXT, "sequences": COUNT, "time_us": NUMBER}, US)
        case "layers":
            keys = {"layer_name": TEXT, "input": COUNT, "latency(ns)": NUMBER}
            return _import_layers(path, bundle, store, keys, NS)
        case "moe":
            return [_import_experts(path, bundle, store)]
    names = read_csv(path, {}).column_names
    return [_import_calls(path, bundle, store) if "kv_prefill" in names else _import_older_calls(path, bundle, store)]


def _import_layers(
    path: Path, bundle: Bundle, store: Store, keys: Mapping[str, pa.DataType], unit_s: float
) -> list[TableCount]:
    """Import a table of modules over tokens; ``keys`` are the columns of module, tokens and time."""
    name, tokens, time = keys
    table = read_csv(path, keys)
    counts = []
    for layer in table[name].unique().to_pylist():
        is_own = pc.is_null(table[name]) if layer is None else pc.equal(table[name], layer)
        own = Sieve(table.filter(is_own))
        label = f"{path}:{layer}"
        mapped = op_of(str(layer), bundle)
        if isinstance(mapped, str):
            rows_in = own.table.num_rows
            counts.append(TableCount(table=label, family=None, rows_in=rows_in, kept=0, dropped={mapped: rows_in}))
            continue
        own.drop_unfit_latency(time)
        own.drop_unfit_sizes(tokens)
        family, columns = mapped
        rows: Ints = own.column(tokens).to_numpy()
        sized = {"m": rows} if family == "gemm" else {"rows": rows, "io_bytes": rows * columns.pop("row_bytes")}
        counts.append(_deliver(store, bundle, own, (time, unit_s), (family, {**columns, **sized}), label=label))
    return counts


def _import_calls(path: Path, bundle: Bundle, store: Store) -> TableCount:
    """Map attention calls of vLLM: one chunk behind a history, and decodes of equal length, either of them absent."""
    names = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
    sieve = Sieve(read_csv(path, {**dict.fromkeys(names, COUNT), "time_us": NUMBER}))
    sieve.drop_unfit_latency("time_us")
    sieve.drop_unfit_sizes(*names, least=0)
    chunk, history, decodes, seen = (sieve.column(name).to_numpy() for name in names)
    sieve.drop((chunk == 0) & (decodes == 0), "call of 0 tokens")
    chunk, history, decodes, seen = (sieve.column(name).to_numpy() for name in names)
    lengths = np.where(decodes > 0, seen + 1, 0)
    columns = {
        "num_prefill": np.minimum(chunk, 1),
        "prefill_q": chunk,
        "prefill_kv": np.where(chunk > 0, chunk + history, 0),
        "num_decode": decodes,
        "decode_kv": lengths,
        "backend": "vllm.attention",
    }
    return _deliver(store, bundle, sieve, ("time_us", US), ("attention", _attention(columns, bundle)), label=path)


def _import_older_calls(path: Path, bundle: Bundle, store: Store) -> TableCount:
    """Map flash-attn prefills on keys that lie one after the other; its decodes run the kernel made for prompts."""
    names = ("num_tensor_parallel_workers", "batch_size", "prefill_chunk_size", "kv_cache_size")
    times = {f"time_stats.attn_{phase}.median": NUMBER for phase in ("prefill", "decode")}
    sieve = Sieve(read_csv(path, {**dict.fromkeys(names, COUNT), **times}))
    sieve.drop_unfit_sizes("num_tensor_parallel_workers", "batch_size", "kv_cache_size")
    sieve.drop_unfit_sizes("prefill_chunk_size", least=0)
    sieve.drop(
        pc.equal(sieve.column("prefill_chunk_size"), 0), "decode without a split of the keys, as no engine runs it"
    )
    prefill, _ = times
    sieve.drop_unfit_latency(prefill)
    sieve.drop(pc.not_equal(sieve.column(names[0]), bundle.ranks), "ranks of another folder")
    sieve.drop(pc.not_equal(sieve.column("batch_size"), 1), "several prompts")
    sieve.drop(pc.greater(sieve.column(names[2]), sieve.column(names[3])), "chunk longer than what it sees")
    chunk, seen = (sieve.column(name).to_numpy() for name in names[2:])
    none = np.zeros_like(chunk)
    columns = {
        "num_prefill": none + 1,
        "prefill_q": chunk,
        "prefill_kv": seen,
        "num_decode": none,
        "decode_kv": none,
        "backend": "flash_attn.varlen",
    }
    return _deliver(store, bundle, sieve, (prefill, MS), ("attention", _attention(columns, bundle)), label=path)


def _attention(columns: Columns, bundle: Bundle) -> Columns:
    heads, kv_heads = bundle.heads
    has_both = np.minimum(columns["num_prefill"], columns["num_decode"]) > 0
    phase = np.where(has_both, "mixed", np.where(columns["num_prefill"] > 0, "prefill", "decode"))
    return {
        **columns,
        "phase": pa.array(phase.tolist(), pa.string()),
        "variant": "gqa",
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": bundle.sizes.head_dim,
        "v_head_dim": bundle.sizes.head_dim,
        "window": 0,
        "kv_dtype": bundle.kv_dtype,
        "decode_q": 1,
        "decode_kv_max": columns["decode_kv"],
    }


def _import_experts(path: Path, bundle: Bundle, store: Store) -> TableCount:
    """Map expert blocks that reach as many experts as balanced routing does; fewer have no column to be stated in."""
    sizes = bundle.sizes
    sieve = Sieve(read_csv(path, {"tokens": COUNT, "activated_experts": COUNT, "time_us": NUMBER}))
    sieve.drop_unfit_latency("time_us")
    sieve.drop_unfit_sizes("tokens", "activated_experts")
    if not sizes.experts or not sizes.topk:
        raise UserError(
            f"{path}: the model's config states no experts", hint="name the right config.json with --config"
        )
    tokens, reached = (sieve.column(name).to_numpy() for name in ("tokens", "activated_experts"))
    sieve.drop(reached != np.minimum(tokens * sizes.topk, sizes.experts), "fewer experts than balanced routing reaches")
    columns = {
        "num_tokens": sieve.column("tokens").to_numpy(),
        "hidden": sizes.hidden,
        "inter": sizes.expert_inter,
        "num_experts": sizes.experts,
        "topk": sizes.topk,
        "tp": 1,
        "ep": 1,
        "routing": "balanced",
        "backend": "vllm.fused_moe",
    }
    sieve.notes.append("the router's gate is part of the time")
    return _deliver(store, bundle, sieve, ("time_us", US), ("moe", columns), label=path)


def _deliver(
    store: Store,
    bundle: Bundle,
    sieve: Sieve,
    time: tuple[str, float],
    mapped: tuple[str, Columns],
    *,
    label: str | Path,
) -> TableCount:
    """Store the rows left in ``sieve``; ``time`` is the column of times and its unit in seconds."""
    family, columns = mapped
    fixed = {
        "device": bundle.device,
        "dtype": bundle.dtype,
        "latency_s": pc.multiply(sieve.column(time[0]), time[1]),
        # Sums of kernel times: what launches them is not in it.
        "launch": "eager",
        # A whole layer runs between two calls: its weights are cold, its activations hot.
        "cache": "hot" if family == "elementwise" else "cold",
        "origin": ORIGIN,
        "run_id": bundle.run_id,
        "framework": bundle.framework,
    }
    rows = family_rows(family, sieve.table.num_rows, {**fixed, **columns})
    outliers = slower_than_larger(rows, family)
    if outliers.any():
        sieve.dropped["over twice the time of a larger point"] += int(outliers.sum())
        rows = rows.filter(pa.array(~outliers))
    return deliver(store, rows, sieve, label=str(label), family=family, run_id=bundle.run_id)
