"""Brings rows of several databases together, and many small files into one."""

import hashlib
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from profiles_db.doubles import doubled_rows
from profiles_db.layers import COMPACTED, StoredFile, names_stood_for, read_stored
from profiles_db.parquet_files import REPLACES_KEY, write_parquet
from profiles_db.repeats import without_keys_of
from profiles_db.schema import FAMILIES
from profiles_db.store import Store
from profiles_db.validation import schema_of

# A row is the same measurement, not a repeat, when key, run and every time agree.
_SAME: Final = ("run_id", "status", "latency_s", "latency_p10_s", "latency_p90_s")


def merge_from(target: Store, source: Store) -> list[dict[str, Any]]:
    """Append the rows of ``source`` that ``target``'s own layer lacks; returns one count per device and family."""
    counts: dict[tuple[str, str], dict[str, int]] = {}
    with target.writing():
        for file in source.iter_files():
            rows = read_stored(file)
            own = target.layers[0].read(file.family, file.device)
            fresh = without_keys_of(rows, own, _identity(file.family))
            for run_id in pc.unique(fresh["run_id"]).to_pylist():
                target.append(file.family, fresh.filter(pc.equal(fresh["run_id"], run_id)), run_id)
            count = counts.setdefault((file.device, file.family), {"rows": 0, "copied": 0})
            count["rows"] += rows.num_rows
            count["copied"] += fresh.num_rows
    return [{"device": device, "family": family, **count} for (device, family), count in counts.items()]


def _identity(family: str) -> tuple[str, ...]:
    if family == "run":
        return tuple(schema_of("run").names)
    return (*FAMILIES[family].key_columns, *_SAME)


def compact_files(store: Store) -> list[dict[str, Any]]:
    """Fold the files of each device and family of the user's layer into one; returns what was folded.

    Measurements that were stored twice (``doubled_rows``) are kept once. The new file names everything it stands for
    before the old ones are deleted, so a reader never sees a row twice or not at all, and compactors that run at once
    agree (see ``Layer.iter_files``).
    """
    with store.writing():
        return _compact(store)


def _compact(store: Store) -> list[dict[str, Any]]:
    groups: dict[tuple[str, str], list[StoredFile]] = {}
    for file in store.layers[0].iter_files():
        groups.setdefault((file.device, file.family), []).append(file)
    folded = []
    for (device, family), files in groups.items():
        try:
            tables = [read_stored(file) for file in files]
        except FileNotFoundError:
            continue  # a person or another program removes files
        rows = pa.concat_tables(tables)
        file_of = np.repeat(np.arange(len(files)), [table.num_rows for table in tables])
        doubled = doubled_rows(rows, file_of)
        if len(files) < 2 and not doubled.any():
            continue
        rows = rows.filter(pa.array(~doubled))
        replaced = frozenset[str]().union(*(names_stood_for(file) for file in files))
        listed = "\n".join(sorted(replaced))
        metadata = {**(rows.schema.metadata or {}), REPLACES_KEY: listed.encode()}
        name = f"{COMPACTED}{hashlib.sha256(listed.encode()).hexdigest()[:32]}.parquet"
        write_parquet(rows.replace_schema_metadata(metadata), files[0].path.with_name(name))
        for file in files:
            file.path.unlink(missing_ok=True)
        count = {"rows": rows.num_rows, "copied": len(files), "doubled": int(doubled.sum())}
        folded.append({"device": device, "family": family, **count})
    return folded
