"""Summaries of genai-perf (``profile_export_genai_perf.json``) and AIPerf (``profile_export_aiperf.json``).

Both write one object per metric with its unit and statistics. What they call inter-token latency is, per request,
(request latency - time to first token) / (output tokens - 1), and so TPOT here; AIPerf's ``inter_chunk_latency`` pools
the gaps between parts of answers. ``input_config`` holds the load: genai-perf's ``perf_analyzer.stimulus``, AIPerf's
``loadgen``. Sources: triton-inference-server/perf_analyzer genai-perf/genai_perf/export_data/json_exporter.py,
metrics/statistics.py and config/input/config_perf_analyzer.py; ai-dynamo/aiperf aiperf/common/models/export_models.py,
metrics/types/inter_token_latency_metric.py and common/config/loadgen_config.py.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from profiles_db.recordings.fields import LONGEST_S, MOST_COUNT, MOST_TOKENS, count_at, number_at, value_at
from profiles_db.recordings.server_facts import server_facts
from profiles_db.recordings.stated_server import StatedServer
from profiles_db.recordings.summarised_run import SummarisedRun
from profiles_db.recordings.summary import ClientSummary

NAME: Final = "genai-perf"
AIPERF: Final = "aiperf"
_LATENCIES: Final = {
    "time_to_first_token": "ttft_s",
    "inter_token_latency": "tpot_s",
    "inter_chunk_latency": "itl_s",
    "request_latency": "e2e_s",
}
_STATISTICS: Final = {"avg": "mean", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99"}
_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0}
_RATES: Final = {
    "request_throughput": "throughput_requests_per_s",
    "output_token_throughput": "throughput_tokens_per_s",
    "total_token_throughput": "throughput_total_tokens_per_s",
}
_FASTEST_PER_S: Final = 1e9


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a summary by the metrics that both tools always write."""
    return all(
        isinstance(record.get(key), dict) and "avg" in record[key] for key in ("request_latency", "request_throughput")
    )


def read_export(document: Mapping[str, Any], place: str) -> SummarisedRun:
    """Read a summary; raises ``UserError`` naming place, key and value."""
    metrics = {
        f"{path}.{statistic}": _latency_s(document, f"{key}.{own}", f"{key}.unit", place)
        for key, path in _LATENCIES.items()
        for own, statistic in _STATISTICS.items()
        if value_at(document, f"{key}.{own}") is not None
    }
    metrics |= {
        path: number_at(document, f"{key}.avg", place, high=_FASTEST_PER_S)
        for key, path in _RATES.items()
        if value_at(document, f"{key}.avg") is not None
    }
    duration_s = _duration_s(document, place)
    requests = _requests(document, duration_s, place)
    rate_per_s, concurrency = _load(document, place)
    is_aiperf = "request_count" in document and "stimulus" not in str(value_at(document, "input_config.perf_analyzer"))
    return SummarisedRun(
        tool=AIPERF if is_aiperf else NAME,
        place=place,
        requests=requests,
        failed=0
        if value_at(document, "error_request_count.avg") is None
        else count_at(document, "error_request_count.avg", place, high=MOST_COUNT),
        mean_prompt_tokens=_mean_length(document, "input_sequence_length", place),
        mean_output_tokens=_mean_length(document, "output_sequence_length", place),
        rate_per_s=rate_per_s,
        max_concurrency=concurrency,
        states_load=rate_per_s is not None or concurrency is not None,
        summary=ClientSummary(duration_s=duration_s, completed=requests, metrics=metrics),
        stated=StatedServer(model=_model(document, place)),
        server=server_facts(document, place),
        refusal="the run was cancelled" if document.get("was_cancelled") is True else None,
    )


def _latency_s(document: Mapping[str, Any], key: str, unit_key: str, place: str) -> float:
    unit = value_at(document, unit_key)
    if not isinstance(unit, str) or unit not in _SECONDS:
        raise UserError(f"{place}: {unit_key} is {shown(unit)}, must be one of {', '.join(_SECONDS)}")
    factor = _SECONDS[unit]
    return number_at(document, key, place, high=LONGEST_S / factor) * factor


def _mean_length(document: Mapping[str, Any], key: str, place: str) -> float | None:
    path = f"{key}.avg"
    return None if value_at(document, path) is None else number_at(document, path, place, high=MOST_TOKENS)


def _duration_s(document: Mapping[str, Any], place: str) -> float | None:
    if value_at(document, "benchmark_duration.avg") is None:
        return None
    return _latency_s(document, "benchmark_duration.avg", "benchmark_duration.unit", place)


def _requests(document: Mapping[str, Any], duration_s: float | None, place: str) -> int:
    """Read how many requests were answered; older files of genai-perf leave it to rate and duration."""
    if value_at(document, "request_count.avg") is not None:
        return count_at(document, "request_count.avg", place, high=MOST_COUNT)
    if duration_s is None:
        raise UserError(
            f"{place}: has no request_count, so that nothing tells how many requests were served",
            hint="take a file of genai-perf 0.0.9 or later, or of AIPerf",
        )
    return round(number_at(document, "request_throughput.avg", place, high=_FASTEST_PER_S) * duration_s)


def _model(document: Mapping[str, Any], place: str) -> str | None:
    names = value_at(document, "input_config.endpoint.model_names") or value_at(document, "input_config.model_names")
    if names is None:
        return None
    if isinstance(names, list) and len(names) == 1:
        names = names[0]
    if not isinstance(names, str) or not names.strip():
        raise UserError(f"{place}: model_names is {shown(names)}, must name one model")
    return names


def _load(document: Mapping[str, Any], place: str) -> tuple[float | None, int | None]:
    """Rate and concurrency that the client was told; None where the file does not say."""
    for root in ("input_config.perf_analyzer.stimulus", "input_config.loadgen"):
        told = value_at(document, root)
        if not isinstance(told, dict):
            continue
        rate = (
            None if told.get("request_rate") is None else number_at(told, "request_rate", f"{place}: {root}", low=1e-9)
        )
        cap = None
        if told.get("concurrency") is not None:
            cap = count_at(told, "concurrency", f"{place}: {root}", low=1, high=MOST_COUNT)
        if rate is not None or cap is not None:
            return (math.inf if rate is None else rate), cap
    return None, None
