"""Record-per-line trace files (JSONL, CSV, optionally gzipped) as chunks of raw columns, in bounded memory."""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from cluster_specs.errors import UserError
from simulator.workload.columns import RawChunk

_BOM: Final = b"\xef\xbb\xbf"


def open_bytes(path: Path) -> BinaryIO:
    """Open a trace for reading, unpacking .gz; UserError when it is missing or unreadable."""
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "rb")  # type: ignore[return-value]  # GzipFile is a BinaryIO in all but name
        return path.open("rb")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such trace file", hint="check the path, or use --trace chat-synthetic") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _line_blocks(path: Path, chunk_requests: int, head_lines: int) -> Iterator[tuple[int, list[bytes]]]:
    """Yield (number of the first line, lines) for blocks of ``chunk_requests`` lines after the head."""
    first = head_lines + 1
    with open_bytes(path) as file:
        try:
            block: list[bytes] = []
            for _ in range(head_lines):
                file.readline()
            for line in file:
                block.append(line)
                if len(block) == chunk_requests:
                    yield first, block
                    first, block = first + len(block), []
            if block:
                yield first, block
        except (gzip.BadGzipFile, EOFError) as error:
            raise UserError(f"{path}: damaged gzip file after line {first - 1}: {error}") from error


def _decode(path: Path, number: int, line: bytes) -> str:
    try:
        return line.removeprefix(_BOM).decode("utf-8") if number == 1 else line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: not UTF-8 text: {error.reason}", hint="is this a trace file?") from error


def _json_object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    text = _decode(path, number, line)
    try:
        record = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(
            f"{path}:{number}: not a JSON object: {error}", hint="a JSONL trace has one complete {...} per line"
        ) from error
    if not isinstance(record, dict):
        raise UserError(f"{path}:{number}: is {text.strip()[:40]!r}, must be a JSON object like {{...}}")
    return record


def first_json_object(path: Path) -> dict[str, Any]:
    """Return the first record of a JSONL file; UserError when there is none."""
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                return _json_object(path, number, line)
    raise UserError(
        f"{path}: the trace is empty, must hold at least one request",
        hint="try --trace chat-synthetic, the bundled trace",
    )


def _json_objects(path: Path, first: int, lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """Parse all lines in one call of the C parser; line by line only to name the faulty one."""
    try:
        records = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        records = None
    if records is not None and len(records) == len(lines) and set(map(type, records)) <= {dict}:
        return records  # type: ignore[no-any-return]
    return [_json_object(path, first + offset, line) for offset, line in enumerate(lines)]


def iter_jsonl(
    path: Path, required: Sequence[str], optional: Sequence[str], chunk_requests: int, *, header_lines: int = 0
) -> Iterator[RawChunk]:
    """Yield the records of a JSONL file as columns; an optional key must be in all records or in none."""
    present: list[str] | None = None
    for first, block in _line_blocks(path, chunk_requests, header_lines):
        if first == 1 and block[0].startswith(_BOM):
            block[0] = block[0].removeprefix(_BOM)
        numbered = [(number, line) for number, line in enumerate(block, start=first) if not line.isspace()]
        if not numbered:
            continue
        if numbered[-1][0] - numbered[0][0] + 1 == len(numbered):
            records = _json_objects(path, numbered[0][0], [line for _, line in numbered])
        else:
            records = [_json_object(path, number, line) for number, line in numbered]
        line_numbers = np.array([number for number, _ in numbered], dtype=np.int64)
        seen = [key for key in optional if any(key in record for record in records)]
        if present is not None and not set(seen) <= set(present):
            late = next(key for key in seen if key not in present)
            index = next(i for i, record in enumerate(records) if late in record)
            raise UserError(f"{path}:{line_numbers[index]}: has a key {late!r} that earlier records lack")
        present = seen if present is None else present
        values: dict[str, Any] = {}
        for key in (*required, *present):
            try:
                values[key] = [record[key] for record in records]
            except KeyError:
                index = next(i for i, record in enumerate(records) if key not in record)
                raise UserError(
                    f"{path}:{line_numbers[index]}: has no key {key!r}",
                    hint=f"its keys are {', '.join(map(repr, records[index]))}",
                ) from None
        yield RawChunk(path=str(path), line=line_numbers, values=values)


def csv_header(path: Path) -> list[str]:
    """Return the column names of a CSV file; UserError when the file is empty."""
    with open_bytes(path) as file:
        line = file.readline()
    if not line.strip():
        raise UserError(
            f"{path}: the trace is empty, must hold a header line and at least one request",
            hint="try --trace chat-synthetic, the bundled trace",
        )
    return [name.strip() for name in next(csv.reader([_decode(path, 1, line)]))]


def iter_csv(path: Path, required: Sequence[str], optional: Sequence[str], chunk_requests: int) -> Iterator[RawChunk]:
    """Yield the rows of a CSV file as text columns; UserError at the first row with another number of fields."""
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    header = csv_header(path)
    missing = [key for key in required if key not in header]
    if missing:
        raise UserError(f"{path}:1: has no column {missing[0]!r}", hint=f"its columns are {', '.join(header)}")
    keys = [*required, *(key for key in optional if key in header)]
    for key in keys:
        if header.count(key) > 1:
            raise UserError(f"{path}:1: column {key!r} appears {header.count(key)} times, must appear once")
    for first, block in _line_blocks(path, chunk_requests, 1):
        while block and block[-1].isspace():
            block.pop()
        if not block:
            continue
        try:
            table = pa_csv.read_csv(
                io.BytesIO(b"".join(block)),
                read_options=pa_csv.ReadOptions(column_names=header, use_threads=False),
                parse_options=pa_csv.ParseOptions(ignore_empty_lines=False),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(keys, pa.string()), include_columns=keys, strings_can_be_null=False
                ),
            )
        except pa.ArrowInvalid:
            _refuse_bad_row(path, first, block, header)
            raise
        line_numbers = np.arange(first, first + table.num_rows, dtype=np.int64)
        yield RawChunk(path=str(path), line=line_numbers, values={key: table.column(key) for key in keys})


def _refuse_bad_row(path: Path, first: int, lines: Sequence[bytes], header: Sequence[str]) -> None:
    for number, line in enumerate(lines, start=first):
        fields = next(csv.reader([_decode(path, number, line)]), [])
        if len(fields) != len(header):
            raise UserError(
                f"{path}:{number}: has {len(fields)} fields, must be {len(header)}",
                hint=f"the columns are {', '.join(header)}",
            )
