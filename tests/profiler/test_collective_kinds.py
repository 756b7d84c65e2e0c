"""Every kind of collective can be run by torch."""

import pytest

pytest.importorskip("torch")

from profiler.collectives.kernels import TORCH_CALLS
from profiles_db.collective_kinds import COLLECTIVE_KINDS


def test_torch_runs_every_kind() -> None:
    """The profiler has a call for each kind of the table and for no other."""
    assert sorted(set(TORCH_CALLS) ^ set(COLLECTIVE_KINDS)) == []
