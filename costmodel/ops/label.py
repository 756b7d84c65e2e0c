"""A label: the name of a group of shapes that share one reference and one trend, and its one text form.

    prefill|gqa|bf16|bf16@1410

The parts are what a family tells its kernels apart by, in the order of the family's part names; what follows the ``@``
is the SM clock the rows were locked to, and is absent where the clock was free. Columns of rows and fitted files hold
the text, everything else the value.
"""

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Label:
    """One label; two labels are equal, and in order, as their texts are."""

    parts: tuple[str, ...] = field(compare=False)
    clock_mhz: int | None = field(default=None, compare=False)
    text: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        clock = "" if self.clock_mhz is None else f"@{self.clock_mhz}"
        object.__setattr__(self, "text", "|".join(self.parts) + clock)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form; raises ``ValueError`` where what follows the ``@`` is not a whole number of MHz."""
        parts, mark, clock = text.partition("@")
        found = cls(tuple(parts.split("|")), int(clock) if mark and clock.isdecimal() else None)
        if found.text != text:
            raise ValueError(f"label {shown(text)}: the clock after @ is no whole number of MHz")
        return found

    def at(self, clock_mhz: int | None) -> "Label":
        """Return the same kernels at another clock."""
        return Label(self.parts, clock_mhz)

    def __str__(self) -> str:
        return self.text


def parsed_labels(texts: Iterable[str]) -> Mapping[str, Label]:
    """Return the value of each distinct text; raises as ``Label.parse``."""
    return {text: Label.parse(text) for text in dict.fromkeys(texts)}


def joined(*parts: NDArray[np.str_] | str) -> NDArray[np.str_]:
    """Join columns of parts into a column of label texts."""
    label = np.asarray(parts[0], dtype=np.str_)
    for part in parts[1:]:
        label = np.char.add(np.char.add(label, "|"), np.asarray(part, dtype=np.str_))
    return np.asarray(label)


def at_clocks(label: NDArray[np.str_], clock_mhz: NDArray[np.float64]) -> NDArray[np.str_]:
    """Add the locked clock of each row, NaN where it was free: rows at different clocks are never mixed."""
    locked = np.char.add("@", np.nan_to_num(clock_mhz).astype(np.int64).astype(np.str_))
    return np.char.add(label, np.where(np.isnan(clock_mhz), "", locked))
