"""Rule: rows of a kernel that the engine does not run never make the prices of the tables' points worse.

No table holds such rows of the same device, so they are made: rows of the tables, some other factor slower, as a
profile in torch alone would have measured them. What is shown is whether they displace anything, not what such a
kernel really takes.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profiles_db.store import Store, open_store

COUNTS: Final = (0, 12, 50, 200)
FAMILY: Final = "attention"
_BACKEND: Final = "torch.flash_attention"
_SLOWER: Final = 1.8
_RUN: Final = "foreign-kernel"


def with_foreign(seen: Store, device: str, count: int, folder: Path) -> Store:
    """Write the attention rows of ``seen`` and ``count`` prefill rows of a foreign kernel into a new store."""
    store = open_store(folder, bundled=None)
    for run in seen.runs(device).to_pylist():
        store.append_run(run)
    table = seen.read(FAMILY, device=device, statuses=None)
    for run_id in table["run_id"].unique().to_pylist():
        store.append(FAMILY, table.filter(pc.equal(table["run_id"], run_id)), run_id)
    if not count:
        return store
    whole = pc.and_(pc.equal(table["phase"], "prefill"), pc.equal(table["prefill_q"], table["prefill_kv"]))
    plain = pc.and_(pc.equal(table["dtype"], "bf16"), pc.equal(table["kv_dtype"], "bf16"))
    rows = table.filter(pc.and_(whole, plain))
    chosen = np.sort(np.random.default_rng(count).choice(rows.num_rows, min(count, rows.num_rows), replace=False))
    rows = rows.take(pa.array(chosen))
    slower = pc.multiply(rows["latency_s"], _SLOWER)
    changed = {
        "backend": pa.array([_BACKEND] * rows.num_rows),
        "origin": pa.array(["measured"] * rows.num_rows),
        "run_id": pa.array([_RUN] * rows.num_rows),
        "framework": pa.nulls(rows.num_rows, pa.string()),
        "latency_s": slower,
        "latency_p10_s": slower,
        "latency_p90_s": slower,
    }
    for name, column in changed.items():
        rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), column)
    now = datetime.now(tz=UTC)
    (earlier, *_) = seen.runs(device).to_pylist()
    store.append_run({**earlier, "run_id": _RUN, "started_at": now, "ended_at": now})
    store.append(FAMILY, rows, _RUN)
    return store
