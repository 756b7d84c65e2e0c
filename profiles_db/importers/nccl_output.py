"""What one run of an nccl-tests (or rccl-tests) ``*_perf`` program printed, and the files that hold such runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.files.reading import read_document

# Logs of a whole cluster with NCCL_DEBUG=INFO reach some megabytes.
MOST_BYTES: Final = 256 * 2**20
# No buffer of a collective is larger; a longer number is none.
MOST_MESSAGE_BYTES: Final = 2**50
_HINT: Final = "give the unchanged output of an nccl-tests program"

Place = Mapping[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One message size: ``time`` in microseconds, ``algbw`` and ``busbw`` in GB/s, ``wrong`` elements, per placement.

    ``wrong`` is None where nothing was counted; a placement that was not run is None.
    """

    size: int
    dtype: str
    redop: str
    out_of_place: Place | None
    in_place: Place | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NcclRun:
    """One run as printed: who took part, how, and one result per message size.

    ``ranks`` and ``hosts`` count those of one communicator. ``program`` is None where the output does not name it.
    """

    program: str | None
    ranks: int
    hosts: int
    devices: frozenset[str]
    iterations: int | None
    is_graph: bool
    is_blocking: bool
    library: str | None
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NcclFile:
    """The runs of one file in the order they were printed, and what else a reader should know of it."""

    runs: tuple[NcclRun, ...]
    notes: tuple[str, ...] = ()


def read_nccl_output(path: Path) -> NcclFile:
    """Read the runs of a file; raises ``UserError`` naming the file (and line) that does not fit."""
    from profiles_db.importers.nccl_json import runs_of_json
    from profiles_db.importers.nccl_text import runs_of_text

    content = read_document(path, most_bytes=MOST_BYTES, hint=_HINT)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read as text: {error.reason} at byte {error.start}", hint=_HINT) from error
    found = runs_of_json(text, path) if text.lstrip().startswith("{") else runs_of_text(text, path)
    if not found.runs:
        raise UserError(f"{path}: no result rows", hint=_HINT)
    return found


def version_text(code: int) -> str:
    """Write the library's version code: 2.19.3 is 21903."""
    return f"{code // 10000}.{code // 100 % 100}.{code % 100}"
