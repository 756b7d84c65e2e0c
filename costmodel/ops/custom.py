"""An op of a person's own kernel, told by its name, its sizes and counts that say its work at any amount.

    FLOP  = unit_flop * amount
    bytes = call_bytes + unit_bytes * amount

The amount is the one size that runs from step to step: the tokens of a step, or the sequences that decode in it.
Because an op carries its counts, a measured row of it can be fitted, priced and drawn by whoever has the row, without
the code that it came from.
"""

import re
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from costmodel.ops.arrays import Array
from profiles_db.custom_ops import MOST_SIZES, SIZES


@dataclass(frozen=True, slots=True, kw_only=True)
class Custom:
    """One call of an op of a person's own; ``sizes`` are those that a plan fixes, as ``sizes_text`` writes them."""

    family: ClassVar[str] = "custom"
    op: str
    sizes: str
    amount_of: str  # what the amount counts: tokens or sequences
    amount: int | NDArray[np.int64] | NDArray[np.float64]
    unit_flop: float
    call_bytes: float
    unit_bytes: float
    dtype: str = "bf16"

    def flop(self) -> Array:
        """Of the whole call."""
        return np.asarray(self.unit_flop * np.asarray(self.amount, dtype=np.float64))

    def io_bytes(self) -> Array:
        """Bytes read plus written."""
        return np.asarray(self.call_bytes + self.unit_bytes * np.asarray(self.amount, dtype=np.float64))


def sizes_text(sizes: Mapping[str, int]) -> str:
    """Write sizes by name, ``inner=1536 state=16``, in the order given."""
    return " ".join(f"{name}={value}" for name, value in sizes.items())


def sizes_in(text: str) -> dict[str, int]:
    """Read what ``sizes_text`` writes; raises ``UserError`` for anything else."""
    sizes = dict(part.partition("=")[::2] for part in text.split(" "))
    if re.fullmatch(SIZES, text) is None or len(sizes) < text.count("="):
        raise UserError(
            f"sizes {shown(text)}: must be up to {MOST_SIZES} of name=number, each once, a space between",
            hint="as in inner=1536 state=16",
        )
    return {name: int(value) for name, value in sizes.items()}
