"""The simulator's own endings: no plan can start, a plan is too slow to be counted, a run contradicts itself."""

from typing import Final

from cluster_specs.errors import UserError

EXIT_INFEASIBLE: Final = 3  # every plan was rejected
EXIT_DEFECT: Final = 70  # sysexits.h calls it EX_SOFTWARE


class EngineLimitError(UserError):
    """A plan so slow, for this workload, that its steps or its run outlast what the engine counts."""


class EngineDefectError(RuntimeError):
    """A run whose sums contradict each other: no input of a user's is at fault, and there is no result."""
