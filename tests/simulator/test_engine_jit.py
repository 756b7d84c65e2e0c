"""Compiled functions and the folder they are kept in."""

from typing import Any

import pytest

from simulator.engine.jit import cached_entry


def test_function_is_compiled_where_no_cache_can_be_written() -> None:
    """Without a folder for the cache the function still runs, and the warning names the variable that gives one."""
    namespace: dict[str, Any] = {}
    exec("def add(state, costs): return state + costs", namespace)  # noqa: S102 - has no file to cache beside
    with pytest.warns(RuntimeWarning, match="NUMBA_CACHE_DIR"):
        add = cached_entry(namespace["add"])
    assert add(1, 2) == 3
