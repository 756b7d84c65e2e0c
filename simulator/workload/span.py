"""How long a workload may last: the engine counts integer picoseconds from the first arrival.

An int64 holds 106.75 days of them. What is asked for may take 100 days, and a run must end within 101
(``simulator.engine.bounds.CLOCK_END``); the rest keeps every sum of a step from wrapping.
"""

from typing import Final

LONGEST_SPAN_S: Final = 100 * 86_400.0

HINT: Final = "is the unit right (--time-unit)? else cut the trace, or press it into less time with --rate-scale"


def shown_span(seconds: float) -> str:
    """Write a length of time in seconds and in days, for a message."""
    return f"{seconds:,.10g} s ({seconds / 86_400:,.4g} days)"
