"""The op families there are. A new one is a file beside this one and its line here."""

from collections.abc import Mapping
from typing import Final

from costmodel.families.attention import ATTENTION
from costmodel.families.collective import COLLECTIVE
from costmodel.families.elementwise import ELEMENTWISE
from costmodel.families.family import OpFamily
from costmodel.families.gemm import GEMM
from costmodel.families.moe import MOE
from costmodel.ops import Op

# By the name of their measurements in ``profiles_db.schema``; a fit keeps this order.
OP_FAMILIES: Final[Mapping[str, OpFamily]] = {
    family.name: family for family in (GEMM, ATTENTION, MOE, ELEMENTWISE, COLLECTIVE)
}
_BY_OP: Final[Mapping[type[Op], OpFamily]] = {family.op: family for family in OP_FAMILIES.values()}


def family_of(op: Op) -> OpFamily | None:
    """Return the family of an op, None where nobody measures its kind."""
    return _BY_OP.get(type(op))
