"""Sound inputs of every reader, which the cases break: those of the docs, of the package, and small ones."""

import json
import re
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import cluster_specs
import simulator
from costmodel.bundled_fits import bundled_fit
from costmodel.fit_file.artefact import load_artefact, save_artefact
from costmodel.fitted.knots import FamilyKnots
from profiles_db.parquet_files import read_table
from profiles_db.store import open_store

_DOCS: Final = Path(__file__).parents[2] / "docs"
_FENCED: Final = re.compile(r"^`(?P<name>[\w.-]+)`.*?:\n\n```\w+\n(?P<text>.*?)^```", re.M | re.S)

IMPORTS: Final[dict[str, tuple[str, str]]] = {
    # importer -> file name and content
    "apex-plus": (
        "gemm_1410.csv",
        "gpu,dtype,m,k,n,time(us),avg_power(W),graph_clk_freq\n"
        + "".join(f"H100-SXM-80GB,half,1024,1024,{n},{50 + n},300,1410\n" for n in (1, 2, 4, 8)),
    ),
    "vidur": (
        "h100/mlp.csv",
        "time_stats.add.median,time_stats.mlp_up_proj.median,n_head,n_kv_head,n_embd,n_expanded_embd,use_gated_mlp,"
        "num_tokens,num_tensor_parallel_workers\n"
        + "".join(f"0.01,0.{n}5,32,8,4096,14336,True,{n},1\n" for n in (1, 2, 4)),
    ),
    "nccl-tests": (
        "all_reduce_perf.txt",
        "#  Rank  0 Group  0 Pid 1 on n0 device  0 [0000:01:00] NVIDIA H200\n"
        "#  Rank  1 Group  0 Pid 2 on n0 device  1 [0000:02:00] NVIDIA H200\n"
        "#       size         count      type   redop    root time  algbw  busbw #wrong   time  algbw  busbw #wrong\n"
        "     1048576        262144     float     sum   -1  20.00  52.43  52.43      0  20.00  52.43  52.43      0\n"
        "     2097152        524288     float     sum   -1  30.00  69.91  69.91      0  30.00  69.91  69.91      0\n",
    ),
    "vllm-bench": (
        "forward.json",
        json.dumps(
            {
                "model": "m", "device": "NVIDIA H200", "vllm_version": "0.33.0", "dtype": "fp8",
                "kv_cache_dtype": "fp8", "num_layers": 80, "tensor_parallel_size": 4, "pipeline_parallel_size": 1,
                "cuda_graph": True,
                "batches": [
                    {"requests": [{"count": 32, "query_len": 1, "context_len": 8192}], "latency_ms": [9.1, 9.2]},
                    {"requests": [{"count": 1, "query_len": 512, "context_len": 0}], "latency_ms": [20.0]},
                ],
            }
        ),
    ),
    "vllm-bench serve": (
        "serve.json",
        json.dumps(
            {
                "duration": 4.0, "completed": 2, "total_input_tokens": 30, "total_output_tokens": 5,
                "request_rate": "inf", "max_concurrency": 2, "mean_ttft_ms": 110.0, "input_lens": [10, 20],
                "output_lens": [2, 3],
                "ttfts": [0.1, 0.12], "itls": [[0.02], [0.02, 0.03]], "start_times": [5.0, 5.5], "errors": ["", ""],
            }
        ),
    ),
}  # fmt: skip


@cache
def traces() -> dict[str, bytes]:
    """Every example file of the page on traces, by name."""
    page = (_DOCS / "reference" / "traces.md").read_text(encoding="utf-8")
    return {found["name"]: found["text"].encode() for found in _FENCED.finditer(page) if "." in found["name"]}


@cache
def configs() -> dict[str, dict[str, Any]]:
    """Every bundled model's config."""
    folder = resources.files(simulator) / "model" / "configs"
    found = [entry for entry in folder.iterdir() if entry.name.endswith(".json")]
    return {
        entry.name.removesuffix(".json"): json.loads(entry.read_text()) for entry in sorted(found, key=lambda e: e.name)
    }


@cache
def tomls(kind: str) -> dict[str, dict[str, Any]]:
    """Bundled ``clusters``, ``devices`` or ``engines``, parsed."""
    places = {"clusters": resources.files(cluster_specs), "devices": resources.files(cluster_specs)}
    folder = places[kind] / kind if kind in places else resources.files(simulator) / "engine_profiles"
    found = [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]
    return {
        entry.name.removesuffix(".toml"): tomllib.loads(entry.read_text())
        for entry in sorted(found, key=lambda e: e.name)
    }


def toml_text(values: dict[str, Any], prefix: str = "") -> str:
    """Write nested tables as TOML, as far as TOML has a form for them; what has none is written as JSON would be."""
    lines, tables = [], []
    for name, value in values.items():
        key = json.dumps(name)
        if isinstance(value, dict):
            tables.append(f"[{prefix}{key}]\n{toml_text(value, f'{prefix}{key}.')}")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            tables += [f"[[{prefix}{key}]]\n{toml_text(item, f'{prefix}{key}.')}" for item in value]
        else:
            lines.append(f"{key} = {_toml_value(value)}\n")
    return "".join([*lines, *tables])


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return {"inf": "inf", "-inf": "-inf", "nan": "nan"}.get(repr(value), repr(value))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(name))} = {_toml_value(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, int):
        return "9" * 5000 if value >= 10**100 else str(value)
    return json.dumps("" if value is None else str(value))


@cache
def measurements() -> dict[str, pa.Table]:
    """One table of the store per family, and the record of its run."""
    from tempfile import TemporaryDirectory

    context = {"device": "h100-sxm", "backend": "vllm.kernel", "dtype": "bf16", "launch": "graph", "cache": "cold"}
    common = {**context, "status": "ok", "origin": "measured", "samples": 10}
    rows = {
        "gemm": [
            {"m": m, "n": n, "k": 1024, "scaling": "none", "quantise": False} for m in (1, 8, 64) for n in (1024, 4096)
        ],
        "elementwise": [{"op": "rmsnorm", "rows": r, "width": 4096, "io_bytes": 16384 * r} for r in (1, 16, 256)],
        "collective": [
            {"kind": "all_reduce", "ranks": 8, "nodes": 1, "level": "nvlink", "message_bytes": 2**p}
            for p in (12, 20, 26)
        ],
        "moe": [
            {"num_tokens": t, "hidden": 2048, "inter": 768, "num_experts": 128, "topk": 8, "tp": 1, "ep": 8}
            | {"routing": "balanced"}
            for t in (1, 64, 1024)
        ],
    }
    with TemporaryDirectory() as folder:
        store = open_store(Path(folder), bundled=None)
        run = {"run_id": "run", "device": "h100-sxm", "origin": "measured", "world_size": 8}
        paths = {"run": store.append_run({**run, "started_at": datetime(2026, 1, 1, tzinfo=UTC)})}
        for family, shapes in rows.items():
            timed = [{**common, **shape, "latency_s": 1e-4 * (1 + at)} for at, shape in enumerate(shapes)]
            (paths[family],) = store.append(family, timed, "run")
        return {family: pq.ParquetFile(path).read() for family, path in paths.items()}


@cache
def fit() -> pa.Table:
    """Return a small fit of all kinds of labels: a few shapes of the smallest bundled one."""
    from tempfile import TemporaryDirectory

    path = bundled_fit("a100-sxm-80gb")
    assert path is not None
    whole = load_artefact(path, with_errors=False)  # of points that are not kept here
    families = {name: _first_shapes(knots) for name, knots in whole.families.items()}
    small = replace(whole, families=families, held_out=whole.held_out[:20])
    with TemporaryDirectory() as folder:
        save_artefact(small, Path(folder) / "fit.parquet")
        return read_table(Path(folder) / "fit.parquet")


def _first_shapes(knots: FamilyKnots) -> FamilyKnots:
    """Keep three shapes of each label."""
    keep = np.sort(np.concatenate([knots.of_label(label)[:3] for label in knots.labels]))
    rows = np.concatenate([np.arange(knots.start[shape], knots.start[shape + 1]) for shape in keep])
    start = np.append(0, np.cumsum(np.diff(knots.start)[keep])).astype(np.int64)
    return replace(
        knots,
        label=tuple(knots.label[shape] for shape in keep),
        shape=knots.shape[keep],
        start=start,
        x=knots.x[rows],
        y=knots.y[rows],
        latency_s=knots.latency_s[rows],
        residual=knots.residual[rows],
    )


MANIFEST: Final[dict[str, Any]] = {
    "apex_shape_manifest": 1,
    "families": {
        "gemm": {
            "columns": ["m", "n", "k", "scaling", "quantise", "dtype"],
            "rows": [[1, 64, 64, "none", False, "fp32"], [8, 64, 64, "none", False, "fp32"]],
        },
        "elementwise": {
            "columns": ["op", "rows", "width", "io_bytes", "dtype"],
            "rows": [["rmsnorm", 4, 64, 512, "fp32"]],
        },
    },
}

PLANS: Final = (
    "tp1", "tp2", "dp2", "pp2", "dp2-tp1", "tp2-w.fp8-kv.fp8", "tp1-s4-t64", "attn.dp2-moe.ep2",
    "prefill.tp1+decode.tp1", "tp1-f1410", "pp2-tp1-w.int4", "tp1-w.fp8_block",
)  # fmt: skip
