"""Which measured rows a fit does not see: whole shapes, and single points of the shapes that are left.

The draw knows the columns of the store and nothing of what the fit makes of them. A point is everything about a call
but how it was measured, so that no repeat of it, by another kernel or in another cache state, stays behind.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from profiles_db.repeats import key_ids
from profiles_db.schema import FAMILIES
from profiles_db.store import Store, open_store

SEED: Final = 13
SHARE_OF_SHAPES: Final = 0.15
SHARE_OF_POINTS: Final = 0.20
SEEN, POINT, SHAPE = 0, 1, 2
QUESTIONS: Final[Mapping[int, str]] = {POINT: "points", SHAPE: "shapes"}
# What is one shape, in every format at once; families that are not named lose points only.
SHAPES: Final[Mapping[str, tuple[str, ...]]] = {
    "gemm": ("n", "k"),
    "attention": ("num_heads", "num_kv_heads", "head_dim", "v_head_dim", "window"),
    "moe": ("hidden", "inter", "num_experts", "topk", "tp", "ep"),
}
# How low-precision operands are scaled is no other point: neither the fit nor the baselines may know its twin.
_NOT_A_POINT: Final = frozenset({"scaling", "quantise"})
# Collectives have too few rows to judge: 200 held out are asked for.
JUDGED: Final = ("gemm", "attention", "moe", "scan", "elementwise")


def drawn(table: pa.Table, family: str) -> NDArray[np.int8]:
    """Return of each row whether it is ``SEEN``, or held out as a ``POINT`` or with its ``SHAPE``."""
    draw = np.random.default_rng(SEED)
    held_out = np.full(table.num_rows, SEEN, dtype=np.int8)
    columns = [name for name in FAMILIES[family].shape_columns if name not in _NOT_A_POINT]
    point = key_ids(table, [*columns, "dtype"])
    held_out[_drawn(point, SHARE_OF_POINTS, draw)] = POINT
    if family in SHAPES:
        held_out[_drawn(key_ids(table, SHAPES[family]), SHARE_OF_SHAPES, draw)] = SHAPE
    return held_out


def _drawn(group: NDArray[np.int64], share: float, draw: np.random.Generator) -> NDArray[np.bool_]:
    """Mark the rows of a random share of groups."""
    count = int(group.max(initial=-1)) + 1
    chosen = np.zeros(count, dtype=np.bool_)
    chosen[draw.permutation(count)[: round(share * count)]] = True
    return chosen[group]


def without_held_out(store: Store, device: str, folder: Path) -> Store:
    """Write what a fit may see into a new store below ``folder``."""
    seen = open_store(folder, bundled=None)
    for run in store.runs(device).to_pylist():
        seen.append_run(run)
    for family in FAMILIES:
        table = store.read(family, device=device, statuses=None) if family != "run" else None
        if table is None or not table.num_rows:
            continue
        if family in JUDGED:
            table = table.filter(pa.array(drawn(table, family) == SEEN))
        for run_id in table["run_id"].unique().to_pylist():
            seen.append(family, table.filter(pc.equal(table["run_id"], run_id)), run_id)
    return seen
