"""What one run of an nccl-tests (or rccl-tests) ``*_perf`` program printed."""

from collections.abc import Mapping
from typing import Final

from cluster_specs.lazy_dataclass import dataclass

# No buffer of a collective is larger; a longer number is none.
MOST_MESSAGE_BYTES: Final = 2**50

Placement = Mapping[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class NcclResult:
    """One message size: ``time`` in microseconds, ``algbw`` and ``busbw`` in GB/s, ``wrong`` elements, per placement.

    ``wrong`` is None where nothing was counted; a placement that was not run is None.
    """

    size: int
    dtype: str
    redop: str
    out_of_place: Placement | None
    in_place: Placement | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NcclRun:
    """One run as printed: who took part, how, and one result per message size.

    ``ranks`` and ``hosts`` count those of one communicator. ``program`` is None where the output does not name it.
    """

    program: str | None
    ranks: int
    hosts: int
    devices: frozenset[str]
    iterations: int | None
    is_graph: bool
    is_blocking: bool
    library: str | None
    results: tuple[NcclResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NcclFile:
    """The runs of one file in the order they were printed, and what else a reader should know of it."""

    runs: tuple[NcclRun, ...]
    notes: tuple[str, ...] = ()


def version_text(code: int) -> str:
    """Write the library's version code: 2.19.3 is 21903."""
    return f"{code // 10000}.{code // 100 % 100}.{code % 100}"
