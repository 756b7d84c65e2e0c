"""Reports of guidellm (``benchmarks.json``): one benchmark per rate or concurrency of a sweep.

Source: vllm-project/guidellm src/guidellm/benchmark/schemas (0.4 and later) and src/guidellm/benchmark/benchmark.py (up
to 0.3, where the strategy stands in ``args`` and times are called ``start_time`` and ``end_time``). Times are seconds
since 1970; ``targeted_start`` is when the schedule asked for a request, before a concurrency limit held it back.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from profiles_db.recordings.fields import (
    MOST_COUNT,
    count_at,
    list_at,
    number_at,
    optional_number_at,
    value_at,
)
from profiles_db.recordings.run import RecordedRun

NAME: Final = "guidellm"
_LAST_S: Final = 1e12
_START: Final = ("request_start_time", "start_time", "info.timings.request_start", "info.timings.resolve_start")
_END: Final = ("request_end_time", "end_time", "info.timings.request_end", "info.timings.resolve_end")
_DUE: Final = "info.timings.targeted_start"
_GROUPS: Final = ("successful", "incomplete", "errored")
_TOTALS: Final = ("metrics.request_totals.total", "request_totals.total")


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a report by its list of benchmarks."""
    benchmarks = record.get("benchmarks")
    return isinstance(benchmarks, list) and all(isinstance(one, dict) and "requests" in one for one in benchmarks)


def read_report(document: Mapping[str, Any], place: str) -> list[RecordedRun]:
    """Read every benchmark of a report; raises ``UserError`` naming place, key and value."""
    benchmarks = list_at(document, "benchmarks", place)
    if not benchmarks:
        raise UserError(f"{place}: holds no benchmark")
    return [_read_benchmark(one, f"{place}: benchmark {number}") for number, one in enumerate(benchmarks, start=1)]


def _read_benchmark(benchmark: Mapping[str, Any], place: str) -> RecordedRun:
    groups = {name: _group(benchmark, name, place) for name in _GROUPS}
    _check_sample(benchmark, groups, place)
    rows: list[tuple[int, int, bool, float, float, float, float]] = []
    errors: list[str | None] = []
    for name, entries in groups.items():
        for index, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise UserError(f"{place}: requests.{name}[{index}] is {shown(entry)}, must be a JSON object")
            own = f"{place}: requests.{name}[{index}]"
            start_s = number_at(entry, _first(entry, _START), own, high=_LAST_S)
            due_s = optional_number_at(entry, _DUE, own, high=_LAST_S)
            if name != "successful":
                rows.append((0, 0, False, start_s, due_s, math.nan, math.nan))
                errors.append(shown(value_at(entry, "info.error") or entry.get("error") or name))
                continue
            end_s = number_at(entry, _first(entry, _END), own, low=start_s, high=_LAST_S)
            prompt, output = count_at(entry, "prompt_tokens", own, low=1), count_at(entry, "output_tokens", own)
            ttft_s = optional_number_at(entry, "time_to_first_token_ms", own) / 1e3
            rows.append((prompt, output, True, start_s, due_s, ttft_s, end_s - start_s))
            errors.append(None)
    if not rows:
        raise UserError(f"{place}: holds no request")
    columns = list(zip(*rows, strict=True))
    starts, dues = np.array(columns[3]), np.array(columns[4])
    rate_per_s, concurrency = _load(benchmark, place)
    return RecordedRun(
        tool=NAME,
        place=place,
        prompt_tokens=np.array(columns[0], dtype=np.int64),
        output_tokens=np.array(columns[1], dtype=np.int64),
        is_ok=np.array(columns[2], dtype=np.bool_),
        start_s=starts - starts.min(),
        due_s=None if np.isnan(dues).any() else dues - starts.min(),
        ttft_s=np.array(columns[5]),
        e2e_s=np.array(columns[6]),
        errors=errors,
        rate_per_s=rate_per_s,
        max_concurrency=concurrency,
    )


def _group(benchmark: Mapping[str, Any], name: str, place: str) -> Sequence[Any]:
    found = value_at(benchmark, f"requests.{name}")
    if found is None:
        return []
    if not isinstance(found, list):
        raise UserError(f"{place}: requests.{name} is {shown(found)}, must be a list")
    return found


def _first(entry: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    return next((key for key in keys if value_at(entry, key) is not None), keys[0])


def _check_sample(benchmark: Mapping[str, Any], groups: Mapping[str, Sequence[Any]], place: str) -> None:
    """Refuse a report that kept a sample of its requests: replayed, it would be a lighter load."""
    held = sum(map(len, groups.values()))
    for key in _TOTALS:
        if value_at(benchmark, key) is not None:
            total = count_at(benchmark, key, place, high=MOST_COUNT)
            if held < total:
                raise UserError(
                    f"{place}: holds {held} of {total} requests, a sample",
                    hint="run guidellm so that it keeps all of them (its sample size unset)",
                )


def _load(benchmark: Mapping[str, Any], place: str) -> tuple[float | None, int | None]:
    """Rate and concurrency that the strategy aimed at."""
    for root in ("config.strategy", "args.strategy", "scheduler.strategy"):
        strategy = value_at(benchmark, root)
        if isinstance(strategy, dict):
            break
    else:
        raise UserError(f"{place}: has no strategy in config or args")
    kind = strategy.get("type_")
    cap = (
        None
        if strategy.get("max_concurrency") is None
        else count_at(strategy, "max_concurrency", place, low=1, high=MOST_COUNT)
    )
    if kind == "synchronous":
        return math.inf, 1
    if kind == "concurrent":
        return math.inf, count_at(strategy, "streams", place, low=1, high=MOST_COUNT)
    if kind == "throughput":
        return math.inf, cap
    if kind in ("constant", "poisson", "async"):
        return number_at(strategy, "rate", place), cap
    return None, cap
