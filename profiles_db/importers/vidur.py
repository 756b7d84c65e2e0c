"""Imports Vidur's profiling CSVs (``data/profiling/compute`` and ``data/profiling/network``).

Times are milliseconds of kernel time (launch excluded), medians taken; all compute is fp16; collective sizes are bytes.
Sizes of the projections of a decoder layer with hidden size h, inner size f, a query and g key-value heads of d
elements, sharded over t ranks:

    attn_pre_proj  n = (a + 2 g) d / t, k = h      mlp_up_proj    n = (2 if gated else 1) f / t, k = h
    attn_post_proj n = h, k = a d / t              mlp_down_proj  n = h, k = f / t
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from profiles_db.importers.counting import Sieve, TableCount
from profiles_db.importers.csv_files import COUNT, FLAG, NUMBER, TEXT, csv_files, read_csv
from profiles_db.importers.delivery import deliver, record_run
from profiles_db.importers.device_names import DEVICE_NAMES, NETWORK, node_level
from profiles_db.importers.rows import family_rows
from profiles_db.store import Store

MS: Final = 1e-3
FP16_BYTES: Final = 2

ORIGIN: Final = "imported:vidur"

_MLP_KEYS: Final = {
    "n_head": COUNT,
    "n_kv_head": COUNT,
    "n_embd": COUNT,
    "n_expanded_embd": COUNT,
    "use_gated_mlp": FLAG,
    "num_tokens": COUNT,
    "num_tensor_parallel_workers": COUNT,
}
_ATTENTION_KEYS: Final = {
    "n_embd": COUNT,
    "n_q_head": COUNT,
    "n_kv_head": COUNT,
    "num_tensor_parallel_workers": COUNT,
    "batch_size": COUNT,
    "prefill_chunk_size": COUNT,
    "kv_cache_size": COUNT,
    "is_prefill": FLAG,
    "attention_backend": TEXT,
}
_NETWORK_KEYS: Final = {
    "num_workers": COUNT,
    "size": COUNT,
    "collective": TEXT,
    "devices_per_node": COUNT,
}
_PROJECTIONS: Final = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
_SMALL_OPS: Final = ("emb", "input_layernorm", "post_attention_layernorm", "attn_rope", "mlp_act", "add")
_TIMED: Final = (*_PROJECTIONS, *_SMALL_OPS)
_KINDS: Final = frozenset({"all_reduce", "all_gather", "reduce_scatter", "send_recv"})
_NOTE: Final = "kernel time, launch excluded"

Ints = NDArray[np.int64]
_Mapped = tuple[str, Mapping[str, Any]]  # op family and its columns


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Where a CSV file belongs."""

    path: Path
    device: str
    node: str  # node type of a network table, such as a100_pairwise_nvlink

    @property
    def run_id(self) -> str:
        """One run per device: Vidur's tables carry no dates or versions."""
        return f"vidur-{self.device}"


def import_vidur(root: Path, store: Store, *, device: str | None = None) -> list[TableCount]:
    """Import one CSV file or every one under ``root``; the device comes from the folder names unless given."""
    started = datetime.now(UTC)
    paths = csv_files(root)
    copies = _copied_networks(paths)
    counts: list[TableCount] = []
    recorded: set[str] = set()
    for path in paths:
        if path.stem not in {"mlp", "attention", *_KINDS}:
            rows = read_csv(path, {}).num_rows
            reason = {"not a table of operator times": rows}
            counts.append(TableCount(table=str(path), family=None, rows_in=rows, kept=0, dropped=reason))
            continue
        source = _source_of(path, device)
        if source.run_id not in recorded:
            recorded.add(source.run_id)
            run = {"run_id": source.run_id, "device": source.device, "origin": ORIGIN, "world_size": 1}
            record_run(store, {**run, "tool_version": "vidur profiling tables"}, started)
        if path.stem == "mlp":
            counts += _import_mlp(source, store)
        elif path.stem == "attention":
            counts.append(_import_attention(source, store))
        else:
            counts.append(_import_network(source, store, copies.get(path)))
    return counts


def _source_of(path: Path, device: str | None) -> _Source:
    node = path.parent.name if path.stem in _KINDS else ""
    if device is not None:
        return _Source(path=path, device=device, node=node)
    for part in reversed(path.parent.parts):
        foreign = part.split("_")[0]
        if foreign in DEVICE_NAMES:
            return _Source(path=path, device=DEVICE_NAMES[foreign], node=node)
    raise UserError(f"{path}: no folder on the way names a device", hint="name it with --device")


def _copied_networks(paths: list[Path]) -> dict[Path, Path]:
    """Find network tables whose bytes another node type has already: the later name is taken to be the copy."""
    first: dict[tuple[str, bytes], Path] = {}
    copies = {}
    for path in sorted(paths):
        if path.stem in _KINDS:
            original = first.setdefault((path.name, path.read_bytes()), path)
            if original != path:
                copies[path] = original
    return copies


def _timed(table: pa.Table, column: str) -> Sieve:
    """Keep the rows in which ``column`` was timed; a zero is a time below the profiler's 1 us resolution."""
    sieve = Sieve(table.append_column("latency", table[column]))
    sieve.drop_unfit_latency()
    return sieve


def _ints(sieve: Sieve, name: str) -> Ints:
    values: Ints = sieve.column(name).cast(pa.int64()).to_numpy()
    return values


def _deliver(store: Store, source: _Source, sieve: Sieve, mapped: _Mapped, what: str = "") -> TableCount:
    family, columns = mapped
    fixed = {
        "device": source.device,
        "dtype": "fp16",
        "latency_s": pc.multiply(sieve.column("latency"), MS),
        "launch": "eager",
        "cache": "hot",
        "origin": ORIGIN,
        "run_id": source.run_id,
        "note": _NOTE,
    }
    rows = family_rows(family, sieve.table.num_rows, {**fixed, **columns})
    return deliver(store, rows, sieve, label=f"{source.path}{what}", family=family, run_id=source.run_id)


def _import_mlp(source: _Source, store: Store) -> list[TableCount]:
    medians = {f"time_stats.{op}.median": NUMBER for op in _TIMED}
    table = read_csv(source.path, _MLP_KEYS, medians)
    timed = [
        name.split(".")[1] for name in table.column_names if name.startswith("time_stats.") and name.endswith(".median")
    ]
    counts = []
    for op in timed:
        if op not in _TIMED:
            label, reason = f"{source.path}:{op}", {f"op {op} has no counterpart": table.num_rows}
            counts.append(TableCount(table=label, family=None, rows_in=table.num_rows, kept=0, dropped=reason))
            continue
        sieve = _timed(table, f"time_stats.{op}.median")
        sieve.drop_unfit_sizes(*(name for name, kind in _MLP_KEYS.items() if kind == COUNT))
        sieve.drop_missing("use_gated_mlp")
        for name in ("n_head", "n_kv_head", "n_expanded_embd"):
            uneven = np.mod(_ints(sieve, name), _ints(sieve, "num_tensor_parallel_workers")) != 0
            sieve.drop(uneven, f"{name} does not divide among the ranks")
        mapped = _gemm_columns(op, sieve) if op in _PROJECTIONS else _elementwise_columns(op, sieve)
        counts.append(_deliver(store, source, sieve, mapped, f":{op}"))
    return counts


def _gemm_columns(op: str, sieve: Sieve) -> _Mapped:
    ranks, hidden, inner = (_ints(sieve, name) for name in ("num_tensor_parallel_workers", "n_embd", "n_expanded_embd"))
    heads, kv_heads = _ints(sieve, "n_head"), _ints(sieve, "n_kv_head")
    gates = np.where(sieve.column("use_gated_mlp").to_numpy(zero_copy_only=False), 2, 1)
    sizes = {
        "attn_pre_proj": ((heads + 2 * kv_heads) * (hidden // heads) // ranks, hidden),
        "attn_post_proj": (hidden, hidden // ranks),
        "mlp_up_proj": (gates * inner // ranks, hidden),
        "mlp_down_proj": (hidden, inner // ranks),
    }
    n, k = sizes[op]
    columns = {"m": _ints(sieve, "num_tokens"), "n": n, "k": k}
    return "gemm", {**columns, "scaling": "none", "quantise": False, "backend": "torch.cublas"}


def _elementwise_columns(op: str, sieve: Sieve) -> _Mapped:
    """Map a small op to its width and the elements moved per element of it, read plus written."""
    ranks, hidden, inner = (_ints(sieve, name) for name in ("num_tensor_parallel_workers", "n_embd", "n_expanded_embd"))
    heads, kv_heads = _ints(sieve, "n_head"), _ints(sieve, "n_kv_head")
    is_gated = sieve.column("use_gated_mlp").to_numpy(zero_copy_only=False).astype(bool)
    norm = np.where(is_gated, "rmsnorm", "layernorm")
    kinds = {
        "emb": ("embedding", hidden, 2),
        "input_layernorm": (norm, hidden, 2),
        "post_attention_layernorm": (norm, hidden, 2),
        "attn_rope": ("rope", (heads + kv_heads) * (hidden // heads) // ranks, 2),
        "mlp_act": (np.where(is_gated, "silu_mul", "gelu"), inner // ranks, np.where(is_gated, 3, 2)),
        "add": ("add", hidden, 3),
    }
    name, width, moved = kinds[op]
    tokens = _ints(sieve, "num_tokens")
    label = pa.array(name.tolist(), pa.string()) if isinstance(name, np.ndarray) else name
    io_bytes = tokens * width * moved * FP16_BYTES
    return "elementwise", {"op": label, "rows": tokens, "width": width, "io_bytes": io_bytes, "backend": "vidur"}


def _import_attention(source: _Source, store: Store) -> TableCount:
    """Map attention: all sequences of a batch have ``kv_cache_size`` tokens of history and a chunk or a new token."""
    prefill, decode = "time_stats.attn_prefill.median", "time_stats.attn_decode.median"
    table = read_csv(source.path, {**_ATTENTION_KEYS, prefill: NUMBER, decode: NUMBER})
    sieve = Sieve(table.append_column("latency", pc.if_else(table["is_prefill"], table[prefill], table[decode])))
    sieve.drop_missing("is_prefill", "attention_backend")
    sieve.drop_unfit_latency()
    sieve.drop_unfit_sizes("n_embd", "n_q_head", "n_kv_head", "num_tensor_parallel_workers", "batch_size")
    sieve.drop_unfit_sizes("prefill_chunk_size", "kv_cache_size", least=0)
    sieve.drop(
        pc.and_(sieve.column("is_prefill"), pc.equal(sieve.column("prefill_chunk_size"), 0)), "prefill of 0 tokens"
    )
    ranks = _ints(sieve, "num_tensor_parallel_workers")
    sieve.drop(np.mod(_ints(sieve, "n_q_head"), ranks) != 0, "n_q_head does not divide among the ranks")
    heads, ranks = _ints(sieve, "n_q_head"), _ints(sieve, "num_tensor_parallel_workers")
    head_dim = _ints(sieve, "n_embd") // heads
    kv_heads = np.maximum(_ints(sieve, "n_kv_head") // ranks, 1)
    batch, chunk, history = (_ints(sieve, name) for name in ("batch_size", "prefill_chunk_size", "kv_cache_size"))
    prefills = sieve.column("is_prefill").to_numpy(zero_copy_only=False)
    backends = [
        f"vidur.{str(name).rsplit('.', 1)[-1].lower()}" for name in sieve.column("attention_backend").to_pylist()
    ]
    seen = np.where(prefills, 0, history + 1)
    columns = {
        "phase": pa.array(np.where(prefills, "prefill", "decode").tolist(), pa.string()),
        "variant": "gqa",
        "num_heads": heads // ranks,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "v_head_dim": head_dim,
        "window": 0,
        "kv_dtype": "fp16",
        "num_prefill": np.where(prefills, batch, 0),
        "prefill_q": np.where(prefills, chunk, 0),
        "prefill_kv": np.where(prefills, chunk + history, 0),
        "num_decode": np.where(prefills, 0, batch),
        "decode_q": 1,
        "decode_kv": seen,
        "decode_kv_max": seen,
        "backend": pa.array(backends, pa.string()),
    }
    return _deliver(store, source, sieve, ("attention", columns))


def _import_network(source: _Source, store: Store, original: Path | None) -> TableCount:
    op = source.path.stem
    table = read_csv(source.path, {**_NETWORK_KEYS, f"time_stats.{op}.median": NUMBER})
    sieve = _timed(table, f"time_stats.{op}.median")
    if original is not None:
        sieve.drop_all(f"copy of {original.parent.name}/{original.name}")
    sieve.drop_unfit_sizes("size", "devices_per_node")
    sieve.drop_unfit_sizes("num_workers", least=2)
    ranks, per_node = _ints(sieve, "num_workers"), _ints(sieve, "devices_per_node")
    nodes = -(-ranks // per_node)
    # NVLink joins pairs only in a pairwise node; wider groups of it cross PCIe.
    is_paired = "pair" in source.node
    inside = np.where(per_node > 2, "pcie", "nvlink") if is_paired else np.full(len(ranks), node_level(source.device))
    columns = {
        "kind": op,
        "ranks": ranks,
        "nodes": nodes,
        "level": pa.array(np.where(nodes > 1, NETWORK, inside).tolist(), pa.string()),
        "message_bytes": _ints(sieve, "size"),
        "backend": "nccl",
    }
    return _deliver(store, source, sieve, ("collective", columns))
