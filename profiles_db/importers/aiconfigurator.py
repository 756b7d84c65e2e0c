"""Imports the measured operator tables of the installed ``aiconfigurator-core`` wheel.

The wheel keeps one Parquet file per ``<system>/<table family>/<framework>/<version>/<table>_perf.parquet``; NCCL's
tables stand beside the frameworks under a version of their own. Each framework version becomes one run of the store.
"""

import importlib.metadata
import importlib.resources
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from profiles_db.errors import ProfilesError
from profiles_db.importers.aiconfigurator_tables import MAPPERS, UNMAPPED, Origin, sick_collectives
from profiles_db.importers.counting import Sieve, TableCount
from profiles_db.importers.delivery import deliver
from profiles_db.importers.rows import family_rows
from profiles_db.repeats import without_keys_of
from profiles_db.schema import FAMILIES
from profiles_db.store import Store

# Import names of the wheel: today's, and the announced successor with the same layout.
_PACKAGES: Final = ("aiconfigurator_core", "aisimulate")
_LIBRARIES: Final = ("nccl", "oneccl")  # collective libraries that stand where a framework would
_SUFFIX: Final = "_perf.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """How a system of the wheel is called here, and the links inside one node."""

    device: str
    level: str
    devices_per_node: int = 8
    has_graphs: bool = True


SYSTEMS: Final[Mapping[str, System]] = {
    "a100_sxm": System(device="a100-sxm-80gb", level="nvlink"),
    "h100_sxm": System(device="h100-sxm", level="nvlink"),
    "h200_sxm": System(device="h200-sxm", level="nvlink"),
    "b200_sxm": System(device="b200", level="nvlink"),
    "b300_sxm": System(device="b300", level="nvlink"),
    "gb200": System(device="gb200", level="nvlink", devices_per_node=4),
    "gb300": System(device="gb300", level="nvlink", devices_per_node=4),
    "l40s": System(device="l40s", level="pcie"),
    "rtx_pro_6000_server": System(device="rtx-pro-6000", level="pcie"),
    "b60": System(device="b60", level="pcie", has_graphs=False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignTable:
    """One Parquet file of the wheel."""

    system: str
    framework: str
    version: str
    table: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """The installed tables and the version they come from."""

    distribution: str
    version: str
    root: Path

    @property
    def origin(self) -> str:
        """``origin`` column of every imported row."""
        return f"imported:{self.distribution}-{self.version}"

    def iter_tables(self, system: str) -> Iterator[ForeignTable]:
        """Tables of one system, in path order."""
        for path in sorted((self.root / system).glob(f"*/*/*/*{_SUFFIX}")):
            _, framework, version, name = path.relative_to(self.root / system).parts
            table = name.removesuffix(_SUFFIX)
            yield ForeignTable(system=system, framework=framework, version=version, table=table, path=path)


def open_wheel(root: Path | None = None) -> Wheel:
    """Find the installed wheel's tables (or those under ``root``); raises ``ProfilesError`` when there are none."""
    if root is not None:
        if not root.is_dir():
            raise ProfilesError(f"{root}: no folder of aiconfigurator tables")
        return Wheel(distribution="aiconfigurator-core", version="unknown", root=root)
    for package in _PACKAGES:
        try:
            folder = importlib.resources.files(package) / "systems" / "data"
        except ModuleNotFoundError:
            continue
        if isinstance(folder, Path) and folder.is_dir():
            distribution = package.replace("_", "-")
            version = importlib.metadata.version(distribution)
            return Wheel(distribution=distribution, version=version, root=folder)
    raise ProfilesError(
        "the aiconfigurator-core wheel is not installed", hint='pip install "apex-planner[import-aic]", about 82 MB'
    )


def select_tables(
    wheel: Wheel, system: str, frameworks: Sequence[str], versions: Sequence[str], tables: Sequence[str] = ()
) -> list[ForeignTable]:
    """Choose tables of ``system``.

    ``frameworks`` and ``versions`` may be ``("all",)``; no version takes each framework's newest with a GEMM table. The
    newest NCCL (oneCCL) tables always come along unless other libraries' versions are named as ``nccl-2.27.3``.
    """
    if system not in SYSTEMS:
        raise ProfilesError(f"unknown system {system!r}", hint=f"one of {', '.join(SYSTEMS)}")
    found = list(wheel.iter_tables(system))
    known = {item.framework for item in found} - set(_LIBRARIES)
    chosen = sorted(known) if "all" in frameworks else list(frameworks)
    for framework in chosen:
        if framework not in known:
            raise ProfilesError(
                f"{system} has no tables of {framework!r}", hint=f"one of {', '.join(sorted(known))}, all"
            )
    wanted: set[tuple[str, str]] = set()
    for framework in [*chosen, *_LIBRARIES]:
        wanted |= {(framework, version) for version in _versions(found, framework, versions)}
    missing = [version for version in versions if version != "all" and not _is_covered(version, wanted)]
    if missing:
        offered = sorted({f"{item.framework}-{item.version}" for item in found}, key=_version_order)
        raise ProfilesError(f"{system} has no version {missing[0]!r} of {', '.join(chosen)}", hint=", ".join(offered))
    picked = [item for item in found if (item.framework, item.version) in wanted]
    unknown = set(tables) - {item.table for item in picked}
    if unknown:
        offered = sorted({item.table for item in picked})
        raise ProfilesError(f"{system} has no table {min(unknown)!r} there", hint=f"one of {', '.join(offered)}")
    return [item for item in picked if not tables or item.table in tables]


def _versions(found: Sequence[ForeignTable], framework: str, versions: Sequence[str]) -> set[str]:
    """Versions of ``framework`` that the user's words choose."""
    offered = {item.version for item in found if item.framework == framework}
    if "all" in versions:
        return offered
    is_library = framework in _LIBRARIES
    named = {version.removeprefix(f"{framework}-") for version in versions if version.startswith(f"{framework}-")}
    plain = set() if is_library else offered & set(versions)
    if named or plain or (versions and not is_library):
        return (named & offered) | plain
    complete = offered if is_library else {item.version for item in found if _has_gemm(item, framework)} or offered
    return {max(complete, key=_version_order)} if complete else set()


def _has_gemm(item: ForeignTable, framework: str) -> bool:
    return item.framework == framework and item.table == "gemm"


def _is_covered(version: str, wanted: set[tuple[str, str]]) -> bool:
    return any(version in {chosen, f"{framework}-{chosen}"} for framework, chosen in wanted)


def _version_order(version: str) -> list[tuple[int, str]]:
    """Sort key that puts 0.5.10 after 0.5.9 and 1.0rc10 after 1.0rc9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|[a-z]+", version)]


def import_tables(
    wheel: Wheel, picked: Sequence[ForeignTable], store: Store, *, include_unfit: bool = False
) -> list[TableCount]:
    """Append the rows of ``picked``, one run per system, framework and version; returns what became of each table.

    Rows that the store already holds from the same run are counted and not written again, so that an interrupted import
    is completed by running it again.
    """
    started = datetime.now(UTC)
    counts = []
    opened: set[str] = set()
    for item in picked:
        run_id = f"{wheel.distribution}-{wheel.version}-{item.system}-{item.framework}-{item.version}"
        if run_id not in opened:
            opened.add(run_id)
            _record_run(wheel, item, store, run_id, started)
        counts.append(_import_table(wheel, item, store, run_id, include_unfit=include_unfit))
    return counts


def _record_run(wheel: Wheel, item: ForeignTable, store: Store, run_id: str, started: datetime) -> None:
    device = SYSTEMS[item.system].device
    if run_id in store.runs(device)["run_id"].to_pylist():
        return
    version_column = {"vllm": "vllm_version", "nccl": "nccl_version"}.get(item.framework)
    store.append_run(
        {
            "run_id": run_id,
            "device": device,
            "origin": wheel.origin,
            "started_at": started,
            "ended_at": datetime.now(UTC),
            "world_size": SYSTEMS[item.system].devices_per_node,
            "tool_version": f"{wheel.distribution} {wheel.version}: {item.framework} {item.version}",
            **({version_column: item.version} if version_column else {}),
        }
    )


def _import_table(wheel: Wheel, item: ForeignTable, store: Store, run_id: str, *, include_unfit: bool) -> TableCount:
    system = SYSTEMS[item.system]
    label = f"{item.system}/{item.framework}-{item.version}/{item.table}"
    if item.table not in MAPPERS:
        rows_in = pq.read_metadata(item.path).num_rows
        reason = UNMAPPED.get(item.table, "no op family holds it")
        return TableCount(table=label, family=None, rows_in=rows_in, kept=0, dropped={reason: rows_in})
    sieve = Sieve(_read_foreign(item))
    sieve.drop_unfit_latency()
    _drop_relabelled_copies(sieve, item, wheel)
    origin = Origin(
        framework=item.framework,
        level=system.level,
        devices_per_node=system.devices_per_node,
        has_graphs=system.has_graphs,
        include_unfit=include_unfit,
    )
    mapped = MAPPERS[item.table](sieve, origin)
    family = FAMILIES[mapped.family]
    fixed = {
        "device": system.device,
        "cache": "hot",
        "origin": wheel.origin,
        "run_id": run_id,
        "framework": _framework_labels(sieve, item),
    }
    rows = family_rows(family.name, sieve.table.num_rows, {**mapped.columns, **fixed})
    if family.name == "collective" and rows.num_rows:
        rows = _without_sick(sieve, rows, include_unfit=include_unfit)
    return deliver(store, rows, sieve, label=label, family=family.name, run_id=run_id)


def _read_foreign(item: ForeignTable) -> pa.Table:
    try:
        return pq.ParquetFile(item.path).read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ProfilesError(
            f"{item.path}: cannot be read: {str(error).splitlines()[0]}", hint="install the wheel again"
        ) from error


def _framework_labels(sieve: Sieve, item: ForeignTable) -> pa.ChunkedArray | str:
    """``<framework>-<version>`` by the rows' own version column where there is one; says so where it differs."""
    if "version" not in sieve.table.column_names:
        return f"{item.framework}-{item.version}"
    versions = sieve.column("version").cast(pa.string())
    differing = pc.sum(pc.not_equal(versions, item.version)).as_py() or 0
    if differing:
        named = sorted(set(pc.unique(versions).to_pylist()) - {item.version})
        sieve.notes.append(f"{differing} rows say version {', '.join(named)}, not {item.version}: labelled as they say")
    return pc.binary_join_element_wise(item.framework, versions, "-")


def _drop_relabelled_copies(sieve: Sieve, item: ForeignTable, wheel: Wheel) -> None:
    """Drop rows of a table with a foreign version label that another table of the system holds under its own label."""
    if "version" not in sieve.table.column_names:
        return
    foreign = pc.not_equal(sieve.column("version"), item.version)
    if not pc.any(foreign).as_py():
        return
    for sibling in wheel.iter_tables(item.system):
        if sibling.table != item.table or sibling.path == item.path:
            continue
        other = _read_foreign(sibling)
        if "version" not in other.column_names or "kernel_source" not in other.column_names:
            continue
        other = other.filter(pc.equal(other["version"], sibling.version))
        keys = [name for name in sieve.table.column_names if name not in {"framework", "version", "device"}]
        if not other.num_rows or not set(keys) <= set(other.column_names):
            continue
        unified = other.select(keys).cast(sieve.table.select(keys).schema)
        marked = sieve.table.append_column("_row", pa.array(range(sieve.table.num_rows)))
        kept = without_keys_of(marked, unified, keys)["_row"]
        if len(kept) > marked.num_rows / 2:
            continue  # rounded latencies of a few short messages agree by chance
        copies = pc.invert(pc.is_in(marked["_row"], value_set=kept.combine_chunks()))
        sieve.drop(copies, f"relabelled copy of {sibling.framework} {sibling.version}")
        if not sieve.table.num_rows:
            return


def _without_sick(sieve: Sieve, rows: pa.Table, *, include_unfit: bool) -> pa.Table:
    sick = sick_collectives(rows)
    if not sick.any():
        return rows
    groups = sorted({f"{kind} over {ranks}" for kind, ranks in _kinds(rows.filter(pa.array(sick)))})
    sieve.notes.append(f"bandwidth collapses against a pair: {', '.join(groups)}")
    if include_unfit:
        note = pc.if_else(pa.array(sick), "suspect: bandwidth collapses against a pair of the same node", None)
        return rows.set_column(rows.schema.get_field_index("note"), rows.schema.field("note"), note)
    sieve.dropped["collective slower than a tenth of a pair's bandwidth"] += int(sick.sum())
    return rows.filter(pa.array(~sick))


def _kinds(rows: pa.Table) -> list[tuple[str, int]]:
    return list(zip(rows["kind"].to_pylist(), rows["ranks"].to_pylist(), strict=True))
