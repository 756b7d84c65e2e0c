"""Imports measured operator tables of the ``aiconfigurator-core`` wheel, each framework version as one run."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from cluster_specs.errors import UserError
from profiles_db.importers.aiconfigurator_collectives import sick_collectives
from profiles_db.importers.aiconfigurator_columns import Origin
from profiles_db.importers.aiconfigurator_tables import MAPPERS, UNMAPPED
from profiles_db.importers.aiconfigurator_wheel import SYSTEMS, ForeignTable, Wheel
from profiles_db.importers.counting import Sieve, TableCount
from profiles_db.importers.delivery import deliver, record_run
from profiles_db.importers.rows import family_rows
from profiles_db.parquet_files import read_table
from profiles_db.repeats import without_keys_of
from profiles_db.schema import FAMILIES
from profiles_db.store import Store


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
    version_column = {"vllm": "vllm_version", "nccl": "nccl_version"}.get(item.framework)
    run = {
        "run_id": run_id,
        "device": SYSTEMS[item.system].device,
        "origin": wheel.origin,
        "world_size": SYSTEMS[item.system].devices_per_node,
        "tool_version": f"{wheel.distribution} {wheel.version}: {item.framework} {item.version}",
        **({version_column: item.version} if version_column else {}),
    }
    record_run(store, run, started)


def _import_table(wheel: Wheel, item: ForeignTable, store: Store, run_id: str, *, include_unfit: bool) -> TableCount:
    system = SYSTEMS[item.system]
    label = f"{item.system}/{item.framework}-{item.version}/{item.table}"
    foreign = _read_foreign(item)
    if item.table not in MAPPERS:
        rows_in = foreign.num_rows
        reason = UNMAPPED.get(item.table, "no op family holds it")
        return TableCount(table=label, family=None, rows_in=rows_in, kept=0, dropped={reason: rows_in})
    sieve = Sieve(foreign)
    origin = Origin(
        framework=item.framework,
        level=system.level,
        devices_per_node=system.devices_per_node,
        has_graphs=system.has_graphs,
        include_unfit=include_unfit,
        beside=partial(_beside, wheel, item),
    )
    try:
        sieve.drop_unfit_latency()
        _drop_relabelled_copies(sieve, item, wheel)
        mapped = MAPPERS[item.table](sieve, origin)
    except KeyError as error:
        raise UserError(
            f"{item.path}: {error.args[0]}",
            hint=f"found {', '.join(foreign.column_names)}; tables are read as aiconfigurator-core 0.12 has them",
        ) from error
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
    """Read a table, or only its row count where nothing here can hold it."""
    try:
        return read_table(item.path, columns=None if item.table in MAPPERS else [])
    except FileNotFoundError as error:
        raise UserError(f"{item.path}: no such file", hint="install the wheel again") from error
    except UserError as error:
        raise UserError(str(error), hint="install the wheel again") from error


def _beside(wheel: Wheel, item: ForeignTable, table: str) -> pa.Table | None:
    """Return another table of the same framework and version; None where the wheel has none."""
    own = (item.framework, item.version, table)
    found = (other for other in wheel.iter_tables(item.system) if (other.framework, other.version, other.table) == own)
    return next((_read_foreign(other) for other in found), None)


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
