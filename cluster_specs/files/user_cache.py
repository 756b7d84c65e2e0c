"""Where what can be made again is kept between commands: a folder of the user's own, as each system has it."""

import os
import sys
from pathlib import Path


def user_cache() -> Path:
    """Return apex's folder in the user's cache; it need not exist, and may be one nobody can write to.

    It is ``$XDG_CACHE_HOME/apex``, without that ``~/Library/Caches/apex`` on macOS and ``~/.cache/apex`` elsewhere.
    """
    stated = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(stated):  # noqa: PTH117 - the standard has relative ones ignored
        return Path(stated, "apex")
    own = ("Library", "Caches") if sys.platform == "darwin" else (".cache",)
    return Path(os.path.expanduser("~"), *own, "apex")  # noqa: PTH111 - never raises, unlike Path.home


def keep_newest(folder: Path, most: int, pattern: str = "*") -> None:
    """Remove all but the ``most`` files of a folder that were written last; another process may be doing the same."""
    try:
        found = sorted(folder.glob(pattern), key=lambda path: path.lstat().st_mtime_ns)
        for path in found[: max(0, len(found) - most)]:
            path.unlink(missing_ok=True)
    except OSError:  # gone between the two, or not ours to remove
        return
