"""Which client wrote a file, and the runs in it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from cluster_specs.errors import UserError
from cluster_specs.files.json_list import iter_list
from cluster_specs.files.json_text import parse_json, read_json
from cluster_specs.files.reading import iter_lines, opened
from cluster_specs.files.shown import shown
from profiles_db.recordings import aiperf, guidellm, inference_perf, llmservingsim, vllm_bench
from profiles_db.recordings.run import RecordedRun

_MATCHES: Final[Mapping[str, Callable[[Mapping[str, Any]], bool]]] = {
    vllm_bench.NAME: vllm_bench.matches,
    aiperf.NAME: aiperf.matches,
    guidellm.NAME: guidellm.matches,
    inference_perf.NAME: inference_perf.matches,
    llmservingsim.NAME: llmservingsim.matches,
}
TOOLS: Final = tuple(_MATCHES)


def tool_of(record: Mapping[str, Any]) -> str | None:
    """Name of the client that writes such an object: a whole result, or one line or entry of it; None for none."""
    return next((name for name, matches in _MATCHES.items() if matches(record)), None)


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
