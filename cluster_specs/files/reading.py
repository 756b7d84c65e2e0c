"""Bounded reading of files people hand in, unpacked where they are gzipped.

A few megabytes of gzip can unpack to more than a machine holds, so every reader states how much it takes: of a whole
document, of one line, and of what a packed file may grow to.
"""

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from cluster_specs.errors import UserError

# The public ShareGPT file, the largest single document people replay, is 0.7 GB.
MOST_DOCUMENT_BYTES: Final = 2**30
# A prompt of 20 M tokens in hashed blocks of 16 is a line of 12 MB.
MOST_LINE_BYTES: Final = 16 * 2**20
# Logs and tables pack 3 to 30 times; what unpacks to far more is no trace. Small files may: a constant column does.
_MOST_UNPACKING: Final = 200
_ALWAYS_UNPACKED_BYTES: Final = 64 * 2**20


class _Unpacked(io.RawIOBase):
    """The content of a gzip file up to a limit, with one error for damage and one for a file that grows too much."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        super().__init__()
        self._path = path
        import gzip

        self._faults = (gzip.BadGzipFile, EOFError, zlib.error)
        self._file = gzip.open(path, "rb")  # noqa: SIM115 - closed with this stream
        self._most_bytes = most_bytes
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader passes
        try:
            part = self._file.read(len(buffer))
        except self._faults as error:
            raise UserError(
                f"{self._path}: damaged gzip file after {self._count} unpacked bytes: {error}",
                hint="the file is cut short or was changed; copy it again",
            ) from error
        self._count += len(part)
        if self._count > self._most_bytes:
            raise UserError(
                f"{self._path}: unpacks to more than {self._most_bytes} bytes, {_MOST_UNPACKING} times its packed size",
                hint="unpack it and look what it holds",
            )
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self._file.close()
        super().close()


def is_file(path: Path | str) -> bool:
    """Whether a file is there; no for what cannot be a path at all: too long a name, a NUL."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises where the name is too long


def exists(path: Path | str) -> bool:
    """Whether a file or folder is there; no for what cannot be a path at all."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises where the name is too long


@contextmanager
def opened(path: Path, *, hint: str = "") -> Iterator[BinaryIO]:
    """Open ``path`` for reading, unpacking ``.gz``; every failure, also while reading, is a ``UserError``."""
    try:
        if path.suffix == ".gz":
            most_bytes = max(_ALWAYS_UNPACKED_BYTES, _MOST_UNPACKING * path.stat().st_size)
            stream: BinaryIO = io.BufferedReader(_Unpacked(path, most_bytes))
        else:
            stream = path.open("rb")
        with stream:
            yield stream
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file", hint=hint) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, UserError) or (isinstance(error, ValueError) and "null byte" not in str(error)):
            raise
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read: {reason}", hint=hint) from error


def read_document(path: Path, *, most_bytes: int = MOST_DOCUMENT_BYTES, hint: str = "") -> bytes:
    """Return the whole (unpacked) content of a file; ``UserError`` where it is missing, damaged or too large."""
    with opened(path, hint=hint) as stream:
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise UserError(f"{path}: is larger than {most_bytes} bytes, the most that is read of such a file", hint=hint)
    return content


def iter_lines(stream: BinaryIO, path: Path, *, first: int = 1, most_bytes: int = MOST_LINE_BYTES) -> Iterator[bytes]:
    """Yield the lines of a stream with their ends; ``UserError`` names the line that is longer than ``most_bytes``."""
    number = first
    while line := stream.readline(most_bytes + 1):
        if len(line) > most_bytes:
            raise UserError(
                f"{path}:{number}: the line is longer than {most_bytes} bytes",
                hint="is this a file of one record per line?",
            )
        yield line
        number += 1
