"""The op families there are. A new one is a file beside this one and its line here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, get_args

from costmodel.families.attention import ATTENTION
from costmodel.families.collective import COLLECTIVE
from costmodel.families.custom import CUSTOM
from costmodel.families.elementwise import ELEMENTWISE
from costmodel.families.family import OpFamily, Row, Sizes, op_from, own_rows
from costmodel.families.gemm import GEMM
from costmodel.families.moe import MOE
from costmodel.families.scan import SCAN
from costmodel.ops.op_types import Op

if TYPE_CHECKING:
    from cluster_specs.cluster import ClusterSpec

# By the name of their measurements in ``profiles_db.schema``; a fit keeps this order.
OP_FAMILIES: Final[Mapping[str, OpFamily]] = {
    family.name: family for family in (GEMM, ATTENTION, SCAN, MOE, ELEMENTWISE, CUSTOM, COLLECTIVE)
}


def manifest_rows(op: Op, cluster: ClusterSpec) -> Iterator[Row]:
    """Yield a row of a shape manifest for every point of ``op``."""
    family = OP_FAMILIES.get(op.family)
    return own_rows(op, cluster) if family is None else family.manifest_rows(op, cluster)


def op_of_sizes(family: str, sizes: Sizes) -> Op | None:
    """Build the op of named sizes; None for a family of measurements that are no op (whole steps)."""
    if family in OP_FAMILIES:
        return OP_FAMILIES[family].op_of(sizes, None)
    kinds: dict[str, type[Op]] = {kind.family: kind for kind in get_args(Op)}
    found: Op | None = op_from(kinds[family], sizes) if family in kinds else None
    return found
