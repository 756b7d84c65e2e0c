"""What results of ``vllm bench serve`` and of SGLang's ``bench_serving`` say of a run as a whole.

Every result has it; without details it is all there is. Sources as in `profiles_db.recordings.vllm_bench`.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from profiles_db.recordings.dates import stated_day
from profiles_db.recordings.fields import LONGEST_S, MOST_COUNT, count_at, number_at, optional_number_at
from profiles_db.recordings.server_facts import server_facts
from profiles_db.recordings.stated_server import StatedServer
from profiles_db.recordings.summarised_run import NominalLengths, SummarisedRun
from profiles_db.recordings.summary import ClientSummary

NAME: Final = "vllm-bench"
SGLANG: Final = "sglang-bench"
_FASTEST_PER_S: Final = 1e9
_MOST_WIDTH: Final = 4096
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


def read_summary(document: Mapping[str, Any], place: str) -> SummarisedRun:
    """Read a result without details; raises ``UserError`` naming place, key and value."""
    summary = summary_of(document, place)
    completed = count_at(document, "completed", place, high=MOST_COUNT)
    is_sglang = "total_output_tokens_retokenized" in document
    rate_per_s = rate_of(document, place)
    asked = _optional_count(document, "num_prompts", place)  # versions that count no failures leave it to this
    failed = summary.failed if summary.failed is not None else max(0, (asked or completed) - completed)
    return SummarisedRun(
        tool=SGLANG if is_sglang else NAME,
        place=place,
        requests=completed,
        failed=failed,
        mean_prompt_tokens=_mean(summary.prompt_tokens, completed),
        mean_output_tokens=_mean(summary.output_tokens, completed),
        nominal=_nominal(document, place, is_sglang=is_sglang),
        rate_per_s=rate_per_s,
        burstiness=1.0
        if document.get("burstiness") is None
        else number_at(document, "burstiness", place, low=1e-6, high=1e6),
        spans_rate=not is_sglang,
        max_concurrency=concurrency_of(document, place),
        summary=summary,
        stated=stated_server(document, place),
        server=server_facts(document, place),
        refusal=_refusal(document, rate_per_s),
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
        day=stated_day(document, place),
        duration_s=None if math.isnan(duration_s) else duration_s,
        completed=_optional_count(document, "completed", place),
        failed=_optional_count(document, "failed", place),
        prompt_tokens=_optional_count(document, "total_input_tokens", place),
        output_tokens=_optional_count(document, "total_output_tokens", place),
        metrics=metrics | rates,
    )


# Arguments of a server that change what its steps cost in ways no price or rule here knows.
_UNMODELLED: Final = {
    "enable_lora": "LoRA",
    "lora_paths": "LoRA",
    "enable_hierarchical_cache": "KV cache in host memory",
    "enable_lmcache": "KV cache in host memory",
}


def stated_server(document: Mapping[str, Any], place: str) -> StatedServer:
    """Read which model the client asked for; SGLang's also says how the server was started (``server_info``)."""
    model = _text(document, "model_id", place)
    info = document.get("server_info")
    if not isinstance(info, dict):
        return StatedServer(model=model)
    own = f"{place}: server_info"
    for key, what in _UNMODELLED.items():
        if info.get(key):
            raise UserError(
                f"{own}: {key} is {shown(info[key])}: {what} is not simulated, so the run has no prediction"
            )
    return StatedServer(
        model=model or _text(info, "model_path", own),
        engine="sglang",
        version=_text(info, "version", own),
        plan=_sglang_plan(info, own),
    )


def _sglang_plan(info: Mapping[str, Any], place: str) -> str | None:
    """Layout in the words of SGLang's arguments; None where they are not all there, or are no plan.

    Attention data parallelism splits the ranks of ``tp_size``; without it ``dp_size`` counts replicas.
    """
    if any(info.get(key) is None for key in ("tp_size", "dp_size", "pp_size", "ep_size")):
        return None
    tp, dp, pp, ep = (
        count_at(info, key, place, low=1, high=_MOST_WIDTH) for key in ("tp_size", "dp_size", "pp_size", "ep_size")
    )
    if ep not in {1, tp}:
        return None
    if info.get("enable_dp_attention") is True and dp > 1:
        spread = f"-moe.ep{tp}" if ep > 1 else ""
        return f"attn.dp{dp}{spread}" if dp == tp and pp == 1 else None
    parts = [f"dp{dp}"] if dp > 1 else []
    parts += [f"pp{pp}"] if pp > 1 else []
    return "-".join([*parts, f"tp{tp}", *([f"ep{ep}"] if ep > 1 else [])])


def _refusal(document: Mapping[str, Any], rate_per_s: float | None) -> str | None:
    if document.get("ramp_up_strategy") is not None:
        return "its rate was ramped up, and the times of sending were not kept"
    return None if rate_per_s is not None else "it replayed a trace, or states no rate, and kept no times of sending"


def _text(record: Mapping[str, Any], key: str, place: str) -> str | None:
    value = record.get(key)
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise UserError(f"{place}: {key} is {shown(value)}, must be a text")
    return value


def concurrency_of(document: Mapping[str, Any], place: str) -> int | None:
    """Read how many requests the client kept unanswered at most; None where there was no limit."""
    if document.get("max_concurrency") is None:
        return None
    return count_at(document, "max_concurrency", place, low=1, high=MOST_COUNT)


def rate_of(document: Mapping[str, Any], place: str) -> float | None:
    """Read the rate the client aimed at, of a ramp its end; None where it replayed a trace or says nothing.

    vLLM writes "inf" as a text, SGLang as the number Infinity, or "trace" for a replay.
    """
    if document.get("ramp_up_strategy") is not None:
        return number_at(document, "ramp_up_end_rps", place, low=1e-9, high=_FASTEST_PER_S)
    value = document.get("request_rate")
    if value in (None, "trace"):
        return None
    if value == "inf" or (isinstance(value, float) and value == math.inf):
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _FASTEST_PER_S:
        raise UserError(f"{place}: request_rate is {shown(value)}, must be a positive number or inf")
    return float(value)


def _optional_count(document: Mapping[str, Any], key: str, place: str) -> int | None:
    return None if document.get(key) is None else count_at(document, key, place, high=MOST_COUNT)


def _mean(total: int | None, requests: int) -> float | None:
    return None if total is None or requests == 0 else total / requests


def _nominal(document: Mapping[str, Any], place: str, *, is_sglang: bool) -> NominalLengths | None:
    """Read the lengths that random prompts were drawn around, where they are stated.

    SGLang writes them for every dataset, and draws in [ratio, 1] x nominal; the seed is its default in old and in new
    versions, and not written. vLLM writes what ``--metadata random_input_len=...`` hands on, as texts.
    """
    if is_sglang and not str(document.get("dataset_name")).startswith("random"):
        return None
    values = {key: document.get(key) for key in ("random_input_len", "random_output_len", "random_range_ratio")}
    if any(value is None for value in values.values()):
        return None
    read = {key: _number_of(value, key, place) for key, value in values.items()}
    return NominalLengths(
        prompt_tokens=count_at(read, "random_input_len", place, low=1),
        output_tokens=count_at(read, "random_output_len", place, low=1),
        range_ratio=number_at(read, "random_range_ratio", place, high=1.0),
        draw="sglang-bench" if is_sglang else "vllm-bench",
        seeds=(1, 42) if is_sglang else (0,),
    )


def _number_of(value: object, key: str, place: str) -> object:
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError as error:
        raise UserError(f"{place}: {key} is {shown(value)}, must be a number") from error
