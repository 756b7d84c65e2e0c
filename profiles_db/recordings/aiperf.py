"""Records of AIPerf (the successor of genai-perf): ``profile_export.jsonl``, one JSON object per request.

Source: ai-dynamo/aiperf docs/tutorials/working-with-profile-exports.md. Times since 1970 in ns; latencies carry their
unit. The file does not say whether a rate or a concurrency paced the requests.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from profiles_db.recordings.fields import MOST_TOKENS, count_at, number_at, times_of, value_at
from profiles_db.recordings.run import RecordedRun, from_earliest

NAME: Final = "aiperf"
_LAST_NS: Final = 2**63 - 1
_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0}


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a record by its two parts."""
    return isinstance(record.get("metadata"), dict) and "metrics" in record


def read_records(path: object, records: Iterable[tuple[int, Mapping[str, Any]]]) -> RecordedRun:
    """Read the records of one run, each with its line; warm-up requests are left out and counted."""
    starts_ns: list[int] = []
    rows: list[tuple[int, int, bool, float, float]] = []
    errors: list[str | None] = []
    gaps_s: list[NDArray[np.float64] | None] = []
    warmup = turns = 0
    for line, record in records:
        place = f"{path}:{line}"
        if not matches(record):
            raise UserError(f"{place}: is no record of AIPerf, must hold metadata and metrics")
        if value_at(record, "metadata.benchmark_phase") == "warmup":
            warmup += 1
            continue
        if value_at(record, "metadata.turn_index") is not None:
            turns += count_at(record, "metadata.turn_index", place) > 0
        starts_ns.append(count_at(record, "metadata.request_start_ns", place, high=_LAST_NS))
        error = record.get("error")
        is_ok = error is None and value_at(record, "metadata.was_cancelled") is not True
        errors.append(None if is_ok else shown(value_at(record, "error.message") or "cancelled"))
        rows.append(_measured(record, place) if is_ok else (0, 0, False, np.nan, np.nan))
        # Without a second token there is no gap, and the record has none.
        gaps_s.append(_gaps_s(record, place) if is_ok and rows[-1][1] > 1 else np.zeros(0))
    if not rows:
        raise UserError(f"{path}: holds no request of the measured phase ({warmup} of the warm-up)")
    starts = np.array(starts_ns, dtype=np.int64)
    columns = list(zip(*rows, strict=True))
    gaps = [own for own in gaps_s if own is not None]
    notes = []
    if warmup:
        notes.append(f"left out {warmup} requests of the warm-up phase")
    if turns:
        notes.append(f"{turns} requests are follow-up turns; they are sent at their recorded times")
    return RecordedRun(
        tool=NAME,
        place=str(path),
        prompt_tokens=np.array(columns[0], dtype=np.int64),
        output_tokens=np.array(columns[1], dtype=np.int64),
        is_ok=np.array(columns[2], dtype=np.bool_),
        start_s=from_earliest((starts - starts.min()) / 1e9),
        ttft_s=np.array(columns[3]),
        e2e_s=np.array(columns[4]),
        gaps_s=gaps if len(gaps) == len(rows) and any(map(len, gaps)) else None,
        errors=errors,
        states_load=False,
        notes=tuple(notes),
    )


def _measured(record: Mapping[str, Any], place: str) -> tuple[int, int, bool, float, float]:
    output_key = "metrics.output_sequence_length"
    if value_at(record, output_key) is None:
        output_key = "metrics.output_token_count"
    return (
        count_at(record, "metrics.input_sequence_length.value", place, low=1, high=MOST_TOKENS),
        count_at(record, f"{output_key}.value", place, high=MOST_TOKENS),
        True,
        _latency_s(record, "metrics.time_to_first_token", place),
        _latency_s(record, "metrics.request_latency", place),
    )


def _gaps_s(record: Mapping[str, Any], place: str) -> NDArray[np.float64] | None:
    """Gaps between the parts of an answer; None where the record has none (an answer that was not streamed)."""
    key = "metrics.inter_chunk_latency"
    values = value_at(record, f"{key}.value")
    if not isinstance(values, list):
        return None
    factor = _factor(record, key, place)
    return times_of(values, f"{key}.value", place, high=1e9 / factor) * factor


def _latency_s(record: Mapping[str, Any], key: str, place: str) -> float:
    if value_at(record, key) is None:
        return np.nan
    factor = _factor(record, key, place)
    return number_at(record, f"{key}.value", place, high=1e9 / factor) * factor


def _factor(record: Mapping[str, Any], key: str, place: str) -> float:
    """Seconds of the unit that a metric states."""
    unit = value_at(record, f"{key}.unit")
    if not isinstance(unit, str) or unit not in _SECONDS:
        raise UserError(f"{place}: {key}.unit is {shown(unit)}, must be one of {', '.join(_SECONDS)}")
    return _SECONDS[unit]
