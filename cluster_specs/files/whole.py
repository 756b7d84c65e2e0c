"""The one writer of every output: a file is written whole or not at all, an existing one replaced only by a whole one.

A writer fills a hidden temporary file of a name nobody else has in the target folder, flushes it to disk, renames it
and flushes the folder. The rename is atomic on POSIX and NTFS, so a reader sees the old file or the new one; a killed
writer leaves a temporary file that no reader looks at. The temporary file is created exclusively: a link that waits
under its name is never followed.
"""

import contextlib
import os
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from cluster_specs.errors import OutputError

TEMPORARY_SUFFIX: Final = ".tmp"
_HINT: Final = "name a file in a folder you can write to"


def check_folder(path: Path) -> None:
    """Find out before the work is done that ``path`` has no folder to be written into; raises ``OutputError``."""
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: cannot be written: {path.parent} is no folder you can write to", hint=_HINT)


def write_whole(path: Path, fill: Callable[[BinaryIO], object], *, hint: str = _HINT) -> None:
    """Let ``fill`` write a stream, then put the file in place; raises ``OutputError`` if the disk refuses."""
    temporary = path.with_name(f".{path.name[:200]}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as stream:
            fill(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}", hint=hint) from error


def write_text(path: Path, text: str, *, hint: str = _HINT) -> None:
    """Write UTF-8 text whole or not at all; raises ``OutputError`` if the disk refuses."""
    write_whole(path, lambda stream: stream.write(text.encode()), hint=hint)


def _flush_folder(folder: Path) -> None:
    """Make the rename itself durable; Windows has no such handle and needs none."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
