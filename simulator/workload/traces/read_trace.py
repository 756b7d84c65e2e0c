"""Reads a request trace of any supported format into a `Workload`, whole or chunk by chunk in bounded memory."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cluster_specs.errors import UserError
from cluster_specs.files.json_list import iter_list
from cluster_specs.files.json_text import read_json
from cluster_specs.files.reading import opened
from cluster_specs.files.shown import listed
from cluster_specs.lazy_dataclass import dataclass
from profiles_db.recordings.tools import TOOLS
from simulator.workload.columns import MAX_PLAUSIBLE_TOKENS
from simulator.workload.parts import PART_REQUESTS, NotStreamableError
from simulator.workload.scale import scale_workload
from simulator.workload.traces.containers import Container, open_container
from simulator.workload.traces.data_frames import columns_of
from simulator.workload.traces.formats import FORMAT_NAMES, TimeUnit, record_format
from simulator.workload.traces.json_traces import iter_line_records
from simulator.workload.traces.record_reader import RecordReader, Turns
from simulator.workload.traces.sharegpt import TextLengths, is_conversation, read_sharegpt
from simulator.workload.workload import Workload

if TYPE_CHECKING:
    from simulator.workload.traces.recorded import Recorded

_SHAREGPT: Final = "sharegpt"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """How one file is read; every field left alone means what its format says."""

    format: str
    columns: Mapping[str, str]
    time_unit: TimeUnit | None
    block_tokens: int | None
    limit: int | None
    sort: bool = False
    turns: Turns = "recorded"
    result: int | None = None
    rate_scale: float = 1.0  # applied to what was read; says how long a span may be

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate_scale) and self.rate_scale > 0):
            raise UserError(f"rate_scale is {self.rate_scale}, must be a positive number")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit is {self.limit}, must be >= 1")
        if self.block_tokens is not None and not 1 <= self.block_tokens <= MAX_PLAUSIBLE_TOKENS:
            raise UserError(f"block_tokens is {self.block_tokens}, must be >= 1 and <= {MAX_PLAUSIBLE_TOKENS}")
        if self.format not in FORMAT_NAMES:
            record_format(self.format)

    def refuse_for(self, path: Path, what: str, *names: str) -> None:
        """Refuse the options ``names`` for a file on which they cannot act."""
        defaults = {"columns": {}, "turns": "recorded", "sort": False}
        for name in names:
            if getattr(self, name) != defaults.get(name):
                flag = {"columns": "--column"}.get(name, f"--{name.replace('_', '-')}")
                raise UserError(f"{path}: {flag} has no use for {what}", hint=f"leave {flag} out")


def read_trace(
    path: str | Path,
    *,
    format: str = "auto",  # noqa: A002 - the field's word, and the flag's
    rate_scale: float = 1.0,
    length_scale: float | tuple[float, float] = 1.0,
    limit: int | None = None,
    time_unit: TimeUnit | None = None,
    block_tokens: int | None = None,
    columns: Mapping[str, str] | None = None,
    sort: bool = False,
    turns: Turns = "recorded",
    result: int | None = None,
    text: TextLengths | None = None,
) -> Workload:
    """Read a whole trace file into one workload; arrivals count from the first.

    ``rate_scale`` 2 makes requests arrive twice as fast; ``length_scale`` multiplies prompt and output lengths (a pair:
    each its own). ``columns`` maps a role (time, prompt, output ...) to another key, ``time_unit`` and
    ``block_tokens`` overrule the format's. ``turns="after_parent"`` sends a follow-up turn once its parent finished
    instead of at its recorded time. ``result`` chooses one of several results of a benchmark client (from 1). ``text``
    says how ShareGPT's texts are counted. What was dropped or assumed is in ``Workload.notes``. Raises UserError naming
    file, line, key and value.
    """
    reading = _Reading(
        format=format,
        columns=columns or {},
        time_unit=time_unit,
        block_tokens=block_tokens,
        limit=limit,
        sort=sort,
        turns=turns,
        result=result,
        rate_scale=rate_scale,
    )
    file = Path(path)
    opened_as = _open(file, reading)
    if isinstance(opened_as, str):
        workload = _read_requests_of(file, opened_as, reading, text or TextLengths())
    else:
        workload = opened_as.read_whole(PART_REQUESTS, limit)
    return scale_workload(workload, rate_scale, length_scale)


def read_measured(path: str | Path, *, format: str = "auto", result: int | None = None) -> "Recorded":  # noqa: A002
    """Read a benchmark client's file as requests and the times measured for them; UserError for any other file."""
    file = Path(path)
    reading = _Reading(format=format, columns={}, time_unit=None, block_tokens=None, limit=None, result=result)
    tool = _open(file, reading)
    if not isinstance(tool, str) or tool not in TOOLS:
        raise UserError(f"{file}: holds no measured times", hint=f"times are read from {', '.join(TOOLS)}")
    from simulator.workload.traces.recorded import read_recorded

    return read_recorded(file, tool, result=result)


def iter_trace(
    path: str | Path,
    *,
    chunk_requests: int = PART_REQUESTS,
    format: str = "auto",  # noqa: A002 - the field's word, and the flag's
    rate_scale: float = 1.0,
    length_scale: float | tuple[float, float] = 1.0,
    limit: int | None = None,
    time_unit: TimeUnit | None = None,
    block_tokens: int | None = None,
    columns: Mapping[str, str] | None = None,
) -> Iterator[Workload]:
    """Yield a trace as consecutive workloads of at most ``chunk_requests``: memory does not grow with its length.

    Arguments as in `read_trace`. Arrivals go on counting from the start of the trace; sorting and turn links need the
    whole trace, and requests' own names are not compared. Raises UserError as `read_trace` does, for a trace-wide fault
    after the last chunk.
    """
    reading = _Reading(
        format=format,
        columns=columns or {},
        time_unit=time_unit,
        block_tokens=block_tokens,
        limit=limit,
        rate_scale=rate_scale,
    )
    file = Path(path)
    if chunk_requests < 1:
        raise UserError(f"chunk_requests is {chunk_requests}, must be >= 1")
    opened_as = _open(file, reading)
    if isinstance(opened_as, str) or opened_as.is_table:
        raise NotStreamableError(
            f"{file} cannot be streamed: it is one JSON document", hint="apex trace convert it to Parquet first"
        )
    for chunk in opened_as.iter_workloads(chunk_requests, limit):
        yield scale_workload(chunk, rate_scale, length_scale)


def _open(file: Path, reading: _Reading) -> "str | RecordReader":
    """Say which client or text format a file is of, or open it as records."""
    container = open_container(file, is_told=reading.format != "auto" or bool(reading.columns))
    if reading.format in {*TOOLS, _SHAREGPT}:
        return reading.format
    if reading.format == "auto" and not reading.columns and (name := _name_of(container.first)) is not None:
        return name
    reading.refuse_for(file, "records of requests", "result")
    table = None
    if container.kind == "document" or (container.kind == "lines" and _may_be_table(container)):
        documents = read_json(file)
        first = documents[0][1]
        if reading.format == "auto" and isinstance(first, dict) and (name := _name_of(first)) is not None:
            return name
        table = columns_of(file, first) if isinstance(first, dict) and len(documents) == 1 else None
        if table is None and container.kind == "document":
            keys = listed(first) if isinstance(first, dict) else f"of a {type(first).__name__}"
            raise UserError(
                f"{file}: is a JSON document with the keys {keys}, which no known trace format has",
                hint="records are read from lines of JSON, a JSON list, CSV or Parquet",
            )
    return RecordReader(
        file,
        container,
        format_name=reading.format,
        columns=reading.columns,
        time_unit=reading.time_unit,
        block_tokens=reading.block_tokens,
        sort=reading.sort,
        turns=reading.turns,
        rate_scale=reading.rate_scale,
        table=table,
    )


def _name_of(record: Mapping[str, object]) -> str | None:
    if is_conversation(record):
        return _SHAREGPT
    from profiles_db.recordings.files import tool_of  # the readers of all clients

    return tool_of(record)


def _may_be_table(container: Container) -> bool:
    """Whether the only line of a file may hold a whole table: a record's own values are no lists or objects of rows."""
    values = list(container.first.values())
    return bool(values) and all(isinstance(value, list | dict) for value in values)


def _read_requests_of(file: Path, name: str, reading: _Reading, text: TextLengths) -> Workload:
    what = "a file of conversations" if name == _SHAREGPT else f"a file of {name}"
    reading.refuse_for(file, what, "columns", "time_unit", "block_tokens", "sort", "turns")
    if name != _SHAREGPT:
        from simulator.workload.traces.recorded import read_recorded

        return read_recorded(file, name, result=reading.result, limit=reading.limit).workload
    reading.refuse_for(file, what, "result")
    return read_sharegpt(file, _conversations(file), reading.limit, text)


def _conversations(file: Path) -> Iterator[tuple[str, object]]:
    if open_container(file, is_told=True).kind == "list":
        with opened(file) as stream:
            yield from ((f"{file}: entry {number}", value) for number, value in iter_list(stream, file))
        return
    for block in iter_line_records(file, PART_REQUESTS):
        yield from ((f"{file}:{number}", record) for number, record in block)
