"""Collectives: per kind, link level and ranks a curve in bytes, along the path the serving engine takes.

On links inside a node engines run their own all-reduce up to 8 MiB and NCCL above; where both were measured each is
used on its side. Groups that span levels are composed: reduce-scatter inside, the rest across, all-gather inside.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cluster_specs.cluster import ClusterSpec
from costmodel.analytic import AnalyticCosts
from costmodel.build_knots import MeasuredRows
from costmodel.curves import Curve
from costmodel.forms.columns import measured_rows, numbers, texts
from costmodel.forms.form import Form
from costmodel.hierarchy import Hop, hops
from costmodel.knots import FamilyKnots
from costmodel.label import joined
from costmodel.ops import Collective, Op
from costmodel.prediction import Prediction
from costmodel.pricing import Pricing
from costmodel.shape_ops import row_sides, shape_op
from costmodel.sums import sum_predictions

Array = NDArray[np.float64]

FEATURES = ("ranks", "nodes")
# vLLM's custom all-reduce hands larger messages to NCCL.
CUSTOM_ALL_REDUCE = "vllm.custom_all_reduce"
CUSTOM_LIMIT_BYTES = 8 * 2**20


def rows_of(columns: Mapping[str, NDArray[np.generic]], cluster: ClusterSpec) -> MeasuredRows:
    """Turn collective rows on levels of ``cluster`` into knots' input; other rows are left out by ``usable``."""
    keep = usable(columns, cluster)
    columns = {name: column[keep] for name, column in columns.items()}
    kind, level = texts(columns, "kind"), texts(columns, "level")
    ranks, nodes, message = (numbers(columns, name) for name in ("ranks", "nodes", "message_bytes"))
    shape = np.column_stack([ranks, nodes])
    label = joined(kind, level)
    link = cluster.device.analytic.link_efficiency.value
    return measured_rows(
        "collective",
        FEATURES,
        columns,
        label=label,
        shape=shape,
        x=message,
        y=None,
        sides=row_sides("collective", label, shape, message, message, cluster=cluster),
        efficiency=dict.fromkeys(np.unique(label).tolist(), (1.0, link)),
    )


def usable(columns: Mapping[str, NDArray[np.generic]], cluster: ClusterSpec) -> NDArray[np.bool_]:
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
    is_custom = texts(columns, "backend") == CUSTOM_ALL_REDUCE
    group = joined(kind, level, ranks.astype(np.str_))
    has_custom = np.isin(group, np.unique(group[is_custom]))
    has_other = np.isin(group, np.unique(group[~is_custom]))
    is_small = message <= CUSTOM_LIMIT_BYTES
    off_path = (is_custom & has_other & ~is_small) | (~is_custom & has_custom & is_small)
    return np.asarray(fits & ~off_path)


class CollectiveForm(Form):
    """Prices collectives; levels that were not measured come from the analytic model."""

    def __init__(self, knots: FamilyKnots, pricing: Pricing) -> None:
        if pricing.links is not None:
            pricing = replace(pricing, cluster=pricing.links.measured)
        super().__init__(knots, pricing)
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
            cluster = self.pricing.cluster
            self._curves[key] = (
                None
                if label is None
                else Curve(
                    self.curve_points(
                        label,
                        (float(ranks), float(nodes)),
                        lambda message: shape_op(
                            "collective", label, (ranks, nodes), message, message, cluster=cluster
                        ),
                    )
                )
            )
        return self._curves[key]


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
