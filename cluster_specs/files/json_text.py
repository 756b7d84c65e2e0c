"""JSON as every reader takes it: one error with its place for whatever the parser or the interpreter refuses."""

import gc
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cluster_specs.errors import UserError
from cluster_specs.files.reading import read_document

# A value takes at most 100 bytes in memory (an empty object and its place), so a document stays below 1 GB.
MOST_VALUES: Final = 10_000_000
_MOST_TEXT_BYTES: Final = 2**27
_SPACE: Final = re.compile(r"[ \t\r\n]*")


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the cyclic collector out of the block: a parser makes no cycles, and a million lists cost it eight times."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def parse_json(text: str | bytes, place: str, *, hint: str = "") -> Any:
    """Parse one JSON document; ``place`` (file, or file:line) leads the ``UserError`` for anything it is not.

    Text that is not UTF-8, nesting beyond the parser's depth, and numbers of more digits than Python reads are errors
    of the file like any other.
    """
    try:
        # Bytes are UTF-8 whatever they start with; the parser itself would guess.
        with _uncollected():
            return json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 text: {error.reason}", hint=hint) from error
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not JSON: {error}", hint=hint) from error
    except RecursionError as error:
        raise UserError(f"{place}: not usable JSON: nested too deeply", hint=hint) from error
    except ValueError as error:  # the interpreter's limit on the digits of an integer
        raise UserError(f"{place}: not usable JSON: a number has too many digits", hint=hint) from error


def read_json(path: Path, *, hint: str = "") -> list[tuple[str, Any]]:
    """Return the JSON documents of a file, one or several appended to each other, each with its place (file:line).

    Raises ``UserError`` where the file holds none, is damaged, or holds more than is read of one file.
    """
    content = read_document(path, most_bytes=_MOST_TEXT_BYTES, hint=hint)
    if content.count(b",") + content.count(b"[") + content.count(b"{") > MOST_VALUES:
        raise UserError(f"{path}: holds more than {MOST_VALUES:,} values, the most that is read of one file", hint=hint)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error.reason}", hint=hint) from error
    del content
    documents: list[tuple[str, Any]] = []
    position, line, size = skip_space(text, 0), 1, len(text)
    counted = 0
    while position < size:
        line += text.count("\n", counted, position)
        counted = position
        document, position = decode_value(text, position, str(path), hint, is_file=True)
        documents.append((f"{path}:{line}" if documents else str(path), document))
        position = skip_space(text, position)
    if not documents:
        raise UserError(f"{path}: the file is empty", hint=hint)
    return documents


def skip_space(text: str, position: int) -> int:
    """First position from ``position`` on that holds no white space."""
    found = _SPACE.match(text, position)
    return position if found is None else found.end()


def decode_value(text: str, position: int, place: str, hint: str, *, is_file: bool) -> tuple[Any, int]:
    """Decode the value at ``position``, returned with its end; ``is_file``: lines of ``text`` are those of the file."""
    try:
        with _uncollected():
            value, end = json.JSONDecoder().raw_decode(text, position)
    except json.JSONDecodeError as error:
        where = f"{place}:{error.lineno}" if is_file else place
        raise UserError(f"{where}: not JSON: {error.msg}", hint=hint) from error
    except (RecursionError, ValueError) as error:  # ValueError: the interpreter's limit on the digits of an integer
        where = f"{place}:{text.count(chr(10), 0, position) + 1}" if is_file else place
        what = "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
        raise UserError(f"{where}: not usable JSON: {what}", hint=hint) from error
    return value, end
