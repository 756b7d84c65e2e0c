"""Reads a request trace of any supported format into a `Workload`, whole or chunk by chunk in bounded memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from simulator.workload.columns import MAX_PLAUSIBLE_TOKENS
from simulator.workload.document_traces import TextLengths, read_document, sniff_document
from simulator.workload.formats import (
    DOCUMENT_FORMATS,
    Container,
    RecordFormat,
    TimeUnit,
    detect_format,
    record_format,
    with_columns,
)
from simulator.workload.own_files import FileHeader, iter_parquet, parquet_header, parquet_keys, read_jsonl_header
from simulator.workload.record_checks import RecordChecker, Requests
from simulator.workload.scale import scale_workload
from simulator.workload.text_traces import csv_header, first_json_object, iter_csv, iter_jsonl
from simulator.workload.workload import OpenLoop, PrefixBlocks, Workload

Turns = Literal["recorded", "after_parent"]

_CHUNK_REQUESTS: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """How one record file is read; every field left alone means what its format says."""

    format: str
    columns: Mapping[str, str]
    time_unit: TimeUnit | None
    block_tokens: int | None
    limit: int | None
    sort: bool = False
    turns: Turns = "recorded"

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit is {self.limit}, must be >= 1")
        if self.block_tokens is not None and not 1 <= self.block_tokens <= MAX_PLAUSIBLE_TOKENS:
            raise UserError(f"block_tokens is {self.block_tokens}, must be >= 1 and <= {MAX_PLAUSIBLE_TOKENS}")


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
    text: TextLengths | None = None,
) -> Workload:
    """Read a whole trace file into one workload.

    ``rate_scale`` 2 makes requests arrive twice as fast; ``length_scale`` multiplies prompt and output lengths (a pair:
    each its own). ``columns`` maps a role (time, prompt, output ...) to another key, ``time_unit`` and
    ``block_tokens`` overrule the format's. ``turns="after_parent"`` sends a follow-up turn once its parent finished
    instead of at its recorded time. ``text`` says how ShareGPT's texts are counted. What was dropped or assumed is in
    ``Workload.notes``. Raises UserError naming file, line, key and value.
    """
    reading = _Reading(
        format=format,
        columns=columns or {},
        time_unit=time_unit,
        block_tokens=block_tokens,
        limit=limit,
        sort=sort,
        turns=turns,
    )
    file = Path(path)
    if _container(file, format) == "document":
        return scale_workload(read_document(file, format, limit, text or TextLengths()), rate_scale, length_scale)
    reader = _RecordReader(file, reading)
    parts: list[Requests] = []
    for part in reader.iter_requests(_CHUNK_REQUESTS):
        parts.append(part)
        if limit is not None and not sort and sum(map(len, parts)) >= limit:
            break
    reader.checker.check_whole()
    return scale_workload(reader.assemble(parts, limit=limit), rate_scale, length_scale)


def iter_trace(
    path: str | Path,
    *,
    chunk_requests: int = _CHUNK_REQUESTS,
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
    whole trace. Raises UserError as `read_trace` does, for a trace-wide fault after the last chunk.
    """
    reading = _Reading(
        format=format, columns=columns or {}, time_unit=time_unit, block_tokens=block_tokens, limit=limit
    )
    file = Path(path)
    if chunk_requests < 1:
        raise UserError(f"chunk_requests is {chunk_requests}, must be >= 1")
    if _container(file, format) == "document":
        raise UserError(f"{file}: one JSON document cannot be streamed", hint="apex trace convert it to Parquet first")
    reader = _RecordReader(file, reading)
    left = limit
    for part in reader.iter_requests(chunk_requests):
        chunk = reader.assemble([part], limit=left)
        if chunk.after is not None:
            raise UserError(f"{file}: follow-up turns need the whole trace", hint="read it whole")
        yield scale_workload(chunk, rate_scale, length_scale)
        if left is not None:
            left -= len(chunk)
            if left <= 0:
                break
    reader.checker.check_whole()


def _container(file: Path, format_name: str) -> Container | Literal["document"]:
    if format_name in DOCUMENT_FORMATS:
        return "document"
    if format_name != "auto":
        return record_format(format_name).container
    suffix = file.with_suffix("").suffix if file.suffix == ".gz" else file.suffix
    if suffix == ".csv":
        return "csv"
    if suffix == ".parquet":
        return "parquet"
    if suffix == ".jsonl":
        return "jsonl"
    if suffix == ".json":
        return "jsonl" if sniff_document(file) is None else "document"
    raise UserError(
        f"{file}: cannot tell the trace format from the suffix {suffix!r}",
        hint="use .jsonl, .csv, .json or .parquet, or pass --format",
    )


class _RecordReader:
    """One record-per-line file being read: its format, its own header, and the checks that span chunks."""

    __slots__ = ("_header", "_reading", "checker", "file", "fmt")

    def __init__(self, file: Path, reading: _Reading) -> None:
        self.file = file
        self._reading = reading
        container = _container(file, reading.format)
        assert container != "document"
        self._header = FileHeader()
        keys: Sequence[str]
        if container == "csv":
            keys = csv_header(file)
        elif container == "parquet":
            keys = parquet_keys(file)
            self._header = parquet_header(file)
        else:
            self._header, record = read_jsonl_header(file, first_json_object(file))
            keys = list(record)
        fmt = detect_format(str(file), container, keys) if reading.format == "auto" else record_format(reading.format)
        fmt = with_columns(fmt, reading.columns, reading.time_unit)
        self.fmt: RecordFormat = replace(
            fmt, block_tokens=reading.block_tokens or self._header.block_tokens or fmt.block_tokens
        )
        self.checker = RecordChecker(path=str(file), fmt=self.fmt, sort=reading.sort)

    def iter_requests(self, chunk_requests: int) -> Iterator[Requests]:
        """Yield the file's requests, checked, chunk by chunk."""
        required, optional = self.fmt.required_keys(), self.fmt.optional_keys()
        if self.fmt.container == "jsonl":
            chunks = iter_jsonl(self.file, required, optional, chunk_requests, header_lines=self._header.lines)
        elif self.fmt.container == "csv":
            chunks = iter_csv(self.file, required, optional, chunk_requests)
        else:
            chunks = iter_parquet(self.file, required, optional, chunk_requests)
        for chunk in chunks:
            requests = self.checker.check(chunk)
            if len(requests):
                yield requests

    def assemble(self, parts: Sequence[Requests], *, limit: int | None) -> Workload:
        """Join checked parts into one workload of at most ``limit`` requests."""
        arrival_s = np.concatenate([part.arrival_s for part in parts])
        order = np.argsort(arrival_s, kind="stable") if self._reading.sort else np.arange(len(arrival_s))
        order = order[:limit]

        def column(name: str) -> NDArray[np.int64] | None:
            values = [getattr(part, name) for part in parts]
            return None if any(value is None for value in values) else np.concatenate(values)[order]

        prompt, output = column("prompt_tokens"), column("output_tokens")
        assert prompt is not None
        assert output is not None
        after, think_s = self._turns(parts, arrival_s, order)
        return Workload(
            name=self.file.name.split(".")[0],
            arrival_s=arrival_s[order],
            prompt_tokens=prompt,
            output_tokens=output,
            client=self._header.client or OpenLoop(),
            prefix=self._prefix(parts, order),
            after=after,
            think_s=think_s,
            replica=column("replica"),
            notes=self.checker.notes(),
        )

    def _prefix(self, parts: Sequence[Requests], order: NDArray[np.int64]) -> PrefixBlocks | None:
        counts_of = [part.block_counts for part in parts]
        ids_of = [part.block_ids for part in parts]
        if any(counts is None for counts in counts_of):
            return None
        counts = np.concatenate([c for c in counts_of if c is not None])
        ids = np.concatenate([i for i in ids_of if i is not None])
        starts = np.cumsum(counts) - counts
        offsets = np.concatenate([[0], np.cumsum(counts[order])]).astype(np.int64)
        positions = np.repeat(starts[order] - offsets[:-1], counts[order]) + np.arange(offsets[-1])
        assert self.fmt.block_tokens is not None
        return PrefixBlocks(block_tokens=self.fmt.block_tokens, offsets=offsets, ids=ids[positions])

    def _turns(
        self,
        parts: Sequence[Requests],
        arrival_s: NDArray[np.float64],
        order: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64] | None, NDArray[np.float64] | None]:
        parents_of = [part.parent for part in parts]
        recorded_think = [part.think_s for part in parts]
        links_are_stated = all(think is not None for think in recorded_think)
        if any(p is None for p in parents_of) or not (links_are_stated or self._reading.turns == "after_parent"):
            return None, None
        parents = np.concatenate([p for p in parents_of if p is not None])
        has_parent = parents >= 0
        if links_are_stated:
            think_s = np.concatenate([t for t in recorded_think if t is not None])
        else:
            # The record has no service times: the whole gap counts as thinking, an upper bound of it.
            think_s = np.where(has_parent, np.maximum(arrival_s - arrival_s[np.maximum(parents, 0)], 0.0), 0.0)
        rank = np.full(len(parents), -1, dtype=np.int64)
        rank[order] = np.arange(len(order))
        after = np.where(has_parent, rank[np.maximum(parents, 0)], -1)[order]
        if (after >= np.arange(len(after))).any():
            late = int(np.argmax(after >= np.arange(len(after))))
            raise UserError(
                f"{self.file}: request {late + 1} by arrival follows request {after[late] + 1}, a later one"
            )
        return after, think_s[order]
