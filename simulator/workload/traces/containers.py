"""What kind of file a trace is, told from its suffix and its first bytes, and its first record."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from cluster_specs.errors import UserError
from cluster_specs.files.json_list import iter_list
from cluster_specs.files.json_text import parse_json
from cluster_specs.files.reading import iter_lines, opened
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from simulator.workload.traces.json_traces import BOM, EMPTY_HINT, LINES_HINT, MISSING_HINT, json_object
from simulator.workload.traces.own_files import FileHeader, is_header, parsed_header
from simulator.workload.traces.parquet_traces import is_parquet

# lines: a JSON object per line; list: one JSON list; document: one JSON object that spans lines, or several.
Kind = Literal["csv", "parquet", "lines", "list", "document"]
_SUFFIXES: Final[Mapping[str, Kind | Literal["json"]]] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
}
_HEAD_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A trace file's kind; for JSON its first record (empty for a document) and our own header, where it has one."""

    kind: Kind
    first: Mapping[str, Any]
    header: FileHeader


def open_container(path: Path, *, is_told: bool) -> Container:
    """Look into a file; ``is_told``: the user says how to read it, so that any suffix will do.

    Raises UserError for a file that is missing, damaged at its head or of no known kind.
    """
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    kind = _SUFFIXES.get(suffix.lower())
    if kind == "parquet" or (kind is None and is_told and is_parquet(path)):
        if path.suffix == ".gz":
            raise UserError(f"{path}: a gzipped Parquet file cannot be read", hint="unpack it")
        return Container(kind="parquet", first={}, header=FileHeader())
    if kind == "csv":
        return Container(kind="csv", first={}, header=FileHeader())
    if kind is None and not is_told:
        raise UserError(
            f"{path}: cannot tell the trace format from the suffix {shown(suffix)}",
            hint="use .jsonl, .csv, .json or .parquet, or pass --format",
        )
    head = _head(path)
    if kind is None and head[:1] not in {b"{", b"["}:
        return Container(kind="csv", first={}, header=FileHeader())
    return _list(path) if head.startswith(b"[") else _lines(path)


def _head(path: Path) -> bytes:
    with opened(path, hint=MISSING_HINT) as stream:
        head = stream.read(_HEAD_BYTES).removeprefix(BOM).lstrip()
    if not head:
        raise UserError(f"{path}: the trace is empty, must hold at least one request", hint=EMPTY_HINT)
    return head


def _list(path: Path) -> Container:
    with opened(path) as stream:
        number, first = next(iter_list(stream, path), (0, {}))
    if not number:
        raise UserError(f"{path}: the trace is empty, must hold at least one request", hint=EMPTY_HINT)
    return Container(kind="list", first=first if isinstance(first, dict) else {}, header=FileHeader())


def _lines(path: Path) -> Container:
    """Find the first record behind our own header; a document where the first line is no whole value."""
    header = FileHeader()
    with opened(path) as stream:
        lines = enumerate(iter_lines(stream, path), start=1)
        try:
            told = ((number, line) for number, line in lines if line.strip(b" \t\r\n\xef\xbb\xbf"))
            number, line = next(told, (0, b""))
            text = line.removeprefix(BOM)
            if text.lstrip().startswith(b"{"):
                parse_json(text, f"{path}:{number}", hint=LINES_HINT)
        except UserError:
            return Container(kind="document", first={}, header=header)
        if not number:
            raise UserError(f"{path}: the trace is empty, must hold at least one request", hint=EMPTY_HINT)
        first = json_object(path, number, line)
        if is_header(first):
            header = parsed_header(path, first, lines=number)
            number, line = next(((number, line) for number, line in lines if not line.isspace()), (0, b""))
            if not number:
                raise UserError(f"{path}: the trace is empty, must hold at least one request", hint=EMPTY_HINT)
            first = json_object(path, number, line)
    return Container(kind="lines", first=first, header=header)
