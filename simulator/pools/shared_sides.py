"""What pairs of pools that have a side in common need of it alike, made for the first of them.

A search pairs some hundred started pools to thousands of plans. Step tables, their layout for the engine, commands and
verdicts of engines are those of one side, whatever it is paired with.
"""

from collections.abc import Callable
from typing import TypeVar, cast

from simulator.serving import StartedPlan

Made = TypeVar("Made")


class SharedSides:
    """Remembers what was made of each started pool, by name.

    Threads that ask for the same thing at once both make it, and get the same.
    """

    def __init__(self) -> None:
        # Each with the pool itself, which keeps its identity from being given to another one.
        self._made: dict[tuple[str, int], tuple[StartedPlan, object]] = {}

    def of(self, name: str, start: StartedPlan, make: Callable[[], Made]) -> Made:
        """Return what ``make`` makes of ``start`` under ``name``, which is done once."""
        key = name, id(start)
        if key not in self._made:
            self._made[key] = start, make()
        return cast(Made, self._made[key][1])
