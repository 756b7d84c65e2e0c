"""Measured rows as ops, so that any cost model can be asked what it would have said about them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from costmodel.ops import Attention, Collective, Elementwise, Gemm, Moe, Op

Columns = Mapping[str, NDArray[np.generic]]
Rows = NDArray[np.int64]

# Columns that are one value within an op; the others are its arrays.
_FIXED: Final[Mapping[str, tuple[str, ...]]] = {
    "gemm": ("dtype",),
    "attention": (
        "variant",
        "dtype",
        "kv_dtype",
        "window",
        "head_dim",
        "v_head_dim",
        "num_heads",
        "num_kv_heads",
    ),
    "moe": ("dtype", "routing", "hidden", "inter", "num_experts", "topk", "tp", "ep"),
    "elementwise": ("op", "dtype", "width", "bytes_per_row"),
    "collective": ("kind", "ranks", "nodes", "dtype"),
}


def iter_row_ops(family: str, columns: Columns, cluster: ClusterSpec) -> Iterator[tuple[Op, Rows]]:
    """Yield ops that together stand for all rows of one family, each with the rows it stands for."""
    if family == "elementwise":
        columns = {**columns, "bytes_per_row": _floats(columns, "io_bytes") / _floats(columns, "rows")}
    group = np.zeros(len(columns["latency_s"]), dtype=np.int64)
    for name in _FIXED[family]:
        codes = np.unique(columns[name], return_inverse=True)[1].ravel()
        group = np.unique(group * (int(codes.max(initial=0)) + 1) + codes, return_inverse=True)[1].ravel()
    order = np.argsort(group, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if len(rows):
            yield _MAKERS[family](columns, rows, cluster), rows


def _floats(columns: Columns, name: str) -> NDArray[np.float64]:
    return columns[name].astype(np.float64)


def _integers(columns: Columns, name: str, rows: Rows) -> NDArray[np.int64]:
    return columns[name][rows].astype(np.int64)


def _text(columns: Columns, name: str, rows: Rows) -> str:
    return str(columns[name][rows[0]])


def _integer(columns: Columns, name: str, rows: Rows) -> int:
    return int(columns[name].astype(np.int64)[rows[0]])


def _gemm(columns: Columns, rows: Rows, cluster: ClusterSpec) -> Op:  # noqa: ARG001 - one signature for all families
    m, n, k = (_integers(columns, name, rows) for name in ("m", "n", "k"))
    return Gemm(m=m, n=n, k=k, dtype=_text(columns, "dtype", rows))


def _attention(columns: Columns, rows: Rows, cluster: ClusterSpec) -> Op:  # noqa: ARG001
    return Attention(
        num_heads=_integer(columns, "num_heads", rows),
        num_kv_heads=_integer(columns, "num_kv_heads", rows),
        head_dim=_integer(columns, "head_dim", rows),
        v_head_dim=_integer(columns, "v_head_dim", rows),
        window=_integer(columns, "window", rows),
        variant=_text(columns, "variant", rows),
        dtype=_text(columns, "dtype", rows),
        kv_dtype=_text(columns, "kv_dtype", rows),
        num_prefill=_integers(columns, "num_prefill", rows),
        prefill_q=_integers(columns, "prefill_q", rows),
        prefill_kv=_integers(columns, "prefill_kv", rows),
        num_decode=_integers(columns, "num_decode", rows),
        decode_q=_integers(columns, "decode_q", rows),
        decode_kv=_integers(columns, "decode_kv", rows),
        decode_kv_max=_integers(columns, "decode_kv_max", rows),
    )


def _moe(columns: Columns, rows: Rows, cluster: ClusterSpec) -> Op:  # noqa: ARG001
    return Moe(
        num_tokens=_integers(columns, "num_tokens", rows),
        hidden=_integer(columns, "hidden", rows),
        inter=_integer(columns, "inter", rows),
        num_experts=_integer(columns, "num_experts", rows),
        topk=_integer(columns, "topk", rows),
        tp=_integer(columns, "tp", rows),
        ep=_integer(columns, "ep", rows),
        dtype=_text(columns, "dtype", rows),
        routing=_text(columns, "routing", rows),
    )


def _elementwise(columns: Columns, rows: Rows, cluster: ClusterSpec) -> Op:  # noqa: ARG001
    return Elementwise(
        op=_text(columns, "op", rows),
        rows=_integers(columns, "rows", rows),
        width=_integer(columns, "width", rows),
        bytes_per_row=float(_floats(columns, "bytes_per_row")[rows[0]]),
        dtype=_text(columns, "dtype", rows),
    )


def _collective(columns: Columns, rows: Rows, cluster: ClusterSpec) -> Op:
    ranks, nodes = _integer(columns, "ranks", rows), _integer(columns, "nodes", rows)
    return Collective(
        kind=_text(columns, "kind", rows),
        message_bytes=_integers(columns, "message_bytes", rows),
        ranks=ranks,
        # One device in each node, or neighbours.
        group_stride=cluster.devices_per_domain if nodes > 1 and ranks == nodes else 1,
        dtype=_text(columns, "dtype", rows),
    )


_MAKERS: Final[Mapping[str, Callable[[Columns, Rows, ClusterSpec], Op]]] = {
    "gemm": _gemm,
    "attention": _attention,
    "moe": _moe,
    "elementwise": _elementwise,
    "collective": _collective,
}
