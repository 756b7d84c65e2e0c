"""Per-request report of inference-perf: ``per_request_lifecycle_metrics.json``, one JSON list.

Source: kubernetes-sigs/inference-perf inference_perf/reportgen/base.py and apis/base.py; the token counts stood in
``info`` up to version 0.4 and stand in ``info.request_metrics`` and ``info.response_metrics`` since. Times are seconds
of one clock. The file does not say whether a rate or a concurrency paced the requests.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from profiles_db.recordings.fields import count_at, number_at, value_at
from profiles_db.recordings.run import RecordedRun, from_earliest

NAME: Final = "inference-perf"
_LAST_S: Final = 1e12
_PROMPT: Final = ("info.request_metrics.text.input_tokens", "info.input_tokens")
_OUTPUT: Final = ("info.response_metrics.output_tokens", "info.output_tokens")
_TOKEN_TIMES: Final = ("info.response_metrics.output_token_times", "info.output_token_times")


def matches(record: Mapping[str, Any]) -> bool:
    """Tell an entry by its keys."""
    return all(key in record for key in ("start_time", "end_time", "info"))


def read_entries(path: object, entries: Iterable[tuple[int, Mapping[str, Any]]]) -> RecordedRun:
    """Read the entries of one run, each with its number."""
    rows: list[tuple[int, int, bool, float, float, float]] = []
    errors: list[str | None] = []
    for number, entry in entries:
        place = f"{path}: entry {number}"
        start_s = number_at(entry, "start_time", place, high=_LAST_S)
        error = entry.get("error")
        errors.append(None if error is None else shown(value_at(entry, "error.error_msg") or error))
        if error is not None:
            rows.append((0, 0, False, start_s, math.nan, math.nan))
            continue
        prompt = count_at(entry, _first(entry, _PROMPT), place, low=1)
        output = count_at(entry, _first(entry, _OUTPUT), place)
        end_s = number_at(entry, "end_time", place, low=start_s, high=_LAST_S)
        rows.append((prompt, output, True, start_s, _first_token_s(entry, place, start_s), end_s - start_s))
    if not rows:
        raise UserError(f"{path}: holds no request")
    columns = list(zip(*rows, strict=True))
    return RecordedRun(
        tool=NAME,
        place=str(path),
        prompt_tokens=np.array(columns[0], dtype=np.int64),
        output_tokens=np.array(columns[1], dtype=np.int64),
        is_ok=np.array(columns[2], dtype=np.bool_),
        start_s=from_earliest(np.array(columns[3])),
        ttft_s=np.array(columns[4]),
        e2e_s=np.array(columns[5]),
        errors=errors,
        states_load=False,
    )


def _first(entry: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """First of ``keys`` that the entry has, else the last."""
    return next((key for key in keys if value_at(entry, key) is not None), keys[-1])


def _first_token_s(entry: Mapping[str, Any], place: str, start_s: float) -> float:
    key = _first(entry, _TOKEN_TIMES)
    times = value_at(entry, key)
    if not isinstance(times, list) or not times:
        return math.nan
    value = times[0]
    if isinstance(value, bool) or not isinstance(value, int | float) or not start_s <= value <= _LAST_S:
        raise UserError(f"{place}: {key}[0] is {shown(value)}, must be a time from start_time {start_s:g} on")
    return float(value) - start_s
