"""Link an object into a shared library with the system's linker; it refers to nothing, so no library is linked in."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

# A compiler's driver knows its linker; the linker alone does as well where there is no compiler.
_DRIVERS: Final = ("cc", "gcc", "clang")
_LINKERS: Final = ("ld", "ld.lld")
_ELF: Final = ("-shared", "-nostdlib")


class LinkError(RuntimeError):
    """There is no linker here, or it refuses."""


def link(content: bytes) -> bytes:
    """Shared library of an object file; raises ``LinkError``."""
    command = linker_command()
    with tempfile.TemporaryDirectory(prefix="apex-") as name:
        source, result = Path(name) / "engine.o", Path(name) / "engine.so"
        source.write_bytes(content)
        done = subprocess.run([*command, "-o", str(result), str(source)], capture_output=True, text=True, check=False)
        if done.returncode != 0 or not result.is_file():
            raise LinkError(f"{command[0]} does not link: {done.stderr.strip()[:300]}")
        return result.read_bytes()


def linker_command() -> list[str]:
    """Return what links here, without the names of files; raises ``LinkError`` where nothing does."""
    for name in _DRIVERS:
        found = shutil.which(name)
        if found:
            # The library of macOS has to name the system's, used or not.
            return [found, "-dynamiclib"] if sys.platform == "darwin" else [found, *_ELF, "-Wl,--no-undefined"]
    for name in _LINKERS:
        found = shutil.which(name)
        if found and sys.platform != "darwin":
            return [found, *_ELF[:1], "--no-undefined"]
    raise LinkError(f"none of {', '.join((*_DRIVERS, *_LINKERS))} is installed")
