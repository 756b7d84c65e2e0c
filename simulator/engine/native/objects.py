"""Files of compiled engines: which engine each is of, whether it is whole, and the user's folder that keeps them.

The name of a file says what it is: `engine-PLATFORM-KEY-DIGEST.so`. KEY is of all that the code depends on, so that an
object of other sources, of another compiler or for another processor has another name and is never found. DIGEST is of
the file itself and is checked before it is loaded: half a library, or one that something else has written to, would end
the process. Code is loaded from a folder only if nobody but its owner, this user, can write to it.
"""

import hashlib
import os
import platform
import stat
import sys
from pathlib import Path
from typing import Final

from cluster_specs.errors import OutputError
from cluster_specs.files.user_cache import keep_newest, user_cache
from cluster_specs.files.whole import make_folder, write_whole
from simulator.engine.native.abi import VERSION

LIBRARY: Final = ".so"  # linked, for the system's loader
OBJECT: Final = ".o"  # not linked, for llvmlite's
BUNDLED: Final = Path(__file__).parent / "built"
_SOURCES: Final = Path(__file__).parents[1]
_KEPT: Final = 8  # files in the user's folder; older ones are of sources long gone
_HINT: Final = "set XDG_CACHE_HOME to a folder of your own"


def target() -> str:
    """Name of the platform that code is compiled for: any processor of this architecture."""
    return f"{sys.platform}-{platform.machine().lower()}"


def source_key() -> str:
    """Hash of the sources an engine is made of, and of how it is called."""
    digest = hashlib.sha256(f"{VERSION} {target()}".encode())
    for path in sorted((*_SOURCES.glob("*.py"), *(_SOURCES / "native").glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def compiler_key(sources: str, compiler: str) -> str:
    """Hash of the sources and of the versions of the compiler that they have gone through."""
    return hashlib.sha256(f"{sources} {compiler}".encode()).hexdigest()[:24]


def find(folder: Path, key: str, suffix: str) -> Path | None:
    """Whole object of ``key`` in ``folder``; a file that is not what its name says is passed over."""
    begin = f"engine-{target()}-{key}-"
    for path in sorted(folder.glob(f"{begin}*{suffix}")):
        try:
            content = path.read_bytes()
        except OSError:  # gone since, or not ours to read: as good as not there
            continue
        if path.name == _name(key, content, suffix):
            return path
    return None


def keep(folder: Path, key: str, content: bytes, suffix: str) -> Path:
    """Write an object into ``folder`` under its name; raises ``OutputError``."""
    make_folder(folder, hint=_HINT)
    path = folder / _name(key, content, suffix)
    write_whole(path, lambda stream: stream.write(content), hint=_HINT)
    return path


def _name(key: str, content: bytes, suffix: str) -> str:
    return f"engine-{target()}-{key}-{hashlib.sha256(content).hexdigest()[:32]}{suffix}"


def drop_others(path: Path) -> None:
    """Remove all objects of this platform beside ``path``."""
    for other in path.parent.glob(f"engine-{target()}-*"):
        if other != path:
            other.unlink(missing_ok=True)


def drop_old(folder: Path) -> None:
    """Remove all but the newest objects of a user's folder."""
    keep_newest(folder, _KEPT, "engine-*")


def user_folder() -> Path:
    """Folder of this user's objects, made if it is missing; raises ``OutputError`` where it is not the user's alone."""
    folder = user_cache() / "engine"
    try:
        make_folder(folder.parent, hint=_HINT)
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}", hint=_HINT) from error
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
        raise OutputError(f"{folder}: others can write to it, so no code is loaded from it", hint=_HINT)
    return folder
