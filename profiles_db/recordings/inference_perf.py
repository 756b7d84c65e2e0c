"""Reports of inference-perf: ``per_request_lifecycle_metrics.json``, one JSON list, and summaries of stages and runs.

Source: kubernetes-sigs/inference-perf inference_perf/reportgen/base.py and apis/base.py; the token counts stood in
``info`` up to version 0.4 and stand in ``info.request_metrics`` and ``info.response_metrics`` since. Times are seconds
of one clock. The list does not say whether a rate or a concurrency paced the requests; a stage's summary does.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from profiles_db.recordings.fields import MOST_COUNT, MOST_TOKENS, count_at, number_at, value_at
from profiles_db.recordings.run import RecordedRun, from_earliest
from profiles_db.recordings.summarised_run import SummarisedRun
from profiles_db.recordings.summary import ClientSummary

NAME: Final = "inference-perf"
_LAST_S: Final = 1e12
_PROMPT: Final = ("info.request_metrics.text.input_tokens", "info.input_tokens")
_OUTPUT: Final = ("info.response_metrics.output_tokens", "info.output_tokens")
_TOKEN_TIMES: Final = ("info.response_metrics.output_token_times", "info.output_token_times")

_LATENCIES: Final = {
    "time_to_first_token": "ttft_s",
    "time_per_output_token": "tpot_s",
    "inter_token_latency": "itl_s",
    "request_latency": "e2e_s",
}
_STATISTICS: Final = {"mean": "mean", "median": "p50", "p90": "p90", "p95": "p95", "p99": "p99"}
_RATES: Final = {
    "requests_per_sec": "throughput_requests_per_s",
    "output_tokens_per_sec": "throughput_tokens_per_s",
    "total_tokens_per_sec": "throughput_total_tokens_per_s",
}


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


def matches_summary(record: Mapping[str, Any]) -> bool:
    """Tell a summary (``summary_lifecycle_metrics.json``, ``stage_N_lifecycle_metrics.json``) by its three parts."""
    return all(isinstance(record.get(key), dict) for key in ("load_summary", "successes", "failures"))


def read_summary(document: Mapping[str, Any], place: str) -> SummarisedRun:
    """Read the summary of a stage, or of a whole run, which states no load; ``UserError`` names place and key."""
    requests = count_at(document, "successes.count", place, high=MOST_COUNT)
    metrics = {
        f"{path}.{statistic}": number_at(document, f"successes.latency.{key}.{own}", place)
        for key, path in _LATENCIES.items()
        for own, statistic in _STATISTICS.items()
        if value_at(document, f"successes.latency.{key}.{own}") is not None
    }
    metrics |= {
        path: number_at(document, f"successes.throughput.{key}", place, high=1e9)
        for key, path in _RATES.items()
        if value_at(document, f"successes.throughput.{key}") is not None
    }
    duration = value_at(document, "benchmark_time_seconds")
    rate, cap = (value_at(document, f"load_summary.{key}") for key in ("requested_rate", "concurrency"))
    return SummarisedRun(
        tool=NAME,
        place=place,
        requests=requests,
        failed=count_at(document, "failures.count", place, high=MOST_COUNT),
        mean_prompt_tokens=_mean_length(document, ("successes.prompt_tokens.mean", "successes.prompt_len.mean"), place),
        mean_output_tokens=_mean_length(document, ("successes.output_tokens.mean", "successes.output_len.mean"), place),
        # A stage of a fixed concurrency is sent as answers come; the rate beside it is the one it was set up with.
        rate_per_s=math.inf
        if cap is not None
        else (None if rate is None else number_at(document, "load_summary.requested_rate", place, low=1e-9)),
        max_concurrency=None if cap is None else count_at(document, "load_summary.concurrency", place, low=1),
        states_load=rate is not None or cap is not None,
        summary=ClientSummary(
            duration_s=None if duration is None else number_at(document, "benchmark_time_seconds", place),
            completed=requests,
            metrics=metrics,
        ),
    )


def _mean_length(document: Mapping[str, Any], keys: tuple[str, ...], place: str) -> float | None:
    key = _first(document, keys)
    return None if value_at(document, key) is None else number_at(document, key, place, high=MOST_TOKENS)
