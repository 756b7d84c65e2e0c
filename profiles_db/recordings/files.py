"""Which client wrote a file, and the runs in it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from cluster_specs.errors import UserError
from cluster_specs.files.json_list import iter_list
from cluster_specs.files.json_text import parse_json, read_json
from cluster_specs.files.reading import iter_lines, opened
from cluster_specs.files.shown import shown
from profiles_db.recordings import (
    aiperf,
    genai_perf,
    guidellm,
    inference_perf,
    inferencex,
    llmservingsim,
    vllm_bench,
    vllm_bench_summary,
)
from profiles_db.recordings.run import RecordedRun
from profiles_db.recordings.summarised_run import SummarisedRun

# Of every request; the names are those of ``profiles_db.recordings.tools``.
_MATCHES: Final[Mapping[str, Callable[[Mapping[str, Any]], bool]]] = {
    vllm_bench_summary.NAME: vllm_bench.matches,
    aiperf.NAME: aiperf.matches,
    guidellm.NAME: guidellm.matches,
    inference_perf.NAME: inference_perf.matches,
    llmservingsim.NAME: llmservingsim.matches,
}
INFERENCE_PERF_SUMMARY: Final = "inference-perf-summary"
# Of a run as a whole; those of `vllm bench serve` have the keys of one with details.
# AIPerf and inference-perf write both.
_SUMMARIES: Final[
    Mapping[str, tuple[Callable[[Mapping[str, Any]], bool], Callable[[Mapping[str, Any], str], SummarisedRun]]]
] = {
    inferencex.NAME: (inferencex.matches, inferencex.read_row),
    genai_perf.NAME: (genai_perf.matches, genai_perf.read_export),
    INFERENCE_PERF_SUMMARY: (inference_perf.matches_summary, inference_perf.read_summary),
}


def tool_of(record: Mapping[str, Any]) -> str | None:
    """Name of the client that writes such an object: a whole result, or one line or entry of it; None for none."""
    return next((name for name, matches in _MATCHES.items() if matches(record)), None)


def client_of(record: Mapping[str, Any]) -> str | None:
    """Name of the client that writes such an object, of a run as a whole or of its requests; None for none."""
    return tool_of(record) or next((name for name, (matches, _) in _SUMMARIES.items() if matches(record)), None)


def read_results(path: Path, client: str) -> list[RecordedRun | SummarisedRun]:
    """Read all runs that a file of ``client`` holds, each as well as the client kept it.

    Raises ``UserError`` naming file, line or entry, key and value.
    """
    if client not in {*_SUMMARIES, vllm_bench_summary.NAME}:
        return list(read_runs(path, client))
    found: list[RecordedRun | SummarisedRun] = []
    for place, record in _records(path):
        own = client_of(record)
        if own != client:
            raise UserError(
                f"{place}: is {'of ' + own if own else 'of no known client'}, the file begins with {client}"
            )
        if client != vllm_bench_summary.NAME:
            found.append(_SUMMARIES[client][1](record, place))
        elif vllm_bench.has_details(record):
            found.append(vllm_bench.read_result(record, place))
        else:
            found.append(vllm_bench_summary.read_summary(record, place))
    return found


def _records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the objects of a file, one after the other or in a list."""
    for place, document in read_json(path):
        if not isinstance(document, list):
            yield place, _object(document, place)
            continue
        for number, entry in enumerate(document, start=1):
            yield f"{place}: entry {number}", _object(entry, f"{place}: entry {number}")


def read_runs(path: Path, tool: str) -> list[RecordedRun]:
    """Read all runs that a file of ``tool`` holds; raises ``UserError`` naming file, line or entry, key and value."""
    if tool == aiperf.NAME:
        return [aiperf.read_records(path, _lines(path))]
    if tool == llmservingsim.NAME:
        return [llmservingsim.read_requests(path, _lines(path))]
    if tool == inference_perf.NAME:
        return [inference_perf.read_entries(path, _entries(path))]
    documents = [(place, _object(document, place)) for place, document in read_json(path)]
    if tool == guidellm.NAME:
        return [run for place, document in documents for run in guidellm.read_report(document, place)]
    return [vllm_bench.read_result(document, place) for place, document in documents]


def _object(value: object, place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{place}: is {shown(value)}, must be a JSON object")
    return value


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with opened(path) as stream:
        for number, line in enumerate(iter_lines(stream, path), start=1):
            if not line.isspace():
                place = f"{path}:{number}"
                yield number, _object(parse_json(line.removeprefix(b"\xef\xbb\xbf"), place), place)


def _entries(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with opened(path) as stream:
        for number, value in iter_list(stream, path):
            yield number, _object(value, f"{path}: entry {number}")
