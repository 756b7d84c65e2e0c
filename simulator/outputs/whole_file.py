"""A file the user asked for: written at once or not at all, an existing one replaced only by a complete one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from simulator.errors import InputError


class OutputError(InputError):
    """A file that cannot be written where the user wants it."""

    exit_code: Final = 1


def check_folder(path: Path) -> None:
    """Find out before the work is done that ``path`` has no folder to be written into; raises ``OutputError``."""
    if not os.access(path.parent, os.W_OK) or not path.parent.is_dir():
        raise OutputError(
            f"{path}: cannot be written: {path.parent} is no folder you can write to",
            hint="name a file in a folder you can write to",
        )


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a hidden file beside ``path``, then rename it; raises ``OutputError`` if the disk refuses."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"{path}: cannot be written: {error.strerror or error}", hint="name a file in a folder you can write to"
        ) from error
