"""The op that a knot stands for, a family's label and shape at its running sizes, and the work of rows of knots."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from costmodel.label import Label
from costmodel.ops import Attention, Collective, Elementwise, Gemm, Moe, Op
from costmodel.pricing import work_sides

Array = NDArray[np.float64]


def shape_op(family: str, label: Label, shape: Sequence[float], x: Array, y: Array, *, cluster: ClusterSpec) -> Op:
    """Return the op of ``shape`` (the family's features, in order) at sizes ``x`` and ``y`` as its knots count them."""
    parts = label.parts
    if family == "elementwise":
        width, bytes_per_row = shape
        return Elementwise(op=parts[0], rows=x, width=int(width), bytes_per_row=bytes_per_row)
    sizes = [int(size) for size in shape]
    match family:
        case "gemm":
            return Gemm(m=x, n=sizes[0], k=sizes[1], dtype=parts[0])
        case "attention":
            return _attention(parts, sizes, x, y)
        case "moe":
            dtype, routing = parts
            hidden, inter, num_experts, topk, tp, ep = sizes
            return Moe(
                num_tokens=x,
                hidden=hidden,
                inter=inter,
                num_experts=num_experts,
                topk=topk,
                tp=tp,
                ep=ep,
                dtype=dtype,
                routing=routing,
            )
    ranks, nodes = sizes
    # Neighbours, or one device in each node.
    stride = cluster.devices_per_domain if nodes > 1 and ranks == nodes else 1
    return Collective(kind=parts[0], message_bytes=x, ranks=ranks, group_stride=stride)


def row_sides(
    family: str, label: NDArray[np.str_], shape: Array, x: Array, y: Array, *, cluster: ClusterSpec
) -> tuple[Array, Array]:
    """FLOP time and byte time at the stated peaks of rows [rows] of any labels and shapes [rows, features]."""
    flop_s, bytes_s = np.empty_like(x), np.empty_like(x)
    keys = np.column_stack([shape, np.unique(label, return_inverse=True)[1]])
    _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    for index, row in enumerate(first.tolist()):
        own = which.ravel() == index
        op = shape_op(family, Label.parse(str(label[row])), shape[row].tolist(), x[own], y[own], cluster=cluster)
        flop_s[own], bytes_s[own] = work_sides(op, cluster)
    return flop_s, bytes_s


def _attention(parts: tuple[str, ...], sizes: list[int], x: Array, y: Array) -> Attention:
    """Whole prompts or one-token decodes: ``x`` sequences of length ``y``."""
    phase, variant, dtype, kv_dtype = parts
    num_heads, num_kv_heads, head_dim, v_head_dim, window = sizes
    op = Attention(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        v_head_dim=v_head_dim,
        window=window,
        variant=variant,
        dtype=dtype,
        kv_dtype=kv_dtype,
    )
    if phase == "prefill":
        return replace(op, num_prefill=x, prefill_q=y, prefill_kv=y)
    return replace(op, num_decode=x, decode_kv=y, decode_kv_max=y)
