"""The one writer of every output: a file is written whole or not at all, an existing one replaced only by a whole one.

A writer fills a hidden temporary file of a name nobody else has in the target folder, flushes it to disk, renames it
and flushes the folder. The rename is atomic on POSIX and NTFS, so a reader sees the old file or the new one; a killed
writer leaves a temporary file that no reader looks at. The temporary file is created exclusively: a link that waits
under its name is never followed, and a link under the final name is replaced, not followed. What is no file (a device,
a pipe) is written as it comes: there is nothing to keep whole.
"""

import contextlib
import errno
import os
import stat
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from cluster_specs.errors import OutputError, UserError
from cluster_specs.files.shown import shown

TEMPORARY_SUFFIX: Final = ".tmp"
_HINT: Final = "name a file in a folder you can write to"
# File systems take names of 255 bytes; the rest is for the unique part.
_NAME_BYTES: Final = 200
# Names there are not files of a folder, whatever they point at.
_STREAM_FOLDERS: Final = ("/dev", "/proc")


def check_folder(path: Path) -> None:
    """Find out before the work is done that ``path`` has no folder to be written into; raises ``OutputError``."""
    try:
        is_writable = path.parent.is_dir() and os.access(path.parent, os.W_OK)
    except (OSError, ValueError):  # a name too long, or with a NUL
        is_writable = False
    if not is_writable:
        raise OutputError(
            f"{_place(path)}: cannot be written: {_place(path.parent)} is no folder you can write to", hint=_HINT
        )


def make_folder(path: Path, *, hint: str = "name a folder where you can write") -> None:
    """Make a folder and those above it; raises ``OutputError``."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise OutputError(f"{_place(path)}: cannot be written: {reason_of(error)}", hint=hint) from error


def write_whole(path: Path, fill: Callable[[BinaryIO], object], *, hint: str = _HINT) -> None:
    """Let ``fill`` write a stream, then put the file in place; raises ``OutputError`` if the disk refuses."""
    try:
        if _is_stream(path):
            with path.open("wb") as stream:
                fill(stream)
            return
        _write_and_rename(path, fill)
    except OSError as error:
        raise OutputError(f"{_place(path)}: cannot be written: {reason_of(error)}", hint=hint) from error
    except ValueError as error:
        if isinstance(error, UserError) or "null byte" not in str(error):
            raise
        raise OutputError(f"{_place(path)}: cannot be written: {reason_of(error)}", hint=hint) from error


def write_text(path: Path, text: str, *, hint: str = _HINT) -> None:
    """Write UTF-8 text whole or not at all; raises ``OutputError`` if the disk refuses."""
    content = text.encode(errors="backslashreplace")  # half of a surrogate pair has no UTF-8
    write_whole(path, lambda stream: stream.write(content), hint=hint)


def reason_of(error: OSError | ValueError) -> str:
    """Return what the system says, without its number and without the path that the message starts with."""
    return str(getattr(error, "strerror", None) or error)


def _write_and_rename(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    stem = os.fsencode(path.name)[:_NAME_BYTES].decode(errors="ignore")
    temporary = path.with_name(f".{stem}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as stream:
            fill(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _is_stream(path: Path) -> bool:
    """Whether something stands there that no file may replace: a device, a pipe, a name of /dev or /proc."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    is_special = not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return is_special or (path.parent.as_posix().startswith(_STREAM_FOLDERS) and path.is_symlink())


def _place(path: Path) -> str:
    """Return the path as messages show it: as it is, unless it is no name at all."""
    text = str(path)
    return text if text.isprintable() and len(text) <= 500 else shown(text)


def _flush_folder(folder: Path) -> None:
    """Make the rename itself durable; Windows has no such handle and needs none.

    A folder that may be written but not read, and a file system that flushes no folders, are no fault of the file.
    """
    if sys.platform == "win32":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(handle)
