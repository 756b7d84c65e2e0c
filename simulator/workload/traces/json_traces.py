"""Traces of JSON records: one per line, or one list of them; optionally gzipped, in bounded memory."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

from cluster_specs.errors import UserError
from cluster_specs.files.json_list import iter_list
from cluster_specs.files.json_text import parse_json
from cluster_specs.files.reading import iter_lines, opened
from simulator.workload.columns import RawChunk
from simulator.workload.traces.record_chunks import MOST_CHUNK_BYTES, Numbered, chunk_columns, record_of

BOM: Final = b"\xef\xbb\xbf"
LINES_HINT: Final = "a JSONL trace has one complete {...} per line"
EMPTY_HINT: Final = "try --trace chat-synthetic, the bundled trace"
MISSING_HINT: Final = "check the path, or use --trace chat-synthetic"


def line_blocks(path: Path, chunk_requests: int, head_lines: int) -> Iterator[tuple[int, list[bytes]]]:
    """Yield (number of the first line, lines) for blocks of at most ``chunk_requests`` lines after the head."""
    with opened(path, hint=MISSING_HINT) as stream:
        lines = iter_lines(stream, path)
        for _ in islice(lines, head_lines):
            pass
        first, size = head_lines + 1, 0
        block: list[bytes] = []
        for line in lines:
            block.append(line)
            size += len(line)
            if len(block) == chunk_requests or size >= MOST_CHUNK_BYTES:
                yield first, block
                first, block, size = first + len(block), [], 0
        if block:
            yield first, block


def json_object(path: Path, number: int, line: bytes) -> Any:
    """Return the record of one line; UserError names the line."""
    place = f"{path}:{number}"
    text = line.removeprefix(BOM) if number == 1 else line
    return record_of(parse_json(text, place, hint=LINES_HINT), place)


def _json_objects(path: Path, numbered: Sequence[tuple[int, bytes]]) -> list[Numbered]:
    """Parse all lines in one call of the C parser; line by line only to name the faulty one."""
    lines = [line for _, line in numbered]
    try:
        records = parse_json(b"[" + b",".join(lines) + b"]", str(path))
    except UserError:
        records = None
    if records is not None and len(records) == len(lines) and set(map(type, records)) <= {dict}:
        return [(number, record) for (number, _), record in zip(numbered, records, strict=True)]
    return [(number, json_object(path, number, line)) for number, line in numbered]


def iter_line_records(path: Path, chunk_requests: int, *, header_lines: int = 0) -> Iterator[list[Numbered]]:
    """Yield the records of a file of JSON lines, numbered by their line, in blocks."""
    for first, block in line_blocks(path, chunk_requests, header_lines):
        if first == 1 and block[0].startswith(BOM):
            block[0] = block[0].removeprefix(BOM)
        numbered = [(number, line) for number, line in enumerate(block, start=first) if not line.isspace()]
        if numbered:
            yield _json_objects(path, numbered)


def iter_list_records(path: Path, chunk_requests: int) -> Iterator[list[Numbered]]:
    """Yield the records of a file that is one JSON list, numbered from 1, in blocks."""
    with opened(path, hint=MISSING_HINT) as stream:
        entries = iter_list(stream, path)
        while block := list(islice(entries, min(chunk_requests, 4_096))):
            yield [(number, record_of(value, f"{path}: entry {number}")) for number, value in block]


def iter_jsonl(
    path: Path, required: Sequence[str], optional: Sequence[str], chunk_requests: int, *, header_lines: int = 0
) -> Iterator[RawChunk]:
    """Yield the records of a JSONL file as columns."""
    blocks = iter_line_records(path, chunk_requests, header_lines=header_lines)
    yield from chunk_columns(str(path), blocks, required, optional)


def iter_json_list(
    path: Path, required: Sequence[str], optional: Sequence[str], chunk_requests: int
) -> Iterator[RawChunk]:
    """Yield the records of a JSON list as columns; the number of an entry stands for its line."""
    yield from chunk_columns(f"{path}: entry", iter_list_records(path, chunk_requests), required, optional)
