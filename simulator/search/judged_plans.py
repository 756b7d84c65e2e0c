"""Plans that a search has judged, kept in a file as it goes: a search that was killed goes on where it was.

A file of JSON lines. The first says what every answer in it rests on, as digests by input; then comes one line per
plan, its metrics or why it was refused. A line that a killed search left unfinished is dropped; a search of other
inputs is refused with the names of those that differ.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, Final

from cluster_specs.errors import OutputError, UserError
from cluster_specs.files.lock import locked
from cluster_specs.files.reading import iter_lines, opened
from cluster_specs.files.whole import check_folder, reason_of
from simulator.plan.refused import REFUSERS, Refused

_SCHEMA: Final = 2
_HEAD: Final = b'{"schema":'  # how the first line begins
_HINT: Final = "name another file, or remove this one to begin again"


class JudgedPlans:
    """What a file holds, and the file open at its end; made by ``kept_in``."""

    def __init__(self, path: Path, known: dict[str, dict[str, Any] | Refused], stream: BinaryIO) -> None:
        self.found = len(known)  # plans that were there when the file was opened
        self._path = path
        self._known = known
        self._stream = stream
        self._lock = Lock()

    def of(self, plan: str) -> dict[str, Any] | Refused | None:
        """Return a plan's metrics, why it was refused, or None for one that is not kept."""
        return self._known.get(plan)

    def add(self, plan: str, judged: dict[str, Any] | Refused) -> None:
        """Keep what was found of a plan: its metrics, or why it was refused; raises ``OutputError``."""
        said = {"refused": judged.reason, "by": judged.by} if isinstance(judged, Refused) else {"metrics": judged}
        with self._lock:
            _append(self._stream, self._path, {"plan": plan, **said})


@contextmanager
def kept_in(path: Path, inputs: Mapping[str, str]) -> Iterator[JudgedPlans]:
    """Open or begin ``path`` for a search whose answers rest on ``inputs``: digests by the name of an input.

    Raises ``UserError`` for a file of other inputs, one that holds something else, or one that another search writes;
    ``OutputError`` where it cannot be written.
    """
    check_folder(path)
    with locked(path.with_name(f"{path.name}.lock"), wait=False, folder=path, hint=_HINT):
        known, length = _read(path, inputs) if path.exists() else ({}, 0)
        try:
            stream = path.open("r+b" if length else "wb")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {reason_of(error)}", hint=_HINT) from error
        with stream:
            stream.truncate(length)
            stream.seek(length)
            if not length:
                _append(stream, path, {"schema": _SCHEMA, "inputs": dict(inputs)})
            yield JudgedPlans(path, known, stream)


def _append(stream: BinaryIO, path: Path, record: Mapping[str, Any]) -> None:
    """Write one line and see that it is on the disk: what is lost is at most the plans under way."""
    try:
        stream.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {reason_of(error)}", hint=_HINT) from error


def _read(path: Path, inputs: Mapping[str, str]) -> tuple[dict[str, dict[str, Any] | Refused], int]:
    """Return what is known of each plan, and the bytes up to the end of the last whole line."""
    known: dict[str, dict[str, Any] | Refused] = {}
    length = 0
    with opened(path, hint=_HINT) as stream:
        for number, line in enumerate(iter_lines(stream, path), start=1):
            if not line.endswith(b"\n") and (number > 1 or _HEAD.startswith(line[: len(_HEAD)])):
                break  # its writer was killed
            record = _record(line, f"{path}:{number}")
            if number == 1:
                _check_head(record, inputs, path)
            elif not isinstance(record.get("plan"), str) or not _is_judged(record):
                raise UserError(f"{path}:{number}: is no judged plan", hint=_HINT)
            else:
                refused = None if "metrics" in record else Refused(str(record["refused"]), record["by"])
                known[record["plan"]] = record["metrics"] if refused is None else refused
            length += len(line)
    return known, length


def _is_judged(record: Mapping[str, Any]) -> bool:
    return "metrics" in record or ("refused" in record and record.get("by") in REFUSERS)


def _record(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: is not JSON: {error}", hint=_HINT) from error
    if not isinstance(record, dict):
        raise UserError(f"{place}: must be a JSON object", hint=_HINT)
    return record


def _check_head(record: Mapping[str, Any], inputs: Mapping[str, str], path: Path) -> None:
    kept = record.get("inputs")
    if record.get("schema") != _SCHEMA or not isinstance(kept, dict):
        raise UserError(f"{path}: holds no judged plans of `apex search`, or those of another version", hint=_HINT)
    differing = sorted(name for name in kept.keys() | inputs.keys() if kept.get(name) != inputs.get(name))
    if differing:
        raise UserError(f"{path}: was begun with another {', '.join(differing)}", hint=_HINT)
