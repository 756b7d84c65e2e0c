"""Rows of one family as a fit wants them: usable ones of one engine version, with every other row counted.

Where several frameworks measured the same thing, the wanted one at the nearest version comes first, then any other. A
point measured on the machine itself takes the place of the same point of a table; a point of a kernel that the engine
does not run takes none (`costmodel.fitting.kernel_choice`). Of one point measured in several ways the one that serving
resembles counts: launched from a graph; weights and KV cold, activations hot; on the engine's kernel, or the fastest.
Runs in ``apex fit`` only.
"""

import re
from collections.abc import Mapping, Set
from dataclasses import field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster_specs.lazy_dataclass import dataclass
from costmodel.families.family import OpFamily
from costmodel.families.kernels import EngineKernels, kernel_families
from costmodel.fitting.kernel_choice import KERNEL_FAMILY, choose_kernels
from profiles_db.repeats import key_ids
from profiles_db.schema import FAMILIES
from profiles_db.store import Store

Columns = dict[str, NDArray[np.generic]]

_HOST_BOUND = "launched by the host, because no graph could record them: its time is in theirs"
_UNLIKE_SERVING = "the same point was measured closer to serving (graph, cache state)"
_OF_ANOTHER_KERNEL = "of a kernel that the engine does not run: they tell ratios, not prices"
_OUTRANKED = "another framework, version or origin was preferred"
_OTHER_CONTRACT = "scaled otherwise, or with rounding inside where most rows of their format have it outside"
_OTHER_BACKEND = "the same point runs on a kernel of the engine, or a faster one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """Columns of the rows to fit, how many there were, and what was left out and why.

    ``aside`` are rows of kernels that the engine does not run; ``runs`` are those it runs, by choice, where known.
    """

    columns: Columns
    rows: int
    aside: Columns = field(default_factory=dict)
    runs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    run_ids: tuple[str, ...] = ()
    origins: dict[str, int] = field(default_factory=dict)
    frameworks: dict[str, int] = field(default_factory=dict)

    @property
    def used(self) -> int:
        """Rows that are left."""
        return len(self.columns["latency_s"])


def read_measurements(
    store: Store,
    family: OpFamily,
    device: str,
    framework: str | None,
    *,
    engine: EngineKernels | None = None,
    elsewhere: Set[str] = frozenset(),
) -> Measurements:
    """Read one family of a device; ``framework`` is a wish such as ``vllm-0.24.0``.

    ``engine`` says which kernels it runs, ``elsewhere`` which of its choices an earlier fit of the device holds.
    """
    table = store.read(family.name, device=device, statuses=None)
    dropped: dict[str, int] = {}
    total = table.num_rows
    status = np.asarray(table["status"].to_pylist(), dtype=np.str_)
    for name in sorted(set(status[status != "ok"].tolist())):
        dropped[f"status {name}"] = int(np.count_nonzero(status == name))
    host_bound = _eager_in_place_of_a_graph(table, family)
    if host_bound.any():
        dropped[_HOST_BOUND] = int(np.count_nonzero(host_bound & (status == "ok")))
    keep = (status == "ok") & ~host_bound
    latency = _column(table, "latency_s")
    bad = keep & ~(np.nan_to_num(latency.astype(np.float64)) > 0)
    if bad.any():
        dropped["no positive latency"] = int(bad.sum())
    table = table.filter(pa.array(keep & ~bad))
    table = _without(table, _unlike_serving(table, family), _UNLIKE_SERVING, dropped)
    columns = _columns(table)
    engine = engine or EngineKernels(engine=framework or "")
    kernels = choose_kernels(columns, family, engine, elsewhere)
    aside = {name: column[kernels.is_foreign] for name, column in columns.items()}
    table = _without(table, kernels.is_foreign, _OF_ANOTHER_KERNEL, dropped)
    table = _without(table, _outranked(table, family, framework), _OUTRANKED, dropped)
    table = _without(table, _other_backend(table, family, engine), _OTHER_BACKEND, dropped)
    table = _without(table, _other_contract(table, family), _OTHER_CONTRACT, dropped)
    columns = _columns(table)
    return Measurements(
        columns=columns,
        rows=total,
        aside=aside,
        runs=kernels.runs,
        dropped=dropped,
        run_ids=tuple(np.unique(columns["run_id"].astype(np.str_)).tolist()),
        origins=_counts(columns["origin"]),
        frameworks=_counts(columns["framework"]),
    )


def _without(table: pa.Table, rows: NDArray[np.bool_], reason: str, dropped: dict[str, int]) -> pa.Table:
    """Leave rows out, and count them under ``reason``."""
    if rows.any():
        dropped[reason] = int(rows.sum())
    return table.filter(pa.array(~rows))


def _columns(table: pa.Table) -> Columns:
    """Columns as arrays, and the family of each row's kernel."""
    columns = {name: _column(table, name) for name in table.column_names}
    return columns | {KERNEL_FAMILY: kernel_families(columns["backend"].astype(np.str_))}


def _column(table: pa.Table, name: str) -> NDArray[np.generic]:
    column = table[name].combine_chunks()
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_dictionary(kind):
        return np.asarray(["" if value is None else value for value in column.to_pylist()], dtype=np.str_)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _counts(column: NDArray[np.generic]) -> dict[str, int]:
    names, counts = np.unique(column.astype(np.str_), return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _eager_in_place_of_a_graph(table: pa.Table, family: OpFamily) -> NDArray[np.bool_]:
    """Rows of points that were planned as a graph and could only be launched one by one.

    Collectives are planned both ways.
    """
    if not family.has_one_kernel:
        return np.zeros(table.num_rows, dtype=bool)
    same_point = [*FAMILIES[family.name].shape_columns, "backend", "dtype", "clock_mhz", "cache", "framework"]
    point = key_ids(table, same_point)
    is_eager = np.asarray(table["launch"].to_pylist(), dtype=np.str_) == "eager"
    is_refused = np.asarray(table["status"].to_pylist(), dtype=np.str_) == "unsupported"
    return np.asarray(is_eager & np.isin(point, point[~is_eager & is_refused]))


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


def _other_backend(table: pa.Table, family: OpFamily, engine: EngineKernels) -> NDArray[np.bool_]:
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
    name = _split(engine.engine)[0]
    backend = _column(table, "backend").astype(np.str_)
    is_own = np.char.startswith(backend[middle], name + ".") if name else np.zeros(len(middle), dtype=bool)
    by_choice = middle[np.lexsort([latency_s[middle], ~is_own, point[middle]])]
    chosen = by_choice[np.append(True, np.diff(point[by_choice]) != 0)]
    return np.asarray(~np.isin(kernel, kernel[chosen]))


def _outranked(table: pa.Table, family: OpFamily, framework: str | None) -> NDArray[np.bool_]:
    """Rows for which there are better ones: of another framework in their group, or measured here at their point.

    Links differ from cluster to cluster: collectives measured here take the place of a whole group.
    """
    if not table.num_rows:
        return np.zeros(0, dtype=bool)
    is_own = _column(table, "origin").astype(np.str_) == "measured"
    names, which = np.unique(_column(table, "framework").astype(np.str_), return_inverse=True)
    preference = [_preference(name, framework) for name in names.tolist()]
    order = sorted(range(len(names)), key=preference.__getitem__)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    group = key_ids(table, family.alternatives)
    best = np.full(int(group.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(best, group[~is_own], rank[which.ravel()][~is_own])
    columns = [*FAMILIES[family.name].shape_columns, "dtype", "clock_mhz"]
    place = key_ids(table, columns) if family.has_one_kernel else group
    return np.asarray(~is_own & ((rank[which.ravel()] > best[group]) | np.isin(place, place[is_own])))


def _other_contract(table: pa.Table, family: OpFamily) -> NDArray[np.bool_]:
    """Rows whose time holds something else than that of most points of their format: the two are no one quantity."""
    if not family.contract or not table.num_rows:
        return np.zeros(table.num_rows, dtype=bool)
    contract = key_ids(table, [*family.kernel_choice, *family.contract])
    choice = key_ids(table, family.kernel_choice)
    point = key_ids(table, FAMILIES[family.name].shape_columns)
    points = np.bincount(np.unique(np.column_stack([contract, point]), axis=0)[:, 0])
    first = np.unique(contract, return_index=True)[1]
    chosen: dict[int, int] = {}
    for number in np.argsort(-points, kind="stable").tolist():
        chosen.setdefault(int(choice[first[number]]), number)
    return np.asarray(~np.isin(contract, list(chosen.values())))


def _preference(framework: str, wanted: str | None) -> tuple[int, float, str]:
    """Sort key of a source: the wanted framework first, at the nearest (else newest) version."""
    name, version = _split(framework)
    wanted_name, wanted_version = _split(wanted or "")
    other = int(bool(wanted_name) and name != wanted_name)
    distance = abs(version - wanted_version) if wanted and not other else -version
    return (other, distance, framework)


def _split(framework: str) -> tuple[str, float]:
    """Split ``vllm-0.24.0`` into its name and one number that orders versions."""
    name, _, version = framework.partition("-")
    parts = [int(part) for part in re.findall(r"\d+", version)[:3]]
    return name, float(sum(part * 1000.0 ** (2 - index) for index, part in enumerate(parts)))
