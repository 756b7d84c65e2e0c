"""Checks a whole store: files that break the contract, rows stored twice or beyond any machine, repeats that disagree.

The limits are above any device sold, so a row beyond one is wrong whatever it ran on:

    any op                      at least 0.2 us
    GEMM, attention, scan, MoE  at most 2e16 FLOP/s (dense 4-bit of a 2025 GPU: 1.5e16)
    elementwise                 at most 1e14 B/s (first-level caches of a whole GPU)
    collective                  at most 2e12 B/s of bus bandwidth per rank (NVLink 5: 9e11)
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.files.whole import TEMPORARY_SUFFIX
from cluster_specs.lazy_dataclass import dataclass
from profiles_db.doubles import doubled_rows
from profiles_db.layers import QUARANTINE, StoredFile, read_stored
from profiles_db.outliers import OUTLIER_FACTOR, slower_than_larger
from profiles_db.parquet_files import DamagedFileError
from profiles_db.repeats import repeat_spread
from profiles_db.schema import FAMILIES
from profiles_db.store import Store

_SHORTEST_S: Final = 2e-7
_MOST_FLOP_PER_S: Final = 2e16
_MOST_BYTES_PER_S: Final = 1e14
_MOST_BUS_BYTES_PER_S: Final = 2e12


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFinding:
    """One thing worth knowing; serious ones need a person."""

    kind: str  # damaged | contract | doubled | impossible | outlier | repeats | no run record | left over | quarantined
    place: str
    rows: int
    detail: str
    is_serious: bool

    def as_row(self) -> dict[str, Any]:
        """Row to print."""
        return {
            "kind": self.kind,
            "serious": "yes" if self.is_serious else "no",
            "rows": self.rows,
            "place": self.place,
            "detail": self.detail,
        }


def verify(store: Store) -> list[DataFinding]:
    """Read every file of every layer and report; nothing is moved or changed."""
    findings = list(_left_overs(store))
    groups: dict[tuple[str, str], list[StoredFile]] = {}
    for file in store.iter_files():
        groups.setdefault((file.device, file.family), []).append(file)
    recorded: set[str] = set()
    # Run records first: the other families refer to them. One group at a time keeps the memory bounded.
    for (device, family), files in sorted(groups.items(), key=lambda group: group[0][1] != "run"):
        tables: list[pa.Table] = []
        layer_of: list[int] = []
        for file in files:
            try:
                tables.append(read_stored(file))
                layer_of.append(store.layers.index(file.layer))
            except FileNotFoundError:
                detail = "compacted away while verifying: run again"
                findings.append(
                    DataFinding(kind="left over", place=str(file.path), rows=0, detail=detail, is_serious=False)
                )
            except DamagedFileError as error:
                findings.append(_serious("damaged", file.path, str(error)))
            except UserError as error:
                findings.append(_serious("contract", file.path, str(error)))
        if tables and family == "run":
            recorded |= set(pa.concat_tables(tables)["run_id"].to_pylist())
        elif tables:
            together, doubled = pa.concat_tables(tables), _doubled(tables, layer_of)
            if doubled.any():
                findings.append(_doubled_finding(together, doubled, f"{device}/{family}", family))
            findings += _check_family(together.filter(pa.array(~doubled)), f"{device}/{family}", family, recorded)
    return sorted(findings, key=lambda finding: (not finding.is_serious, finding.kind, finding.place))


def _serious(kind: str, path: object, detail: str) -> DataFinding:
    return DataFinding(kind=kind, place=str(path), rows=0, detail=detail.removeprefix(f"{path}: "), is_serious=True)


def _doubled(tables: Sequence[pa.Table], layer_of: Sequence[int]) -> NDArray[np.bool_]:
    """Mark the rows that the files of one layer hold more than once."""
    found: list[NDArray[np.bool_]] = []
    for layer in sorted(set(layer_of)):
        own = [table for table, of in zip(tables, layer_of, strict=True) if of == layer]
        file_of = np.repeat(np.arange(len(own)), [table.num_rows for table in own])
        found.append(doubled_rows(pa.concat_tables(own), file_of))
    return np.concatenate(found)


def _doubled_finding(table: pa.Table, doubled: NDArray[np.bool_], place: str, family: str) -> DataFinding:
    detail = "measurements stored again, equal in every column: `apex db merge --compact` keeps one of each; first: "
    detail += _describe(table, family, int(np.argmax(doubled)))
    return DataFinding(kind="doubled", place=place, rows=int(doubled.sum()), detail=detail, is_serious=True)


def _left_overs(store: Store) -> Iterator[DataFinding]:
    for path in sorted(store.root.rglob(f".*{TEMPORARY_SUFFIX}")) if store.root.is_dir() else []:
        detail = "temporary file of a writer that is running or was killed; no reader looks at it"
        yield DataFinding(kind="left over", place=str(path), rows=0, detail=detail, is_serious=False)
    for path in sorted((store.root / QUARANTINE).rglob("*.parquet")):
        detail = "damaged file that was moved aside"
        yield DataFinding(kind="quarantined", place=str(path), rows=0, detail=detail, is_serious=False)


def _check_family(table: pa.Table, place: str, family: str, recorded: set[str]) -> Iterator[DataFinding]:
    orphans = sorted(set(pc.unique(table["run_id"]).to_pylist()) - recorded)
    if orphans:
        rows = pc.sum(pc.is_in(table["run_id"], value_set=pa.array(orphans))).as_py()
        yield DataFinding(kind="no run record", place=place, rows=rows, detail=", ".join(orphans), is_serious=False)
    timed = table.filter(pc.is_valid(table["latency_s"]))
    if not timed.num_rows:
        return
    with np.errstate(over="ignore"):  # of a latency next to nothing: an infinite rate is impossible as well
        rules = list(_impossible(timed, family))
    for rule, bad in rules:
        if bad.any():
            detail = f"{rule}; first: {_describe(timed, family, int(np.argmax(bad)))}"
            yield DataFinding(kind="impossible", place=place, rows=int(bad.sum()), detail=detail, is_serious=True)
    outliers = slower_than_larger(timed, family)
    if outliers.any():
        detail = f"over {OUTLIER_FACTOR:g} x a larger op of its curve; first: "
        detail += _describe(timed, family, int(np.argmax(outliers)))
        yield DataFinding(kind="outlier", place=place, rows=int(outliers.sum()), detail=detail, is_serious=False)
    repeats = repeat_spread(timed, FAMILIES[family].key_columns)
    if len(repeats.spread):
        median, p90, worst = np.percentile(repeats.spread, [50, 90, 100])
        detail = f"{len(repeats.spread)} points measured more than once; (max - min) / median: "
        detail += f"median {median:.1%}, p90 {p90:.1%}, max {worst:.1%}"
        yield DataFinding(kind="repeats", place=place, rows=repeats.rows, detail=detail, is_serious=False)


def _impossible(table: pa.Table, family: str) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    latency = _floats(table, "latency_s")
    yield f"shorter than {_SHORTEST_S} s", latency < _SHORTEST_S
    if family == "gemm":
        flop = 2 * _floats(table, "m") * _floats(table, "n") * _floats(table, "k")
        yield f"faster than {_MOST_FLOP_PER_S:g} FLOP/s", flop / latency > _MOST_FLOP_PER_S
    elif family == "moe":
        pairs = _floats(table, "num_tokens") * _floats(table, "topk") / (_floats(table, "ep") * _floats(table, "tp"))
        flop = 6 * pairs * _floats(table, "hidden") * _floats(table, "inter")
        yield f"faster than {_MOST_FLOP_PER_S:g} FLOP/s", flop / latency > _MOST_FLOP_PER_S
    elif family == "attention":
        yield f"faster than {_MOST_FLOP_PER_S:g} FLOP/s", _attention_flop(table) / latency > _MOST_FLOP_PER_S
        yield (
            "mean of the decoded lengths above their maximum",
            _floats(table, "decode_kv") > _floats(table, "decode_kv_max"),
        )
    elif family == "scan":
        yield f"faster than {_MOST_FLOP_PER_S:g} FLOP/s", _scan_flop(table) / latency > _MOST_FLOP_PER_S
    elif family == "elementwise":
        rate = _floats(table, "io_bytes") / latency
        yield f"faster than {_MOST_BYTES_PER_S:g} B/s", rate > _MOST_BYTES_PER_S
    elif family == "custom":
        flop = _floats(table, "unit_flop") * _floats(table, "amount")
        moved = _floats(table, "call_bytes") + _floats(table, "unit_bytes") * _floats(table, "amount")
        yield f"faster than {_MOST_FLOP_PER_S:g} FLOP/s", flop / latency > _MOST_FLOP_PER_S
        yield f"faster than {_MOST_BYTES_PER_S:g} B/s", moved / latency > _MOST_BYTES_PER_S
    elif family == "collective":
        ranks = _floats(table, "ranks")
        doubled = np.where(table["kind"].to_numpy(zero_copy_only=False) == "all_reduce", 2.0, 1.0)
        rate = _floats(table, "message_bytes") / latency * doubled * (ranks - 1) / ranks
        yield f"faster than {_MOST_BUS_BYTES_PER_S:g} B/s of bus bandwidth", rate > _MOST_BUS_BYTES_PER_S
    for column, sign in (("latency_p10_s", 1.0), ("latency_p90_s", -1.0)):
        quantile = _floats(table, column)
        wrong = np.isfinite(quantile) & (sign * (quantile - latency) > 1e-12)
        yield f"{column} on the wrong side of the median", wrong


def _attention_flop(table: pa.Table) -> NDArray[np.float64]:
    """At least this much work: causal pairs of calls without a window, two products of two FLOP each."""
    pairs = np.zeros(table.num_rows)
    for count, query, keys in (("num_prefill", "prefill_q", "prefill_kv"), ("num_decode", "decode_q", "decode_kv")):
        q, kv = _floats(table, query), _floats(table, keys)
        pairs += _floats(table, count) * np.maximum(q * (kv - q) + q * (q + 1) / 2, 0.0)
    width = _floats(table, "head_dim") + _floats(table, "v_head_dim")
    flop: NDArray[np.float64] = 2 * pairs * _floats(table, "num_heads") * width * (_floats(table, "window") == 0)
    return flop


def _scan_flop(table: pa.Table) -> NDArray[np.float64]:
    """At least this much work: every token enters the state and is read out of it."""
    tokens = _floats(table, "num_prefill") * _floats(table, "prefill_q")
    tokens += _floats(table, "num_decode") * _floats(table, "decode_q")
    state = _floats(table, "num_heads") * _floats(table, "head_dim") * _floats(table, "state_dim")
    return np.asarray(4 * tokens * state)


def _floats(table: pa.Table, column: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = table[column].cast(pa.float64()).to_numpy()
    return values


def _describe(table: pa.Table, family: str, row: int) -> str:
    point = table.slice(row, 1).to_pylist()[0]
    names = (*FAMILIES[family].shape_columns, "dtype", "backend", "latency_s")
    return ", ".join(f"{name} {point[name]}" for name in names)
