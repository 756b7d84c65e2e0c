"""Collectives: per kind, link level and ranks a curve in bytes, along the path the serving engine takes.

On links inside a node engines run their own all-reduce up to 8 MiB and NCCL above; where both were measured each is
used on its side. Groups that span levels are composed: reduce-scatter inside, the rest across, all-gather inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from costmodel.cost_model import Prediction, sum_predictions
from costmodel.families.family import Columns, KnotRows, OpFamily, Row, Sizes, knot_op, op_from
from costmodel.families.knot_prices import KnotPrices
from costmodel.families.lending import nearest_in_octaves
from costmodel.families.rows import numbers, taken, texts, timed_calls
from costmodel.fitted.calibration import MEMORY, Calibrated, efficiency, floor
from costmodel.fitted.knots import FamilyKnots
from costmodel.ops.arrays import Array
from costmodel.ops.label import Label, joined
from costmodel.ops.link_hierarchy import Hop, hops
from costmodel.ops.op_types import Collective, Op
from costmodel.pricing.analytic_costs import AnalyticCosts, sent_s
from costmodel.pricing.curves import Curve, CurvePoints
from costmodel.pricing.price_points import Pricing

if TYPE_CHECKING:
    from cluster_specs.cluster import ClusterSpec


# vLLM's custom all-reduce hands larger messages to NCCL. Where it was not measured, torch's kernels over symmetric
# memory stand in, which do the same: one or two shots over peer memory.
CUSTOM_ALL_REDUCE = "vllm.custom_all_reduce"
SYMMETRIC_ALL_REDUCE = "torch.symm_mem_all_reduce"
CUSTOM_LIMIT_BYTES = 8 * 2**20


def _op_of(sizes: Sizes, cluster: ClusterSpec | None) -> Collective:
    """One device in each node, or neighbours."""
    found: Collective = op_from(Collective, sizes)
    is_one_per_node = cluster is not None and sizes["nodes"] > 1 and sizes["ranks"] == sizes["nodes"]
    return replace(found, group_stride=cluster.devices_per_domain) if cluster and is_one_per_node else found


def _knot_rows(columns: Columns, cluster: ClusterSpec) -> KnotRows:  # noqa: ARG001 - one signature for all families
    return KnotRows(
        columns=columns,
        label=joined(texts(columns, "kind"), texts(columns, "level")),
        shape=np.column_stack([numbers(columns, "ranks"), numbers(columns, "nodes")]),
        x=numbers(columns, "message_bytes"),
    )


def _usable(columns: Columns, cluster: ClusterSpec) -> NDArray[np.bool_]:
    """Which rows lie on a level and in a group the cluster has, on the path an engine would take."""
    ranks, nodes, message = (numbers(columns, name) for name in ("ranks", "nodes", "message_bytes"))
    known = np.isin(texts(columns, "level"), [link.name for link in cluster.levels])
    fits = (
        known
        & (ranks >= 2)
        & (ranks <= cluster.num_devices)
        & (nodes * cluster.devices_per_domain <= cluster.num_devices)
    )
    kind, level = texts(columns, "kind"), texts(columns, "level")
    backend = texts(columns, "backend")
    group = joined(kind, level, ranks.astype(np.str_))
    stands_in = backend == SYMMETRIC_ALL_REDUCE
    not_needed = stands_in & np.isin(group, np.unique(group[backend == CUSTOM_ALL_REDUCE]))
    is_custom = (backend == CUSTOM_ALL_REDUCE) | (stands_in & ~not_needed)
    has_custom = np.isin(group, np.unique(group[is_custom]))
    has_other = np.isin(group, np.unique(group[~is_custom]))
    is_small = message <= CUSTOM_LIMIT_BYTES
    off_path = (is_custom & has_other & ~is_small) | (~is_custom & has_custom & is_small)
    return np.asarray(fits & ~off_path & ~not_needed)


def _lend(measured: Array, shape: Array) -> tuple[NDArray[np.int64], Array]:
    """Take groups over as many nodes, linear in the logarithm of their size; beyond the ends the last slope goes on."""
    same_nodes = np.flatnonzero((measured[:, 1] > 1) == (shape[1] > 1))
    if len(same_nodes) < 2 or np.any(measured[same_nodes, 0] == shape[0]):
        return nearest_in_octaves(measured, shape)
    log_ranks = np.log2(measured[:, 0])
    wanted = float(np.log2(shape[0]))
    order = same_nodes[np.argsort(log_ranks[same_nodes])]
    high = int(np.clip(np.searchsorted(log_ranks[order], wanted), 1, len(order) - 1))
    pair = order[[high - 1, high]]
    share = (wanted - log_ranks[pair[0]]) / (log_ranks[pair[1]] - log_ranks[pair[0]])
    # One step beyond the ends is as far as two points can say.
    share = float(np.clip(share, -1.0, 2.0))
    return pair, np.array([1.0 - share, share])


def _calibrate(family: OpFamily, columns: Columns, cluster: ClusterSpec) -> Iterator[Calibrated]:
    reduces = texts(columns, "kind") == "all_reduce"
    innermost = texts(columns, "level") == cluster.levels[0].name
    calls = timed_calls(family, taken(columns, reduces & innermost), cluster, _link_sides)
    yield from floor("collective_floor_s", calls, "all-reduce")
    yield from efficiency("link_efficiency", calls, MEMORY, "all-reduce")


def _link_sides(op: Op, cluster: ClusterSpec) -> tuple[Array, Array]:
    assert isinstance(op, Collective)
    return np.zeros(1), sent_s(op, cluster)


def _manifest_rows(op: Collective, cluster: ClusterSpec) -> Iterator[Row]:
    """Yield none for a transfer inside one rank, and a row per level for one that skips ranks over several."""
    path = hops(cluster, op.ranks, op.group_stride)
    if not path:
        return
    # Libraries run a transfer over neighbours as one call, whatever the levels; the outermost names it.
    groups = [(op.ranks, op.group_stride, 1.0, path[-1])]
    if len(path) > 1 and op.group_stride > 1:
        groups = [(hop.members, op.group_stride * hop.inner, 1.0 / hop.inner, hop) for hop in path]
    for ranks, stride, share, hop in groups:
        nodes = len({rank * stride // cluster.devices_per_domain for rank in range(ranks)})
        for message in np.asarray(op.message_bytes).ravel().tolist():
            yield {
                "kind": op.kind,
                "ranks": ranks,
                "nodes": nodes,
                "level": hop.link.name,
                "message_bytes": round(message * share),
                "dtype": op.dtype,
            }


class CollectivePrices(KnotPrices):
    """Prices collectives; levels that were not measured come from the analytic model."""

    def __init__(self, family: OpFamily, knots: FamilyKnots, pricing: Pricing) -> None:
        if pricing.links is not None:
            pricing = replace(pricing, cluster=pricing.links.measured)
        super().__init__(family, knots, pricing)
        stated = pricing.cluster if pricing.links is None else pricing.links.stated
        self._analytic = AnalyticCosts(stated, pricing.clock_mhz)
        self._curves: dict[tuple[str, str, int, int], Curve | None] = {}

    def predict(self, op: Op) -> Prediction | None:
        """Price a collective; None when no level of its group was measured for its kind."""
        assert isinstance(op, Collective)
        message = np.asarray(op.message_bytes, dtype=np.float64)
        path = hops(self.pricing.cluster, op.ranks, op.group_stride)
        if not path:
            return None
        if len(path) == 1:
            curve = self._curve(op.kind, path[0].link.name, op.ranks, self._nodes(path[0]))
            return None if curve is None else curve.predict(message)
        outer = path[-1]
        nodes = self._nodes(outer)
        if (outer.link.name and self._measured(op.kind, outer.link.name, op.ranks, nodes)) and op.group_stride == 1:
            whole = self._curve(op.kind, outer.link.name, op.ranks, nodes)
            assert whole is not None
            return whole.predict(message)
        return self._composed(op, path, message)

    def _composed(self, op: Collective, path: tuple[Hop, ...], message: Array) -> Prediction | None:
        """Add up the phases of a hierarchical collective; None when not one of them was measured."""
        parts, is_any_measured = [], False
        for phase, hop, share in _phases(op.kind, path, op.ranks):
            curve = self._curve(phase, hop.link.name, hop.members, self._nodes(hop))
            if curve is not None:
                is_any_measured = True
                parts.append(curve.predict(share * message))
                continue
            stride = hop.inner * op.group_stride
            piece = Collective(kind=phase, message_bytes=share * message, ranks=hop.members, group_stride=stride)
            parts.append(self._analytic.predict(piece))
        return sum_predictions(parts) if is_any_measured else None

    @staticmethod
    def _nodes(hop: Hop) -> int:
        return hop.members if hop.link.is_network else 1

    def _measured(self, kind: str, level: str, ranks: int, nodes: int) -> bool:
        label = self.label_of(kind, level)
        return label is not None and self.own_shape(label, (float(ranks), float(nodes))) is not None

    def _curve(self, kind: str, level: str, ranks: int, nodes: int) -> Curve | None:
        key = (kind, level, ranks, nodes)
        if key not in self._curves:
            label = self.label_of(kind, level)
            self._curves[key] = None if label is None else Curve(self._points(label, (float(ranks), float(nodes))))
        return self._curves[key]

    def _points(self, label: Label, shape: tuple[float, float]) -> CurvePoints:
        cluster = self.pricing.cluster
        return self.curve_points(
            label, shape, lambda message: knot_op(self.family, label, shape, message, message, cluster=cluster)
        )


def _phases(kind: str, path: tuple[Hop, ...], ranks: int) -> list[tuple[str, Hop, float]]:
    """(kind, level, share of the message) of each phase of a hierarchical collective."""
    if kind == "all_reduce":
        inside = [("reduce_scatter", hop, 1.0 / hop.inner) for hop in path[:-1]]
        outside = [("all_reduce", path[-1], 1.0 / path[-1].inner)]
        return inside + outside + [("all_gather", hop, 1.0 / hop.inner) for hop in path[:-1]]
    if kind == "all_to_all":
        # Each level carries what goes to peers of this level: `members` peers with `inner` ranks each.
        return [(kind, hop, hop.inner * hop.members / ranks) for hop in path]
    return [(kind, hop, 1.0 / hop.inner) for hop in path]


COLLECTIVE: Final = OpFamily(
    name="collective",
    op=Collective,
    alternatives=("kind", "ranks", "nodes", "level", "backend"),
    has_one_kernel=False,
    fixed=("kind", "ranks", "nodes", "dtype"),
    op_of=_op_of,
    manifest_rows=_manifest_rows,
    usable=_usable,
    not_usable="not on this cluster's levels, or not on the path an engine takes",
    label_parts=("kind", "level"),
    features=("ranks", "nodes"),
    knot_rows=_knot_rows,
    running=lambda _label, x, _y: {"message_bytes": x},
    efficiency=lambda _label, cluster: (1.0, cluster.device.analytic.link_efficiency.value),
    lend=_lend,
    apart=(0, 1),
    # Curves are dense in bytes, and no two clusters share a network.
    is_filled=False,
    is_monotone=True,
    calibrate=_calibrate,
    prices=CollectivePrices,
    level=lambda label: label.parts[1],
    size_name=lambda _label: "message [bytes]",
    figures=("bandwidth",),
)
