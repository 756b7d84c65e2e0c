"""Reads the result of ``vllm bench serve``: a summary, and one row per request where it was saved with details.

Times of the file's summary are milliseconds, those of its requests seconds. With the client's clock,

    e2e_s = ttft_s + sum of the gaps between chunks        tpot_s = (e2e_s - ttft_s) / (output_tokens - 1)

A gap spans several tokens when the server streams or speculates more than one token per chunk.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from cluster_specs.errors import UserError

MS: Final = 1e-3

REQUESTS: Final = pa.schema(
    [
        pa.field("request", pa.int64(), nullable=False),
        pa.field("start_s", pa.float64(), metadata={"unit": "s"}),  # from the first request; null in older files
        pa.field("prompt_tokens", pa.int64(), nullable=False, metadata={"unit": "token"}),
        pa.field("output_tokens", pa.int64(), nullable=False, metadata={"unit": "token"}),
        pa.field("is_ok", pa.bool_(), nullable=False),
        pa.field("ttft_s", pa.float64(), metadata={"unit": "s"}),
        pa.field("tpot_s", pa.float64(), metadata={"unit": "s"}),  # null below two output tokens
        pa.field("e2e_s", pa.float64(), metadata={"unit": "s"}),
        pa.field("chunks", pa.int64()),
        pa.field("error", pa.string()),
    ],
    metadata={"apex_table": "vllm_bench_serve_requests", "apex_schema_version": "1"},
)

_SUMMARY: Final = ("duration", "completed", "total_input_tokens", "total_output_tokens")
_COPIED: Final = (
    "date",
    "backend",
    "label",
    "model_id",
    "request_rate",
    "burstiness",
    "max_concurrency",
    "num_prompts",
)
_METRICS: Final = {"ttft": "ttft_s", "tpot": "tpot_s", "itl": "itl_s", "e2el": "e2e_s"}
_STATISTICS: Final = ("mean", "median", "std", "p50", "p90", "p95", "p99")
# The file rounds nothing, so a mean that differs more was not taken over these requests.
_AGREEMENT: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeResult:
    """What a client measured: ``summary`` in seconds and tokens, ``requests`` None when not saved with details."""

    summary: Mapping[str, Any]
    requests: pa.Table | None
    notes: tuple[str, ...]


def is_serve_result(document: Mapping[str, Any]) -> bool:
    """Tell a serving result by the keys every version writes."""
    return all(name in document for name in _SUMMARY)


def read_serve(path: Path, document: Mapping[str, Any]) -> ServeResult:
    """Read a result file's JSON; raises ``UserError`` naming file and key."""
    missing = [name for name in _SUMMARY if name not in document]
    if missing:
        raise UserError(f"{path}: key {missing[0]!r} is missing: not a result of vllm bench serve")
    duration = _number(document, "duration", path)
    if duration <= 0:
        raise UserError(f"{path}: duration is {duration}, must be > 0 seconds")
    completed = int(_number(document, "completed", path))
    output_tokens = int(_number(document, "total_output_tokens", path))
    summary: dict[str, Any] = {name: document[name] for name in _COPIED if name in document}
    summary |= {
        "duration_s": duration,
        "completed": completed,
        "failed": int(_number(document, "failed", path)) if "failed" in document else None,
        "prompt_tokens": int(_number(document, "total_input_tokens", path)),
        "output_tokens": output_tokens,
        "requests_per_s": completed / duration,
        "output_tokens_per_s": output_tokens / duration,
    }
    for foreign, ours in _METRICS.items():
        found = {name: f"{name}_{foreign}_ms" for name in _STATISTICS if f"{name}_{foreign}_ms" in document}
        if found:
            summary[ours] = {name: _number(document, key, path) * MS for name, key in found.items()}
    if "ttfts" not in document:
        return ServeResult(summary=summary, requests=None, notes=("no details of requests: --save-detailed was off",))
    requests = _requests(path, document)
    return ServeResult(summary=summary, requests=requests, notes=tuple(_notes(summary, requests)))


def _number(document: Mapping[str, Any], key: str, path: Path) -> float:
    value = document[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise UserError(f"{path}: {key} is {value!r}, must be a number")
    return float(value)


def _requests(path: Path, document: Mapping[str, Any]) -> pa.Table:
    prompts, outputs, ttfts, gaps = (
        _list(document, key, path) for key in ("input_lens", "output_lens", "ttfts", "itls")
    )
    count = len(prompts)
    starts: Sequence[Any] = _list(document, "start_times", path) if "start_times" in document else [None] * count
    errors = _list(document, "errors", path) if "errors" in document else [""] * count
    for key, column in (
        ("output_lens", outputs),
        ("ttfts", ttfts),
        ("itls", gaps),
        ("start_times", starts),
        ("errors", errors),
    ):
        if len(column) != count:
            raise UserError(f"{path}: {key} has {len(column)} entries, input_lens has {count}")
    # perf_counter has an arbitrary origin.
    origin = min((start for start in starts if start is not None), default=0.0)
    rows: list[dict[str, Any]] = []
    try:
        for index in range(count):
            start = None if starts[index] is None else starts[index] - origin
            row = {"request": index, "start_s": start, "prompt_tokens": prompts[index], "output_tokens": outputs[index]}
            if errors[index] or outputs[index] <= 0:
                rows.append({**row, "is_ok": False, "error": errors[index] or None})
                continue
            decode = float(np.sum(gaps[index]))
            tpot = decode / (outputs[index] - 1) if outputs[index] > 1 else None
            times = {"ttft_s": ttfts[index], "tpot_s": tpot, "e2e_s": ttfts[index] + decode}
            rows.append({**row, "is_ok": True, **times, "chunks": len(gaps[index]) + 1})
        return pa.Table.from_pylist(rows, schema=REQUESTS)
    except (TypeError, ValueError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: request {len(rows)}: {error}") from error


def _list(document: Mapping[str, Any], key: str, path: Path) -> Sequence[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        raise UserError(f"{path}: {key} must be a list, one entry per request")
    return value


def _notes(summary: Mapping[str, Any], requests: pa.Table) -> list[str]:
    notes = []
    done = [row for row in requests.to_pylist() if row["is_ok"]]
    failed = requests.num_rows - len(done)
    if failed:
        notes.append(f"{failed} of {requests.num_rows} requests failed: without times")
    merged = sum(row["chunks"] < row["output_tokens"] for row in done)
    if merged:
        notes.append(f"{merged} requests got several tokens in one chunk: their gaps are not between tokens")
    stated = summary.get("ttft_s", {}).get("mean")
    if stated and done:
        measured = float(np.mean([row["ttft_s"] for row in done]))
        if abs(measured - stated) > _AGREEMENT * stated:
            notes.append(f"mean TTFT is stated as {stated:.6g} s, the requests give {measured:.6g} s")
    return notes


def load_json(path: Path) -> Mapping[str, Any]:
    """Read a file that holds one JSON object."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: must hold one JSON object, holds a {type(document).__name__}")
    return document
