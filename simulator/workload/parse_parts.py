"""A workload from one line of text in parts, where no request waits for an answer: files and open loops."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from cluster_specs.files.reading import opened
from simulator.workload.parse import generator_settings, replayed_file, synthetic_of, trace_file
from simulator.workload.parts import PART_REQUESTS, WHOLE_HINT, NotStreamableError, WorkloadParts, survey
from simulator.workload.scale import scale_workload
from simulator.workload.traces.parquet_traces import count_rows, is_parquet
from simulator.workload.workload import Workload

_BLOCK_BYTES: Final = 2**20
_SHORTEST_RECORD_BYTES: Final = 6  # 0,1,1 and the end of its line
# What keeps a kind of text from being served in parts; the first two only where a setting asks for it.
_WAITING: Final = "a client with a concurrency or a time-out acts on answers"
_REASONS: Final = {
    "synthetic": _WAITING,
    "replay": _WAITING,
    "closed": "a closed loop sends a request when another is answered",
    "sessions": "turns follow the answers of earlier ones",
    "groups": "its prompts share prefixes, and a cache of them needs all requests at once",
}
_WHOLE_READINGS: Final = {
    "sort": "--sort puts all requests in order",
    "turns": "--turns after_parent links requests of the whole trace",
    "result": "--result is for a benchmark client's file, which is one document",
}


def parse_parts(
    text: str,
    *,
    rate_scale: float = 1.0,
    length_scale: float | tuple[float, float] = 1.0,
    limit: int | None = None,
    part_requests: int = PART_REQUESTS,
    images: str | None = None,
    audio_s: str | None = None,
    **reading: Any,
) -> WorkloadParts:
    """Return the workload ``text`` names in parts, read or drawn once from end to end.

    Arguments and requests are those of `parse_workload`. Raises ``NotStreamableError`` for a workload that needs all
    requests at once, ``UserError`` as `parse_workload` does.
    """
    if images is not None or audio_s is not None:
        raise NotStreamableError(f"{text} cannot be streamed: requests with images or audio", hint=WHOLE_HINT)
    settings = generator_settings(text, reading)
    cut: dict[str, Any] = {"rate_scale": rate_scale, "length_scale": length_scale, "limit": limit}
    for name, reason in _WHOLE_READINGS.items():
        if name in reading:
            raise NotStreamableError(f"{text} cannot be streamed: {reason}", hint=WHOLE_HINT)
    if settings is None:

        def of_file() -> Iterator[Workload]:
            with trace_file(text) as path:
                yield from _iter_file(path, chunk_requests=part_requests, **cut, **reading)

        return survey(of_file)
    waits = settings.values.keys() & {"max_concurrency", "timeout_s"}
    if waits or settings.scheme not in {"synthetic", "replay"}:
        raise NotStreamableError(f"{text} cannot be streamed: {_REASONS[settings.scheme]}", hint=WHOLE_HINT)
    if settings.scheme == "replay":
        file = replayed_file(settings)
        settings.refuse_unknown()
        return survey(lambda: _iter_file(file, chunk_requests=part_requests, **cut, **reading))
    drawn, _ = synthetic_of(settings)
    settings.refuse_unknown()
    return survey(lambda: _cut(drawn.iter_parts(part_requests), **cut))


def _iter_file(path: str | Path, **reading: Any) -> Iterator[Workload]:
    from simulator.workload.traces.read_trace import iter_trace

    return iter_trace(path, **reading)


def may_hold_more(text: str, most: int, *, limit: int | None = None) -> bool:
    """Whether the workload ``text`` names may have more than ``most`` requests, told without reading them.

    Of a text file the lines are counted (of a JSON list the objects): an upper bound.
    """
    settings = generator_settings(text, {})
    if limit is not None and limit <= most:
        return False
    if settings is not None and settings.scheme == "synthetic":
        return settings.number("n", 1000, int) > most
    if settings is not None and settings.scheme != "replay":
        return False
    with trace_file(text if settings is None else replayed_file(settings)) as path:
        return _file_may_hold_more(path, most)


def _file_may_hold_more(path: Path, most: int) -> bool:
    if is_parquet(path):
        return count_rows(path) > most
    if path.suffix != ".gz" and path.stat().st_size <= most * _SHORTEST_RECORD_BYTES:
        return False
    with opened(path) as stream:
        block = stream.read(_BLOCK_BYTES)
        mark = b"{" if block.lstrip().startswith(b"[") else b"\n"
        count = 0
        while block and count <= most:
            count += block.count(mark)
            block = stream.read(_BLOCK_BYTES)
    return count > most


def _cut(
    parts: Iterable[Workload], *, rate_scale: float, length_scale: float | tuple[float, float], limit: int | None
) -> Iterator[Workload]:
    """Yield the first ``limit`` requests of ``parts``, scaled."""
    left = limit
    for part in parts:
        scaled = scale_workload(part, rate_scale, length_scale)
        yield scaled if left is None else scaled.head(left)
        if left is not None:
            left -= len(part)
            if left <= 0:
                return
