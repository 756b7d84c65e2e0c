"""CSV traces (comma, semicolon or tab; optionally gzipped) as chunks of text columns, in bounded memory."""

import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np

from cluster_specs.errors import UserError
from cluster_specs.files.reading import iter_lines, opened
from cluster_specs.files.shown import listed, shown
from simulator.workload.columns import Numerals, RawChunk
from simulator.workload.traces.json_traces import BOM, EMPTY_HINT, MISSING_HINT, line_blocks

_DELIMITERS: Final = (",", ";", "\t")
_FEW_ROWS: Final = 20_000
_PLAIN: Final = re.compile(rb"[0-9]{1,15}(?:\.[0-9]{1,20})?")


def csv_header(path: Path) -> list[str]:
    """Return the column names of a CSV file; UserError when the file is empty."""
    return _header(path)[0]


def _header(path: Path) -> tuple[list[str], str]:
    """Column names and what separates them: the one of comma, semicolon and tab that makes the most of the line."""
    with opened(path, hint=MISSING_HINT) as stream:
        line = next(iter_lines(stream, path), b"")
    if not line.strip():
        raise UserError(
            f"{path}: the trace is empty, must hold a header line and at least one request", hint=EMPTY_HINT
        )
    splits = {delimiter: _fields(path, 1, line, delimiter) for delimiter in _DELIMITERS}
    delimiter = max(splits, key=lambda delimiter: len(splits[delimiter]))
    return [name.strip() for name in splits[delimiter]], delimiter


def _fields(path: Path, number: int, line: bytes, delimiter: str) -> list[str]:
    try:
        text = line.removeprefix(BOM).decode("utf-8") if number == 1 else line.decode("utf-8")
        return next(csv.reader([text], delimiter=delimiter), [])
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: not UTF-8 text: {error.reason}", hint="is this a trace file?") from error
    except csv.Error as error:
        raise UserError(f"{path}:{number}: not a line of CSV: {error}", hint="is this a trace file?") from error


def iter_csv(path: Path, required: Sequence[str], optional: Sequence[str], chunk_requests: int) -> Iterator[RawChunk]:
    """Yield the rows of a CSV file as text columns; UserError at the first row with another number of fields."""
    header, delimiter = _header(path)
    keys = _present(path, header, required, optional)
    for first, block in line_blocks(path, chunk_requests, 1):
        while block and block[-1].isspace():
            block.pop()
        if not block:
            continue
        plain = _plain(block, header, delimiter, keys)
        if plain is not None:
            line_numbers = np.arange(first, first + len(block), dtype=np.int64)
            yield RawChunk(path=str(path), line=line_numbers, values=plain)
            continue
        import pyarrow as pa
        import pyarrow.csv as pa_csv

        content = b"".join(block)
        try:
            table = pa_csv.read_csv(
                io.BytesIO(content),
                read_options=pa_csv.ReadOptions(
                    column_names=header, use_threads=False, block_size=max(2**20, len(content) + 1)
                ),
                parse_options=pa_csv.ParseOptions(delimiter=delimiter, ignore_empty_lines=False),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(keys, pa.string()), include_columns=keys, strings_can_be_null=False
                ),
            )
        except pa.ArrowException as error:
            _refuse_bad_row(path, first, block, header, delimiter)
            raise UserError(f"{path}:{first}: cannot be read as CSV: {shown(str(error), 200)}") from error
        line_numbers = np.arange(first, first + table.num_rows, dtype=np.int64)
        yield RawChunk(path=str(path), line=line_numbers, values={key: table.column(key) for key in keys})


def _plain(
    lines: Sequence[bytes], header: Sequence[str], delimiter: str, keys: Sequence[str]
) -> dict[str, Numerals] | None:
    """Split a few rows that hold plain numbers alone where they are read; None for others.

    Arrow reads any CSV file, and takes longer to be imported than such rows take to be read.
    """
    if len(lines) > _FEW_ROWS:
        return None
    texts = [line.removesuffix(b"\n").removesuffix(b"\r") for line in lines]
    rows = [text.split(delimiter.encode()) for text in texts]
    if set(map(len, rows)) != {len(header)} or any(b'"' in text or b"\r" in text for text in texts):
        return None
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    if not all(map(_PLAIN.fullmatch, chain.from_iterable(columns[key] for key in keys))):
        return None
    return {key: Numerals(map(bytes.decode, columns[key])) for key in keys}


def _present(path: Path, header: Sequence[str], required: Sequence[str], optional: Collection[str]) -> list[str]:
    missing = [key for key in required if key not in header]
    if missing:
        raise UserError(f"{path}:1: has no column {shown(missing[0])}", hint=f"its columns are {listed(header)}")
    keys = [*required, *(key for key in optional if key in header)]
    for key in keys:
        if header.count(key) > 1:
            raise UserError(f"{path}:1: column {shown(key)} appears {header.count(key)} times, must appear once")
    return keys


def _refuse_bad_row(path: Path, first: int, lines: Sequence[bytes], header: Sequence[str], delimiter: str) -> None:
    for number, line in enumerate(lines, start=first):
        fields = _fields(path, number, line, delimiter)
        if len(fields) != len(header):
            raise UserError(
                f"{path}:{number}: has {len(fields)} fields, must be {len(header)}",
                hint=f"the columns are {listed(header)}",
            )
