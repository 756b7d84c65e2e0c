"""Our own workload files: CSV and JSONL for people, Parquet for everything a `Workload` can hold.

Columns ``arrival_s, prompt_tokens, output_tokens`` and, when the workload has them, ``replica, after, think_s,
prefix_ids, images, audio_s``. What belongs to the whole (client, block size) is a first line ``{"apex_workload": 1,
...}`` in JSONL and file metadata in Parquet; plain CSV has no place for it and refuses such a workload.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from cluster_specs.errors import UserError
from cluster_specs.files.json_text import parse_json
from cluster_specs.files.shown import shown
from cluster_specs.files.whole import write_whole
from cluster_specs.lazy_dataclass import dataclass
from simulator.workload.columns import MAX_EXACT, MAX_PLAUSIBLE_TOKENS
from simulator.workload.generators.arrivals import LARGEST_SEED
from simulator.workload.generators.client import LONGEST_REQUEST_S
from simulator.workload.items import Media
from simulator.workload.span import LONGEST_SPAN_S
from simulator.workload.traces.parquet_traces import parquet_metadata
from simulator.workload.workload import CappedLoop, ClosedLoop, OpenLoop, Workload

OutputFormat = Literal["csv", "jsonl", "parquet", "apex"]
_HEADER_KEY: Final = "apex_workload"
_HEADER_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHeader:
    """What a file says about the workload as a whole; ``lines`` it takes at the head of a JSONL file."""

    client: OpenLoop | ClosedLoop | CappedLoop | None = None
    block_tokens: int | None = None
    prompt_counts_media: bool = False  # prompt_tokens count what images and audio become
    lines: int = 0


def is_header(record: Mapping[str, Any]) -> bool:
    """Whether the first record of a JSONL file is our own header."""
    return _HEADER_KEY in record


def parquet_header(path: Path) -> FileHeader:
    """Return what the file's metadata says about the whole workload."""
    text = parquet_metadata(path, _HEADER_KEY)
    if text is None:
        return FileHeader()
    header = parse_json(text, f"{path}: metadata {_HEADER_KEY}")
    if not isinstance(header, dict):
        raise UserError(f"{path}: metadata {_HEADER_KEY} is {shown(header)}, must be a JSON object")
    return parsed_header(path, header, lines=0)


def parsed_header(path: Path, header: Mapping[str, Any], *, lines: int) -> FileHeader:
    """Return the header a JSON object states; UserError names what it cannot mean."""
    version = header.get(_HEADER_KEY)
    if version != _HEADER_VERSION:
        raise UserError(
            f"{path}: workload file version is {shown(version)}, must be {_HEADER_VERSION}", hint="update apex-planner"
        )
    block_tokens = header.get("block_tokens")
    if block_tokens is not None and (type(block_tokens) is not int or not 1 <= block_tokens <= MAX_PLAUSIBLE_TOKENS):
        limit = MAX_PLAUSIBLE_TOKENS
        raise UserError(f"{path}: block_tokens is {shown(block_tokens)}, must be a whole number from 1 to {limit}")
    counts_media = header.get("prompt_counts_media", False)
    if type(counts_media) is not bool:
        raise UserError(f"{path}: prompt_counts_media is {shown(counts_media)}, must be true or false")
    client = header.get("client")
    return FileHeader(
        client=None if client is None else _parsed_client(path, client),
        block_tokens=block_tokens,
        prompt_counts_media=counts_media,
        lines=lines,
    )


def _parsed_client(path: Path, client: object) -> ClosedLoop | CappedLoop:
    if isinstance(client, dict) and set(client) == {"max_concurrency"}:
        cap = client["max_concurrency"]
        if type(cap) is int and 1 <= cap <= MAX_EXACT:
            return CappedLoop(concurrency=cap)
    sizes = [client.get("concurrency"), client.get("warmup", 0)] if isinstance(client, dict) else []
    if (
        not isinstance(client, dict)
        or set(map(type, sizes)) != {int}
        or not (1 <= sizes[0] <= MAX_EXACT and 0 <= sizes[1] <= MAX_EXACT)
    ):
        raise UserError(
            f"{path}: client is {shown(client)}, must be like {{'concurrency': 64, 'warmup': 128}} or "
            "{'max_concurrency': 64}"
        )
    return ClosedLoop(
        concurrency=sizes[0], warmup=sizes[1], **_parsed_starts(path, client if isinstance(client, dict) else {})
    )


def _parsed_starts(path: Path, client: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a closed loop's client takes for a request, the spread of its starts and the seed they come from."""
    seed, seconds = client.get("seed", 0), {}
    for name, most in (("spread_s", LONGEST_SPAN_S), ("request_s", LONGEST_REQUEST_S)):
        value = client.get(name, 0.0)
        if type(value) not in {int, float} or not 0 <= value <= most:
            raise UserError(f"{path}: client.{name} is {shown(value)}, must be a number from 0 to {most:g}")
        seconds[name] = float(value)
    if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"{path}: client.seed is {shown(seed)}, must be a whole number from 0 to {LARGEST_SEED}")
    return {**seconds, "seed": seed}


def _header_of(workload: Workload) -> dict[str, Any]:
    header: dict[str, Any] = {}
    if workload.prefix is not None:
        header["block_tokens"] = workload.prefix.block_tokens
    if isinstance(workload.client, ClosedLoop):
        client = asdict(workload.client)
        silent = {name for name in ("spread_s", "request_s") if not client[name]}
        if "spread_s" in silent:
            silent.add("seed")  # starts alone are drawn from it
        header["client"] = {name: value for name, value in client.items() if name not in silent}
    if workload.media is not None and workload.media.are_counted:
        header["prompt_counts_media"] = True
    if isinstance(workload.client, CappedLoop):
        header["client"] = {"max_concurrency": workload.client.concurrency}
    return header


def write_trace(workload: Workload, path: str | Path, *, format: OutputFormat | None = None) -> None:  # noqa: A002
    """Write a workload whole or not at all; the format follows the suffix unless given.

    ``apex`` is the JSONL of the APEX traces (arrivals to the nanosecond). Raises UserError for an unknown suffix or
    for a workload that holds more than the format can (prefix blocks, turns, a client with a concurrency), OutputError
    where it cannot be written.
    """
    path = Path(path)
    chosen = format or {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}.get(path.suffix)
    if chosen is None:
        raise UserError(
            f"{path}: cannot tell the format from the suffix {path.suffix!r}", hint="use .csv, .jsonl or .parquet"
        )
    holds_more = bool(_header_of(workload)) or workload.after is not None or workload.media is not None
    if chosen in {"csv", "apex"} and holds_more:
        raise UserError(
            f"{path}: {chosen} cannot hold prefix blocks, follow-up turns, images and audio, or a client with a "
            "concurrency",
            hint="write .parquet or .jsonl",
        )

    if workload.client_timeout_s is not None:
        raise UserError(f"{path}: no format holds a client's time-out", hint="state it where the trace is used")

    def write(stream: BinaryIO) -> None:
        if chosen == "parquet":
            _write_parquet(workload, stream)
        else:
            stream.writelines(line.encode() for line in _lines(workload, chosen))

    write_whole(path, write)


def _columns(workload: Workload) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        "arrival_s": workload.arrival_s.tolist(),
        "prompt_tokens": workload.prompt_tokens.tolist(),
        "output_tokens": workload.output_tokens.tolist(),
    }
    for name in ("replica", "after", "think_s"):
        values = getattr(workload, name)
        if values is not None:
            columns[name] = values.tolist()
    if workload.prefix is not None:
        ids, bounds = workload.prefix.ids.tolist(), workload.prefix.offsets.tolist()
        columns["prefix_ids"] = [ids[start:end] for start, end in pairwise(bounds)]
    if workload.media is not None:
        columns |= _media_columns(workload.media)
    return columns


def _media_columns(media: Media) -> dict[str, list[Any]]:
    """Return the columns of images and of audio, each where there is any."""
    images, clips = media.lists()
    held = (("images", images, media.images), ("audio_s", clips, media.clips))
    return {name: values for name, values, count in held if count}


def _lines(workload: Workload, form: str) -> Iterator[str]:
    columns = _columns(workload)
    names = list(columns)
    rows = zip(*columns.values(), strict=True)
    if form == "csv":
        yield ",".join(names) + "\n"
        yield from (",".join(map(repr, row)) + "\n" for row in rows)
        return
    if form == "apex":
        apex_names = ("StartTimeOffset", "ContextTokens", "GeneratedTokens", "Replica")
        for arrival_s, *rest in rows:
            values = dict(zip(apex_names, (round(arrival_s * 1e9), *rest), strict=False))
            yield json.dumps(values) + "\n"
        return
    header = _header_of(workload)
    if header:
        yield json.dumps({_HEADER_KEY: _HEADER_VERSION, **header}) + "\n"
    yield from (json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)


def _write_parquet(workload: Workload, stream: BinaryIO) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        "arrival_s": pa.array(workload.arrival_s),
        "prompt_tokens": pa.array(workload.prompt_tokens),
        "output_tokens": pa.array(workload.output_tokens),
    }
    for name in ("replica", "after", "think_s"):
        values = getattr(workload, name)
        if values is not None:
            columns[name] = pa.array(values)
    if workload.prefix is not None:
        columns["prefix_ids"] = pa.LargeListArray.from_arrays(workload.prefix.offsets, workload.prefix.ids)
    if workload.media is not None:
        columns |= _media_columns(workload.media)
    header = {_HEADER_KEY: json.dumps({_HEADER_KEY: _HEADER_VERSION, **_header_of(workload)})}
    pq.write_table(pa.table(columns).replace_schema_metadata(header), stream, compression="zstd")
