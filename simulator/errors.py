"""The simulator's own endings: a search in which no plan can start, and a run that contradicts itself."""

from typing import Final

EXIT_INFEASIBLE: Final = 3  # every plan was rejected
EXIT_DEFECT: Final = 70  # sysexits.h calls it EX_SOFTWARE


class EngineDefectError(RuntimeError):
    """A run whose sums contradict each other: no input of a user's is at fault, and there is no result."""
