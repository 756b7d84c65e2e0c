"""The elements of one long JSON list, one at a time: memory grows with an element, not with the list."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from cluster_specs.errors import UserError
from cluster_specs.files.json_text import decode_value, skip_space
from cluster_specs.files.reading import MOST_LINE_BYTES

_PART_BYTES: Final = 2**20


def iter_list(stream: BinaryIO, path: Path, *, hint: str = "") -> Iterator[tuple[int, Any]]:
    """Yield (number from 1, value) of the elements of a file that is one JSON list.

    Raises ``UserError`` for what is no list, for an element longer than `MOST_LINE_BYTES`, and for text after the list.
    """
    text = _Text(stream, path, hint)
    if text.next_character() != "[":
        raise UserError(f"{path}: not a JSON list", hint=hint)
    text.position += 1
    number = 0
    while text.next_character() != "]":
        number += 1
        if number > 1:
            if text.next_character() != ",":
                raise UserError(f"{path}: entry {number}: not JSON: a comma is missing before it", hint=hint)
            text.position += 1
            text.next_character()
        yield number, text.value(f"{path}: entry {number}")
    text.position += 1
    if text.next_character(at_end="") != "":
        raise UserError(f"{path}: not JSON: something follows the list", hint=hint)


class _Text:
    """A stretch of the file's text that moves on as it is consumed up to ``position``."""

    __slots__ = ("_decoder", "_hint", "_is_whole", "_path", "_stream", "_text", "position")

    def __init__(self, stream: BinaryIO, path: Path, hint: str) -> None:
        self._stream = stream
        self._path = path
        self._hint = hint
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._is_whole = False
        self.position = 0

    def _read_on(self) -> None:
        held = len(self._text) - self.position
        part = self._stream.read(min(max(_PART_BYTES, held), MOST_LINE_BYTES + _PART_BYTES))
        self._is_whole = not part
        try:
            self._text = self._text[self.position :] + self._decoder.decode(part, final=self._is_whole)
        except UnicodeDecodeError as error:
            raise UserError(f"{self._path}: not UTF-8 text: {error.reason}", hint=self._hint) from error
        self.position = 0

    def next_character(self, *, at_end: str | None = None) -> str:
        """Move to the next character that is no white space and return it; ``at_end`` where the file ends first."""
        while True:
            self.position = skip_space(self._text, self.position)
            if self.position < len(self._text):
                return self._text[self.position]
            if self._is_whole:
                if at_end is not None:
                    return at_end
                raise UserError(f"{self._path}: the JSON list ends before its ']'", hint=self._hint)
            self._read_on()

    def value(self, place: str) -> Any:
        """Decode the value at the position and move behind it."""
        while True:
            try:
                value, end = decode_value(self._text, self.position, place, self._hint, is_file=False)
                if (end < len(self._text) or self._is_whole) and end - self.position <= MOST_LINE_BYTES:
                    self.position = end
                    return value
            except UserError:
                if self._is_whole:
                    raise
            if len(self._text) - self.position >= MOST_LINE_BYTES:
                raise UserError(f"{place}: is longer than {MOST_LINE_BYTES} bytes", hint=self._hint)
            self._read_on()
