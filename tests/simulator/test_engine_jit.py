"""Compiled functions and the folder they are kept in."""

from typing import Any

import numba
import pytest

from simulator.engine.jit import cached_entry, on_first_compilation


def test_function_is_compiled_where_no_cache_can_be_written() -> None:
    """Without a folder for the cache the function still runs, and the warning names the variable that gives one."""
    namespace: dict[str, Any] = {}
    exec("def add(state, costs): return state + costs", namespace)  # noqa: S102 - has no file to cache beside
    with pytest.warns(RuntimeWarning, match="NUMBA_CACHE_DIR"):
        add = cached_entry(namespace["add"])
    assert add(1, 2) == 3


def test_a_compilation_is_told_once_and_a_cached_function_not_at_all() -> None:
    """The first function compiled speaks; the second, and a call of one that is ready, do not."""
    told: list[str] = []
    ready = numba.njit(lambda x: x + 1)
    ready(1)
    on_first_compilation(lambda: told.append("compiling"))
    ready(2)
    assert told == []
    numba.njit(lambda x: x + 2)(1)
    numba.njit(lambda x: x + 3)(1)
    assert told == ["compiling"]
