"""Results of ``vllm bench serve`` and of SGLang's ``bench_serving``, which writes the same keys.

One JSON object per run; runs appended to one file stand on lines of their own. With details (``--save-detailed``,
SGLang: ``--output-details``) it holds a list per quantity, one entry per request. With the client's clock,

    e2e_s = ttft_s + sum of the gaps between chunks        tpot_s = (e2e_s - ttft_s) / (output_tokens - 1)

A gap spans several tokens when the server streams or speculates more than one token per chunk. Sources:
vllm-project/vllm vllm/benchmarks/serve.py, sgl-project/sglang python/sglang/bench_serving.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from profiles_db.recordings.fields import (
    counts_of,
    list_at,
    times_of,
    value_at,
)
from profiles_db.recordings.run import RecordedRun, from_earliest
from profiles_db.recordings.server_facts import server_facts
from profiles_db.recordings.vllm_bench_summary import (
    NAME,
    SGLANG,
    concurrency_of,
    rate_of,
    stated_server,
    summary_of,
)

SUMMARY_KEYS: Final = ("duration", "completed", "total_input_tokens", "total_output_tokens")
DETAIL_HINT: Final = "run vllm bench serve with --save-detailed, SGLang's bench_serving with --output-details"
_LONGEST_REMARK: Final = 600
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
    start_s = _starts(document, place, count)
    return RecordedRun(
        tool=SGLANG if "total_output_tokens_retokenized" in document else NAME,
        place=place,
        prompt_tokens=prompts,
        output_tokens=outputs,
        is_ok=is_ok,
        start_s=start_s,
        due_s=_dues(document, place, start_s),
        ttft_s=ttft_s,
        e2e_s=e2e_s,
        gaps_s=gaps_s,
        errors=errors,
        rate_per_s=rate_of(document, place),
        max_concurrency=concurrency_of(document, place),
        notes=_remarks(document, place),
        summary=summary_of(document, place),
        stated=stated_server(document, place),
        server=server_facts(document, place),
    )


def has_details(document: Mapping[str, Any]) -> bool:
    """Tell a result with a list per request from a summary."""
    return document.get("input_lens") is not None


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


def _dues(document: Mapping[str, Any], place: str, start_s: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    """When requests were due, before the client's own concurrency held them back; vLLM keeps it from 0.33 on."""
    if start_s is None or document.get("queue_times") is None or document.get("max_concurrency") is None:
        return None
    waits = times_of(_same_length(document, "queue_times", place, len(start_s)), "queue_times", place)
    return from_earliest(start_s - waits)
