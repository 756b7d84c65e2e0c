"""The result of ``vllm bench serve``: a summary, and one row per request where it was saved with details.

Times of the file's summary are milliseconds. The requests are read by `profiles_db.recordings.vllm_bench`, as for a
trace.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.files.json_text import read_json
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from profiles_db.recordings.fields import LONGEST_S, MOST_COUNT, count_at, list_at, number_at
from profiles_db.recordings.run import RecordedRun
from profiles_db.recordings.vllm_bench import SUMMARY_KEYS, read_result

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
_MOST_CHARACTERS: Final = 200  # of a label


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeResult:
    """What a client measured: ``summary`` in seconds and tokens, ``requests`` None when not saved with details."""

    summary: Mapping[str, Any]
    requests: pa.Table | None
    notes: tuple[str, ...]


def is_serve_result(document: Mapping[str, Any]) -> bool:
    """Tell a serving result by the keys every version writes."""
    return all(name in document for name in SUMMARY_KEYS)


def read_serve(path: Path, document: Mapping[str, Any]) -> ServeResult:
    """Read a result file's JSON; raises ``UserError`` naming file and key."""
    missing = [name for name in SUMMARY_KEYS if name not in document]
    if missing:
        raise UserError(f"{path}: key {missing[0]!r} is missing: not a result of vllm bench serve")
    place = str(path)
    duration = number_at(document, "duration", place)
    if duration <= 0:
        raise UserError(f"{path}: duration is {duration:g}, must be > 0 seconds")
    completed = count_at(document, "completed", place, high=MOST_COUNT)
    output_tokens = count_at(document, "total_output_tokens", place, high=MOST_COUNT)
    summary: dict[str, Any] = {name: _plain(document[name]) for name in _COPIED if name in document}
    summary |= {
        "duration_s": duration,
        "completed": completed,
        "failed": count_at(document, "failed", place, high=MOST_COUNT) if document.get("failed") is not None else None,
        "prompt_tokens": count_at(document, "total_input_tokens", place, high=MOST_COUNT),
        "output_tokens": output_tokens,
        "requests_per_s": completed / duration,
        "output_tokens_per_s": output_tokens / duration,
    }
    for foreign, ours in _METRICS.items():
        found = {name: f"{name}_{foreign}_ms" for name in _STATISTICS if f"{name}_{foreign}_ms" in document}
        if found:
            summary[ours] = {
                name: number_at(document, key, place, high=LONGEST_S / MS) * MS for name, key in found.items()
            }
    if "ttfts" not in document:
        return ServeResult(summary=summary, requests=None, notes=("no details of requests: --save-detailed was off",))
    for key in ("input_lens", "output_lens", "ttfts", "itls"):
        list_at(document, key, place)
    run = read_result(document, place)
    requests = _table(run)
    return ServeResult(summary=summary, requests=requests, notes=tuple(_notes(summary, run)))


def _plain(value: Any) -> Any:
    """Value of a summary's own key as it can be printed and written as strict JSON."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()[:_MOST_CHARACTERS]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float) else shown(value)


def _table(run: RecordedRun) -> pa.Table:
    """One row per request; what failed has no times."""
    ok = run.is_ok
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot_s = np.where(run.output_tokens > 1, (run.e2e_s - run.ttft_s) / (run.output_tokens - 1), np.nan)
    columns = {
        "request": np.arange(len(run)),
        "start_s": pa.nulls(len(run), pa.float64()) if run.start_s is None else run.start_s,
        "prompt_tokens": run.prompt_tokens,
        "output_tokens": run.output_tokens,
        "is_ok": ok,
        "ttft_s": _known(run.ttft_s),
        "tpot_s": _known(np.where(ok, tpot_s, np.nan)),
        "e2e_s": _known(run.e2e_s),
        "chunks": pa.nulls(len(run), pa.int64()) if run.chunks is None else pa.array(run.chunks, mask=~ok),
        "error": pa.array(list(run.errors), pa.string()),
    }
    return pa.table({name: pa.array(column) for name, column in columns.items()}, schema=REQUESTS)


def _known(values: NDArray[np.float64]) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _notes(summary: Mapping[str, Any], run: RecordedRun) -> list[str]:
    notes = []
    failed = int((~run.is_ok).sum())
    if failed:
        notes.append(f"{failed} of {len(run)} requests failed: without times")
    merged = 0 if run.chunks is None else int((run.is_ok & (run.chunks < run.output_tokens)).sum())
    if merged:
        notes.append(f"{merged} requests got several tokens in one chunk: their gaps are not between tokens")
    stated = summary.get("ttft_s", {}).get("mean")
    measured = float(run.ttft_s[run.is_ok].mean()) if run.is_ok.any() else math.nan
    if stated and abs(measured - stated) > _AGREEMENT * stated:
        notes.append(f"mean TTFT is stated as {stated:.6g} s, the requests give {measured:.6g} s")
    return notes


def load_json(path: Path, *, result: int | None = None) -> Mapping[str, Any]:
    """Read a file that holds one JSON object, or several appended ones of which ``result`` (from 1) is meant."""
    documents = read_json(path)
    if result is None and len(documents) > 1:
        raise UserError(f"{path}: holds {len(documents)} results", hint="choose one: --result N, the first is 1")
    if result is not None and result > len(documents):
        raise UserError(f"{path}: result {result} was asked for, the file holds {len(documents)}")
    place, document = documents[(result or 1) - 1]
    if not isinstance(document, dict):
        raise UserError(f"{place}: must hold one JSON object, holds {shown(document)}")
    return document
