"""Rows and stores the tests of this package start from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from profiles_db.store import Store, open_store

Row = dict[str, Any]


@pytest.fixture
def gemm_row() -> Callable[..., Row]:
    """Give a valid GEMM row, with changes."""

    def build(**changes: object) -> Row:
        shape = {"m": 16, "n": 4096, "k": 4096, "scaling": "none", "quantise": False}
        context = {"device": "h100-sxm", "backend": "torch.cublas", "dtype": "bf16", "launch": "graph", "cache": "cold"}
        return {**shape, **context, "latency_s": 1e-5, "status": "ok", "origin": "measured", **changes}

    return build


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Open an empty store without a bundled layer."""
    return open_store(tmp_path / "db", bundled=None)
