"""Requests of LLMServingSim's own vLLM benchmark (``bench/.../vllm/requests.jsonl``), one JSON object per request.

Source: casys-kaist/LLMServingSim bench/core/recorder.py. ``arrival_time`` is seconds since 1970, the other times are of
the engine's monotonic clock: latencies count from where the engine queued a request. The file does not say whether a
rate or a concurrency paced the requests.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from cluster_specs.errors import UserError
from profiles_db.recordings.fields import count_at, number_at, optional_number_at
from profiles_db.recordings.run import RecordedRun, from_earliest

NAME: Final = "llmservingsim-bench"
_LAST_S: Final = 1e12
_KEYS: Final = ("input_toks", "output_toks", "arrival_time", "queued_ts", "last_token_ts")


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a request by its keys."""
    return all(key in record for key in _KEYS)


def read_requests(path: object, records: Iterable[tuple[int, Mapping[str, Any]]]) -> RecordedRun:
    """Read the requests of one run, each with its line."""
    rows: list[tuple[int, int, float, float, float]] = []
    for line, record in records:
        place = f"{path}:{line}"
        start_s = number_at(record, "arrival_time", place, high=_LAST_S)
        queued_s = optional_number_at(record, "queued_ts", place, high=_LAST_S)
        low = 0.0 if math.isnan(queued_s) else queued_s
        first_s = optional_number_at(record, "first_token_ts", place, low=low, high=_LAST_S)
        last_s = optional_number_at(record, "last_token_ts", place, low=low, high=_LAST_S)
        prompt, output = count_at(record, "input_toks", place, low=1), count_at(record, "output_toks", place)
        rows.append((prompt, output, start_s, first_s - queued_s, last_s - queued_s))
    if not rows:
        raise UserError(f"{path}: holds no request")
    columns = list(zip(*rows, strict=True))
    return RecordedRun(
        tool=NAME,
        place=str(path),
        prompt_tokens=np.array(columns[0], dtype=np.int64),
        output_tokens=np.array(columns[1], dtype=np.int64),
        is_ok=np.isfinite(np.array(columns[4])),
        start_s=from_earliest(np.array(columns[2])),
        ttft_s=np.array(columns[3]),
        e2e_s=np.array(columns[4]),
        states_load=False,
    )
