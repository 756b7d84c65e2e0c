"""Use of a folder by one process at a time; the kernel releases the lock however its holder dies."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cluster_specs.errors import OutputError, UserError
from cluster_specs.files.whole import make_folder, reason_of

_HINT: Final = "wait for it, stop it, or give another folder that you can write to"


@contextmanager
def locked(path: Path, *, wait: bool, folder: Path | None = None, hint: str = _HINT) -> Iterator[None]:
    """Hold the lock file ``path`` (made where it is missing) within the block.

    With ``wait`` the block starts when the present holder is done, else ``UserError`` says who holds it. ``folder`` is
    what the messages name (the lock file's own without it). Raises ``OutputError`` where the file cannot be made. The
    file stays: to remove it would let two hold it.
    """
    named = folder or path.parent
    make_folder(path.parent, hint=hint)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    except OSError as error:
        raise OutputError(f"{named}: cannot be written: {path.name}: {reason_of(error)}", hint=hint) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            holder = os.pread(handle, 64, 0).decode(errors="replace").strip() or "unknown process"
            raise UserError(f"{named}: another run is writing here ({holder})", hint=hint) from error
        except OSError as error:  # some network file systems have no locks
            raise OutputError(f"{named}: cannot be locked: {reason_of(error)}", hint=hint) from error
        with contextlib.suppress(OSError):  # the name is a courtesy: a full disk may still be read
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"pid {os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
