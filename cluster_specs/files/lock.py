"""Use of a folder by one process at a time; the kernel releases the lock however its holder dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster_specs.errors import OutputError, UserError


@contextmanager
def locked(path: Path, *, wait: bool, hint: str = "wait for it, or stop it") -> Iterator[None]:
    """Hold the lock file ``path`` (made where it is missing) within the block.

    With ``wait`` the block starts when the present holder is done, else ``UserError`` says who holds it. Raises
    ``OutputError`` where the file cannot be made. The file stays: to remove it would let two hold it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    except OSError as error:
        raise OutputError(
            f"{path.parent}: cannot be written: {error.strerror}", hint="give a folder you can write to"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            holder = os.pread(handle, 64, 0).decode(errors="replace").strip() or "unknown process"
            raise UserError(f"{path.parent}: another run is writing here ({holder})", hint=hint) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"pid {os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
