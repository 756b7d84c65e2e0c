"""The kinds of collectives there are: one table for the schema, the importers, the prices and the profiler.

To add a kind, add its entry here, its call to ``profiler/collectives/kernels.py`` and its name to
``docs/reference/measurements.md``; ``tests/profiles_db/test_collective_kinds.py`` and
``tests/profiler/test_collective_kinds.py`` name a place that was missed.
"""

from collections.abc import Mapping
from typing import Final

from cluster_specs.lazy_dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveKind:
    """One kind; ``nccl_tests`` is its program there without underscores and ``_perf``.

    Each rank sends ``passes`` times the message, less its own part of it where every rank keeps one (``keeps_part``):
    nccl-tests' bus factor, busbw / algbw (its PERFORMANCE.md). ``combines``: values of several ranks become one.
    """

    name: str
    nccl_tests: str
    passes: float = 1.0
    keeps_part: bool = True
    combines: bool = False

    def bus_factor(self, ranks: int) -> float:
        """Return busbw / algbw among ``ranks``."""
        return self.passes * (ranks - 1) / ranks if self.keeps_part else self.passes


_KINDS: Final = (
    CollectiveKind(name="all_reduce", nccl_tests="allreduce", passes=2.0, combines=True),
    CollectiveKind(name="all_gather", nccl_tests="allgather"),
    CollectiveKind(name="reduce_scatter", nccl_tests="reducescatter", combines=True),
    CollectiveKind(name="all_to_all", nccl_tests="alltoall"),
    CollectiveKind(name="send_recv", nccl_tests="sendrecv", keeps_part=False),
)

COLLECTIVE_KINDS: Final[Mapping[str, CollectiveKind]] = {kind.name: kind for kind in _KINDS}
