"""Measured rows of a family as points: what was run, how much of it, how long it took, and which are held out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.holdout.split import drawn
from cluster_specs.cluster import ClusterSpec
from costmodel.families.all import OP_FAMILIES
from costmodel.families.family import Columns
from costmodel.families.rows import iter_row_ops, numbers, taken, texts
from costmodel.fitting.measurements import read_measurements
from costmodel.ops.arrays import Array
from profiles_db.repeats import key_ids
from profiles_db.schema import FAMILIES
from profiles_db.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Columns that make a number format, a shape, a size; rows stand in for each other within ``alike`` alone."""

    formats: tuple[str, ...]
    shape: tuple[str, ...]
    sizes: tuple[str, ...]
    alike: tuple[str, ...] = ()


LAYOUTS: Final[Mapping[str, Layout]] = {
    "gemm": Layout(formats=("dtype",), shape=("n", "k"), sizes=("m",)),
    "attention": Layout(
        formats=("phase", "variant", "dtype", "kv_dtype"),
        shape=("num_heads", "num_kv_heads", "head_dim", "v_head_dim", "window"),
        sizes=("num_prefill", "prefill_q", "num_decode", "decode_kv"),
        alike=("head_dim", "window"),
    ),
    "moe": Layout(
        formats=("dtype",),
        shape=("hidden", "inter", "num_experts", "topk", "tp", "ep"),
        sizes=("num_tokens",),
        alike=("routing",),
    ),
    "scan": Layout(
        formats=("phase", "variant", "dtype"),
        shape=("num_heads", "num_groups", "head_dim", "state_dim", "chunk"),
        sizes=("prefill_q", "num_decode"),
    ),
    "elementwise": Layout(formats=("op",), shape=("width", "bytes_per_row"), sizes=("rows",), alike=("dtype",)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Rows of one family and format: ``shape`` [rows, features] and running ``sizes`` [rows, dims], both in octaves.

    ``work`` [rows, 2] is FLOP and bytes, ``alike`` [rows] numbers groups, ``latency_s`` is what was measured and
    ``held_out`` how the row was drawn (`benchmarks.holdout.split`). ``columns`` are those of the store.
    """

    family: str
    name: str
    columns: Columns
    shape: Array
    sizes: Array
    work: Array
    alike: NDArray[np.int64]
    latency_s: Array
    held_out: NDArray[np.int8]

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Points":
        """Keep some rows."""
        return Points(
            family=self.family,
            name=self.name,
            columns=taken(self.columns, rows),
            shape=self.shape[rows],
            sizes=self.sizes[rows],
            work=self.work[rows],
            alike=self.alike[rows],
            latency_s=self.latency_s[rows],
            held_out=self.held_out[rows],
        )


def iter_points(store: Store, family: str, device: str, framework: str, cluster: ClusterSpec) -> Iterator[Points]:
    """Yield the rows that a fit of ``family`` takes, one format after the other."""
    known, layout = OP_FAMILIES[family], LAYOUTS[family]
    columns: Columns = read_measurements(store, known, device, framework).columns
    if not len(columns["latency_s"]):
        return
    columns = taken(columns, known.usable(columns, cluster))
    held_out = _held_out(store, family, device, columns)
    sized = known.sized(columns)
    work = np.zeros((len(held_out), 2))
    for op, rows in iter_row_ops(known, columns, cluster):
        work[rows, 0], work[rows, 1] = op.flop(), op.io_bytes()  # type: ignore[union-attr]
    names = np.asarray(["|".join(parts) for parts in zip(*(texts(sized, c) for c in layout.formats), strict=True)])
    alike = np.zeros(len(held_out), dtype=np.int64)
    for name in layout.alike:
        codes = np.unique(sized[name], return_inverse=True)[1].ravel()
        alike = alike * (int(codes.max()) + 1) + codes
    whole = Points(
        family=family,
        name="",
        columns=columns,
        shape=_octaves(sized, layout.shape),
        sizes=_octaves(sized, layout.sizes),
        work=work,
        alike=alike,
        latency_s=numbers(columns, "latency_s"),
        held_out=held_out,
    )
    for name in np.unique(names).tolist():
        yield replace(whole.take(names == name), name=name)


def _octaves(columns: Columns, names: tuple[str, ...]) -> Array:
    return np.log2(np.column_stack([numbers(columns, name) for name in names]) + 1.0)


def _held_out(store: Store, family: str, device: str, columns: Columns) -> NDArray[np.int8]:
    """Look up how the rows of a fit were drawn among all rows of the store."""
    table = store.read(family, device=device, statuses=None)
    names = [*FAMILIES[family].shape_columns, "dtype"]
    every = table.select(names)
    own = pa.table({name: pa.array(columns[name]) for name in names}, schema=every.schema)
    ids = key_ids(pa.concat_tables([every, own]), names)
    drawn_by_id = np.zeros(int(ids.max()) + 1, dtype=np.int8)
    drawn_by_id[ids[: every.num_rows]] = drawn(table, family)
    return drawn_by_id[ids[every.num_rows :]]
