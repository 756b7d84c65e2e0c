"""Compile the engine's functions; one entry per policy is cached on disk, keyed by every engine source file.

numba checks only the file of a cached function, not the files of the functions it calls. So nothing here is cached by
itself: the entry alone is, and it closes over a fingerprint of all sources, which numba makes part of the cache key.
"""

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba
from numba.core.event import Event, Listener, register

# The engine owns no objects and is called from one place: no reference counts, no wrappers for other callers. Both
# halve the time of a call and of a compilation.
_OPTIONS: Final[dict[str, Any]] = {"nogil": True, "_nrt": False}
_INNER_OPTIONS: Final[dict[str, Any]] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile ``function`` when first called from compiled code; keeps its Python signature for the type checker."""
    return cast(Function, numba.njit(**_OPTIONS, **_INNER_OPTIONS)(function))


def cached_entry(function: Function) -> Function:
    """Compile ``function`` with a disk cache; it must close over ``source_fingerprint()``.

    Where no folder can hold the cache, it is compiled in every process, and a warning says how to change that.
    """
    try:
        return cast(Function, numba.njit(cache=True, **_OPTIONS)(function))
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        warnings.warn(
            "the compiled engine cannot be kept and is compiled anew, seconds each time: neither the package's folder "
            "nor the user's cache folder can be written; set NUMBA_CACHE_DIR to a folder that can",
            RuntimeWarning,
            stacklevel=2,
        )
        return cast(Function, numba.njit(**_OPTIONS)(function))


class _FirstCompilation(Listener):
    """Says once that something is being compiled; a function found in the disk cache is not."""

    def __init__(self, say: Callable[[], None]) -> None:
        self._say: Callable[[], None] | None = say

    def on_start(self, event: Event) -> None:  # noqa: ARG002 - which function is no news to a person
        say, self._say = self._say, None
        if say is not None:
            say()

    def on_end(self, event: Event) -> None:
        """Nobody waits for the end to be told."""


def on_first_compilation(say: Callable[[], None]) -> None:
    """Call ``say`` when this process first has to compile, which takes seconds in which nothing else is seen."""
    register("numba:compile", _FirstCompilation(say))  # type: ignore[no-untyped-call]  # numba has no types


def source_fingerprint() -> str:
    """Hash of the engine's sources: a change to any of them is a cache miss."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
