"""How the compiled engine is called: one C function per entry, of a state and step tables, that returns an int64."""

from typing import Final

from simulator.engine.entries import Entry

VERSION: Final = 1  # of the names and the signature of what an object exports
FAILED: Final = -4  # beside what an entry returns: it divided by zero, the only error compiled code can meet


def symbol(entry: Entry) -> str:
    """Name under which an object exports ``entry``."""
    return f"apex_{entry.__name__}"
