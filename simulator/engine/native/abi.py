"""How the compiled engine is called: one C function per entry, of a state and step tables, that returns an int64."""

from typing import Final, Literal, get_args

# The functions of ``simulator.engine.entries``, by name: whoever calls what was compiled needs no kernel. A pool of two
# names its engine by the place here (``State.entry``).
Entry = Literal[
    "run_v1",
    "run_v0",
    "run_sglang",
    "run_v1_pipeline",
    "run_lockstep",
    "run_v1_with_drafts",
    "run_lockstep_pipeline",
    "run_sglang_pipeline",
    "run_two_pools",
]
ENTRIES: Final[tuple[Entry, ...]] = get_args(Entry)

VERSION: Final = 1  # of the names and the signature of what an object exports
FAILED: Final = -4  # beside what an entry returns: it divided by zero, the only error compiled code can meet


def symbol(entry: Entry) -> str:
    """Name under which an object exports ``entry``."""
    return f"apex_{entry}"
