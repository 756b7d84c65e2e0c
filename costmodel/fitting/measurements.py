"""Rows of one family as a fit wants them: usable ones of one engine version, with every other row counted.

Where several frameworks measured the same thing, rows measured on the machine itself come first, then the wanted
framework at the nearest version, then any other. Of one point measured in several ways the one that serving resembles
counts: launched from a graph; weights and KV cold, activations hot; on the engine's kernel, or the fastest. Runs in
``apex fit`` only.
"""

import re
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from costmodel.families.family import OpFamily
from profiles_db.repeats import key_ids
from profiles_db.schema import FAMILIES
from profiles_db.store import Store

Columns = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """Columns of the rows to fit, how many there were, and what was left out and why."""

    columns: Columns
    rows: int
    dropped: dict[str, int] = field(default_factory=dict)
    run_ids: tuple[str, ...] = ()
    origins: dict[str, int] = field(default_factory=dict)
    frameworks: dict[str, int] = field(default_factory=dict)

    @property
    def used(self) -> int:
        """Rows that are left."""
        return len(self.columns["latency_s"])


def read_measurements(store: Store, family: OpFamily, device: str, framework: str | None) -> Measurements:
    """Read one family of a device; ``framework`` is a wish such as ``vllm-0.24.0``."""
    table = store.read(family.name, device=device, statuses=None)
    dropped: dict[str, int] = {}
    total = table.num_rows
    status = np.asarray(table["status"].to_pylist(), dtype=np.str_)
    for name in sorted(set(status[status != "ok"].tolist())):
        dropped[f"status {name}"] = int(np.count_nonzero(status == name))
    keep = status == "ok"
    latency = _column(table, "latency_s")
    bad = keep & ~(np.nan_to_num(latency.astype(np.float64)) > 0)
    if bad.any():
        dropped["no positive latency"] = int(bad.sum())
    table = table.filter(pa.array(keep & ~bad))
    columns = {name: _column(table, name) for name in table.column_names}
    worse = _outranked(columns, family, framework)
    if worse.any():
        dropped["another framework, version or origin was preferred"] = int(worse.sum())
    columns = {name: column[~worse] for name, column in columns.items()}
    unlike = _unlike_serving(table.filter(pa.array(~worse)), family)
    if unlike.any():
        dropped["the same point was measured closer to serving (graph, cache state)"] = int(unlike.sum())
    columns = {name: column[~unlike] for name, column in columns.items()}
    other = _other_backend(table.filter(pa.array(~worse)).filter(pa.array(~unlike)), family, framework)
    if other.any():
        dropped["the same point runs on a kernel of the engine, or a faster one"] = int(other.sum())
    columns = {name: column[~other] for name, column in columns.items()}
    return Measurements(
        columns=columns,
        rows=total,
        dropped=dropped,
        run_ids=tuple(np.unique(columns["run_id"].astype(np.str_)).tolist()),
        origins=_counts(columns["origin"]),
        frameworks=_counts(columns["framework"]),
    )


def _column(table: pa.Table, name: str) -> NDArray[np.generic]:
    column = table[name].combine_chunks()
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_dictionary(kind):
        return np.asarray(["" if value is None else value for value in column.to_pylist()], dtype=np.str_)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _counts(column: NDArray[np.generic]) -> dict[str, int]:
    names, counts = np.unique(column.astype(np.str_), return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _unlike_serving(table: pa.Table, family: OpFamily) -> NDArray[np.bool_]:
    """Rows of points that were also measured in a way closer to serving."""
    same_point = [*FAMILIES[family.name].shape_columns, "device", "backend", "dtype", "clock_mhz", "framework"]
    point = key_ids(table, same_point)
    is_eager = np.asarray(table["launch"].to_pylist(), dtype=np.str_) != "graph"
    is_other = np.asarray(table["cache"].to_pylist(), dtype=np.str_) != family.cache
    rank = 2 * is_eager + is_other
    best = np.full(int(point.max(initial=-1)) + 1, 4)
    np.minimum.at(best, point, rank)
    return np.asarray(rank > best[point])


def _other_backend(table: pa.Table, family: OpFamily, framework: str | None) -> NDArray[np.bool_]:
    """Rows of points that another backend runs: a kernel of the wanted engine, else the one of the least median time.

    Families with several kernels to a point say themselves which of them runs where.
    """
    if not family.has_one_kernel or not table.num_rows:
        return np.zeros(table.num_rows, dtype=bool)
    same_point = [*FAMILIES[family.name].shape_columns, "device", "dtype", "clock_mhz", "framework"]
    point, kernel = key_ids(table, same_point), key_ids(table, [*same_point, "backend"])
    latency_s = _column(table, "latency_s").astype(np.float64)
    order = np.lexsort([latency_s, kernel])
    first = np.flatnonzero(np.append(True, np.diff(kernel[order]) != 0))
    middle = order[first + (np.diff(np.append(first, len(order))) - 1) // 2]
    engine = _split(framework or "")[0]
    backend = _column(table, "backend").astype(np.str_)
    is_own = np.char.startswith(backend[middle], engine + ".") if engine else np.zeros(len(middle), dtype=bool)
    by_choice = middle[np.lexsort([latency_s[middle], ~is_own, point[middle]])]
    chosen = by_choice[np.append(True, np.diff(point[by_choice]) != 0)]
    return np.asarray(~np.isin(kernel, kernel[chosen]))


def _outranked(columns: Columns, family: OpFamily, framework: str | None) -> NDArray[np.bool_]:
    """Rows for which their group has better ones."""
    if not len(columns["latency_s"]):
        return np.zeros(0, dtype=bool)
    sources, which = np.unique(
        np.column_stack([columns["origin"].astype(np.str_), columns["framework"].astype(np.str_)]),
        axis=0,
        return_inverse=True,
    )
    preference = [_preference(str(origin), str(name), framework) for origin, name in sources.tolist()]
    order = sorted(range(len(sources)), key=preference.__getitem__)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    row_rank = rank[which.ravel()]
    group = np.zeros(len(row_rank), dtype=np.int64)
    for name in family.alternatives:
        codes = np.unique(columns[name], return_inverse=True)[1].ravel()
        group = np.unique(group * (int(codes.max()) + 1) + codes, return_inverse=True)[1].ravel()
    best = np.full(int(group.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(best, group, row_rank)
    return np.asarray(row_rank > best[group])


def _preference(origin: str, framework: str, wanted: str | None) -> tuple[int, int, float, str]:
    """Sort key of a source: measured here, then the wanted framework, then the nearest (else newest) version."""
    name, version = _split(framework)
    wanted_name, wanted_version = _split(wanted or "")
    other = int(bool(wanted_name) and name != wanted_name)
    distance = abs(version - wanted_version) if wanted and not other else -version
    return (int(origin != "measured"), other, distance, framework)


def _split(framework: str) -> tuple[str, float]:
    """Split ``vllm-0.24.0`` into its name and one number that orders versions."""
    name, _, version = framework.partition("-")
    parts = [int(part) for part in re.findall(r"\d+", version)[:3]]
    return name, float(sum(part * 1000.0 ** (2 - index) for index, part in enumerate(parts)))
