"""Results of ``vllm bench serve`` and of SGLang's ``bench_serving``, which writes the same keys.

One JSON object per run; runs appended to one file stand on lines of their own. With details (``--save-detailed``,
SGLang: ``--output-details``) it holds a list per quantity, one entry per request. With the client's clock,

    e2e_s = ttft_s + sum of the gaps between chunks        tpot_s = (e2e_s - ttft_s) / (output_tokens - 1)

A gap spans several tokens when the server streams or speculates more than one token per chunk. Sources:
vllm-project/vllm vllm/benchmarks/serve.py, sgl-project/sglang python/sglang/bench_serving.py.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from profiles_db.recordings.fields import (
    LONGEST_S,
    MOST_COUNT,
    count_at,
    counts_of,
    list_at,
    number_at,
    optional_number_at,
    times_of,
    value_at,
)
from profiles_db.recordings.run import RecordedRun, from_earliest
from profiles_db.recordings.server_facts import server_facts
from profiles_db.recordings.stated_server import StatedServer
from profiles_db.recordings.summary import ClientSummary

NAME: Final = "vllm-bench"
SUMMARY_KEYS: Final = ("duration", "completed", "total_input_tokens", "total_output_tokens")
DETAIL_HINT: Final = "run vllm bench serve with --save-detailed, SGLang's bench_serving with --output-details"
_LONGEST_REMARK: Final = 600
_FASTEST_PER_S: Final = 1e9
# Keys of the client's own summary, in ms; a percentile is there where it was asked for.
_TIMES_MS: Final = {
    f"{word}_{key}_ms": (name, statistic)
    for key, name in (("ttft", "ttft_s"), ("tpot", "tpot_s"), ("itl", "itl_s"), ("e2el", "e2e_s"))
    for word, statistic in (("mean", "mean"), ("median", "p50"), ("p90", "p90"), ("p95", "p95"), ("p99", "p99"))
} | {
    f"{word}_e2e_latency_ms": ("e2e_s", statistic)  # SGLang's name
    for word, statistic in (("mean", "mean"), ("median", "p50"), ("p90", "p90"), ("p99", "p99"))
}
_RATES: Final = {
    "request_throughput": "throughput_requests_per_s",
    "output_throughput": "throughput_tokens_per_s",
    "total_token_throughput": "throughput_total_tokens_per_s",
    "total_throughput": "throughput_total_tokens_per_s",  # SGLang's name
}
_LONGEST_CLOCK_S: Final = 1e12  # seconds of a perf_counter, whose zero is arbitrary


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a serving result by the keys every version writes."""
    return "input_lens" in record or all(key in record for key in SUMMARY_KEYS)


def read_result(document: Mapping[str, Any], place: str) -> RecordedRun:
    """Read one result with details; raises ``UserError`` naming place, key and value."""
    prompts = counts_of(_filled(document, "input_lens", place), "input_lens", place)
    outputs = counts_of(_filled(document, "output_lens", place), "output_lens", place)
    count = len(prompts)
    if len(outputs) != count:
        raise UserError(f"{place}: input_lens has {count} entries, output_lens {len(outputs)}; must match")
    errors = _errors(document, place, count)
    is_ok = (outputs > 0) & np.array([not error for error in errors], dtype=np.bool_)
    short = is_ok & (prompts < 1)
    if short.any():
        raise UserError(f"{place}: input_lens[{int(np.argmax(short))}] is 0, must be >= 1")
    ttft_s, e2e_s, gaps_s = _measured(document, place, is_ok)
    return RecordedRun(
        tool="sglang-bench" if "total_output_tokens_retokenized" in document else NAME,
        place=place,
        prompt_tokens=prompts,
        output_tokens=outputs,
        is_ok=is_ok,
        start_s=_starts(document, place, count),
        ttft_s=ttft_s,
        e2e_s=e2e_s,
        gaps_s=gaps_s,
        errors=errors,
        rate_per_s=_rate(document, place),
        max_concurrency=None
        if document.get("max_concurrency") is None
        else count_at(document, "max_concurrency", place, low=1, high=MOST_COUNT),
        notes=_remarks(document, place),
        summary=summary_of(document, place),
        stated=stated_server(document, place),
        server=server_facts(document, place),
    )


def summary_of(document: Mapping[str, Any], place: str) -> ClientSummary:
    """Read what the client says of the run as a whole, with or without details."""
    metrics = {
        f"{name}.{statistic}": number_at(document, key, place, high=1e3 * LONGEST_S) / 1e3
        for key, (name, statistic) in _TIMES_MS.items()
        if document.get(key) is not None
    }
    rates = {
        path: number_at(document, key, place, high=_FASTEST_PER_S)
        for key, path in _RATES.items()
        if document.get(key) is not None
    }
    duration_s = optional_number_at(document, "duration", place)
    return ClientSummary(
        duration_s=None if math.isnan(duration_s) else duration_s,
        completed=_optional_count(document, "completed", place),
        failed=_optional_count(document, "failed", place),
        prompt_tokens=_optional_count(document, "total_input_tokens", place),
        output_tokens=_optional_count(document, "total_output_tokens", place),
        metrics=metrics | rates,
    )


def stated_server(document: Mapping[str, Any], place: str) -> StatedServer:
    """Read which model the client asked for."""
    model = document.get("model_id")
    if model is not None and not (isinstance(model, str) and model.strip()):
        raise UserError(f"{place}: model_id is {shown(model)}, must be a text")
    return StatedServer(model=model)


def _optional_count(document: Mapping[str, Any], key: str, place: str) -> int | None:
    return None if document.get(key) is None else count_at(document, key, place, high=MOST_COUNT)


def _remarks(document: Mapping[str, Any], place: str) -> tuple[str, ...]:
    """Return what `apex observe` said against a result: why it ended early, that the client was the bottleneck."""
    remarks = value_at(document, "observed.remarks")
    if remarks is None:
        return ()
    if not isinstance(remarks, list) or not all(isinstance(remark, str) for remark in remarks):
        raise UserError(f"{place}: observed.remarks is {shown(remarks)}, must be a list of texts")
    return tuple(remark[:_LONGEST_REMARK] for remark in remarks)


def _filled(document: Mapping[str, Any], key: str, place: str) -> Sequence[Any]:
    values = document.get(key)
    if not isinstance(values, list) or not values:
        raise UserError(f"{place}: has no per-request list {key!r}", hint=DETAIL_HINT)
    return values


def _same_length(document: Mapping[str, Any], key: str, place: str, count: int) -> Sequence[Any]:
    values = list_at(document, key, place, hint=DETAIL_HINT)
    if len(values) != count:
        raise UserError(f"{place}: {key} has {len(values)} entries, input_lens has {count}")
    return values


def _errors(document: Mapping[str, Any], place: str, count: int) -> list[str | None]:
    if document.get("errors") is None:
        return [None] * count
    found: list[str | None] = []
    for index, error in enumerate(_same_length(document, "errors", place, count)):
        if error is not None and not isinstance(error, str):
            raise UserError(f"{place}: errors[{index}] is {shown(error)}, must be a text")
        found.append(error.encode("utf-8", "replace").decode() if error else None)
    return found


def _measured(
    document: Mapping[str, Any], place: str, is_ok: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[NDArray[np.float64]] | None]:
    """TTFT and E2E of the requests that were served, and the gaps between the chunks of every request."""
    count = len(is_ok)
    nothing = np.full(count, np.nan)
    if document.get("ttfts") is None and document.get("itls") is None:
        return nothing, nothing, None
    ttfts = times_of(_same_length(document, "ttfts", place, count), "ttfts", place)
    gaps_s = []
    for index, gaps in enumerate(_same_length(document, "itls", place, count)):
        if not isinstance(gaps, list):
            raise UserError(f"{place}: itls[{index}] is {shown(gaps)}, must be a list of seconds")
        gaps_s.append(times_of(gaps, f"itls[{index}]", place))
    decode_s = np.array([gaps.sum() for gaps in gaps_s])
    return np.where(is_ok, ttfts, np.nan), np.where(is_ok, ttfts + decode_s, np.nan), gaps_s


def _starts(document: Mapping[str, Any], place: str, count: int) -> NDArray[np.float64] | None:
    if document.get("start_times") is None:
        return None
    starts = _same_length(document, "start_times", place, count)
    return from_earliest(times_of(starts, "start_times", place, low=-_LONGEST_CLOCK_S, high=_LONGEST_CLOCK_S))


def _rate(document: Mapping[str, Any], place: str) -> float | None:
    """Rate the client aimed at: vLLM writes "inf" as a text, SGLang as the number Infinity, or "trace" for a replay."""
    value = document.get("request_rate")
    if value in (None, "trace"):
        return None
    if value == "inf" or (isinstance(value, float) and value == math.inf):
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _FASTEST_PER_S:
        raise UserError(f"{place}: request_rate is {shown(value)}, must be a positive number or inf")
    return float(value)
